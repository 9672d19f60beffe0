"""Score maps are kept wherever a detector is kept, and a detector without any is as it was."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from factories_increments import BUFFERS, STAGE, make_increment, make_part, rewrite
from factories_states import scored
from pydantic import ValidationError

from duet.errors import ModelError
from duet.families.exportable import Exportable, ExportFacts
from duet.files import sha256_json
from duet.increments.colours import Colours
from duet.increments.manifest import DetectorManifest, IncrementManifest, PartEntry, read_manifest
from duet.increments.scores import ScoreMap, applied, thresholds
from duet.increments.state import DetectorState, HeadPart
from duet.increments.store import load_detector, load_increment, save_detector, save_increment
from duet.training.job import read_state, write_state

MAPS = {
    "bird": ScoreMap(threshold=0.35),
    "dog": ScoreMap(scale=0.8, offset=-0.25, threshold=0.5),
}


def plain_state() -> DetectorState:
    bird = HeadPart(("bird",), {"w": torch.zeros(1, 3)}, "voc")
    return DetectorState("yolo", "yolo11n", "towers", STAGE, BUFFERS, (bird, make_part()))


def manifest_of(state: DetectorState) -> DetectorManifest:
    return DetectorManifest.for_state(state, lineage=(), image_size=160, licence="AGPL-3.0")


def facts_of(state: DetectorState) -> ExportFacts:
    network = Exportable(lambda: torch.nn.Identity(), "anchors", "letterbox")
    return ExportFacts.of(state, network, image_size=160, licence="AGPL-3.0")


# ---- without score maps nothing changed ---------------------------------------------------------


def test_hashes_without_score_maps_are_those_of_before() -> None:
    """As duet computed them before there were score maps: folders and caches go by them."""
    state = plain_state()
    state = replace(state, parts=state.parts[:1])  # constants: the same on every machine
    assert state.fingerprint() == "690df2b9a0cf428fdf2debfd0f92b881fb974a8e5062054f64f57718df5aafb1"
    manifest = make_increment(versions={"torch": "2"}).manifest
    assert manifest.identity() == "dd38dd96e203029abd58c5f2749f48ea816a5b5c54658c0a58e23986a328b7cc"
    assert (
        manifest.fingerprint() == "ced8a1e12764b5accccca755d8c7fb2b65c05c5c6dfe10fad7fa3405c82b1c96"
    )
    facts = sha256_json(facts_of(state).model_dump(mode="json"))
    assert facts == "1c8d3cb2f274e568a35f0ef0c2fa65a939a1c89e9916b4c000758622db12cb59"


def test_what_has_no_score_maps_does_not_speak_of_them(tmp_path: Path) -> None:
    state = plain_state()
    save_detector(tmp_path / "d", state, manifest_of(state))
    save_increment(tmp_path / "i", make_increment())
    for folder in ("d", "i"):
        written = (tmp_path / folder / "manifest.json").read_text()
        assert "scores" not in written
        assert json.loads(written)["schema_version"] == 1
    assert "scores" not in facts_of(state).to_json()
    assert facts_of(state).schema_version == 2
    assert state.uncalibrated() is state


# ---- with score maps ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"scale": 0.0}, {"scale": -1.0}, {"scale": float("inf")}, {"offset": float("nan")},
        {"threshold": 0.0}, {"threshold": 1.0}, {"slope": 2.0},
    ],
)  # fmt: skip
def test_a_map_that_is_none_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        ScoreMap(**fields)


def test_what_a_map_says_of_itself() -> None:
    assert ScoreMap().identity
    assert ScoreMap(threshold=0.5).identity
    assert not ScoreMap(offset=0.1).identity
    assert not ScoreMap(scale=2).identity
    maps = {**MAPS, "cat": ScoreMap(scale=2)}
    assert thresholds(maps) == {"bird": 0.35, "dog": 0.5}
    assert applied(maps) == {"bird": MAPS["bird"], "dog": ScoreMap(threshold=0.5)}


@pytest.mark.parametrize(
    "make",
    [
        lambda maps: replace(make_part(), scores=maps),
        lambda maps: PartEntry(increment="comic", classes=("cat", "dog"), scores=maps),
        lambda maps: make_increment(scores=maps),
    ],
    ids=["head part", "entry of a detector", "increment"],
)
def test_maps_of_strange_classes_are_refused(make: Callable[[Any], Any]) -> None:
    with pytest.raises((ModelError, ValidationError), match=r"score maps of classes .*bird"):
        make(MAPS)


def test_a_fingerprint_tells_score_maps_apart() -> None:
    plain, state = plain_state(), scored(plain_state(), MAPS)
    other = scored(plain, {**MAPS, "bird": ScoreMap(threshold=0.36)})
    assert len({one.fingerprint() for one in (plain, state, other)}) == 3
    assert state.uncalibrated().fingerprint() == plain.fingerprint()
    assert state.scores == MAPS


COLOURS = Colours(mean=(10.0, 20.0, 30.0), spread=(1.0, 2.0, 3.0))


def test_a_detector_folder_keeps_them(tmp_path: Path) -> None:
    state = scored(plain_state(), MAPS)
    saved = save_detector(tmp_path / "d", state, manifest_of(state))
    loaded = load_detector(tmp_path / "d")
    assert loaded.state.scores == MAPS
    assert [dict(part.scores) for part in loaded.state.parts] == [
        {"bird": MAPS["bird"]}, {"dog": MAPS["dog"]},
    ]  # fmt: skip
    assert loaded.state.fingerprint() == state.fingerprint()
    assert (loaded.manifest, loaded.manifest.schema_version) == (saved, 2)
    rewrite(tmp_path / "d", lambda data: data["parts"][0]["scores"]["bird"].update(threshold=0.1))
    with pytest.raises(ModelError, match=r"do not fit together.*fingerprint"):
        load_detector(tmp_path / "d")


def test_an_increment_folder_keeps_its_own(tmp_path: Path) -> None:
    maps = {"dog": MAPS["dog"]}
    plain = make_increment(refit_on="4" * 64, refit=make_part(5))
    increment = plain.with_scores(MAPS)  # it has no bird
    assert increment.with_scores({}).manifest == plain.manifest
    assert increment.manifest.schema_version == 2
    save_increment(tmp_path / "i", increment)
    loaded = load_increment(tmp_path / "i")
    assert loaded.part is not None
    assert loaded.refit is not None
    assert loaded.part.scores == loaded.refit.scores == loaded.manifest.scores == maps
    rewrite(tmp_path / "i", lambda data: data["scores"]["dog"].update(scale=0.9))
    with pytest.raises(ModelError, match="not the one that they were saved with"):
        load_increment(tmp_path / "i")


def test_an_increment_and_its_parts_say_the_same() -> None:
    for other in ({"scores": {"dog": MAPS["dog"]}}, {"colours": COLOURS}):
        with pytest.raises(ModelError, match="other score maps or colours than its manifest"):
            replace(make_increment(), part=replace(make_part(), **other))


@pytest.mark.parametrize(
    "wrong", [{"mean": (1, 2, 256)}, {"spread": (1, -2, 3)}, {"mean": (1, float("nan"), 3)}]
)
def test_a_stranger_s_colours_are_those_of_images(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"mean|spread"):
        Colours(**{"mean": (1, 2, 3), "spread": (1, 2, 3), **wrong})


def test_folders_and_jobs_keep_colours(tmp_path: Path) -> None:
    plain = plain_state()
    state = replace(plain, parts=(replace(plain.parts[0], colours=COLOURS), *plain.parts[1:]))
    assert state.fingerprint() == plain.fingerprint()  # they change nothing that it finds
    save_detector(tmp_path / "d", state, manifest_of(state))
    write_state(tmp_path / "state.safetensors", state)
    for again in (load_detector(tmp_path / "d").state, read_state(tmp_path / "state.safetensors")):
        assert [part.colours for part in again.parts] == [COLOURS, None]
    save_increment(tmp_path / "i", make_increment().with_scores({}, COLOURS))
    loaded = load_increment(tmp_path / "i")
    assert loaded.part is not None
    assert (loaded.part.colours, loaded.manifest.schema_version) == (COLOURS, 2)


def test_a_state_of_a_job_keeps_them(tmp_path: Path) -> None:
    state = scored(plain_state(), MAPS)
    write_state(tmp_path / "state.safetensors", state)
    again = read_state(tmp_path / "state.safetensors")
    assert again.scores == MAPS
    assert again.fingerprint() == state.fingerprint()


def test_exported_files_say_them() -> None:
    facts = facts_of(scored(plain_state(), MAPS))
    assert ExportFacts.from_json(facts.to_json(), "model.onnx") == facts
    assert facts.schema_version == 3  # older ones say that they cannot read it, and why
    assert [entry.scores for entry in facts.increments] == [
        {"bird": MAPS["bird"]}, {"dog": MAPS["dog"]},
    ]  # fmt: skip


def test_an_older_duet_says_why_it_cannot_read_them(tmp_path: Path) -> None:
    """It knows no schema version above its own: so must this one, for those to come."""
    state = scored(plain_state(), MAPS)
    save_detector(tmp_path / "d", state, manifest_of(state))
    rewrite(tmp_path / "d", lambda data: data.update(schema_version=3))
    with pytest.raises(ModelError, match="newer duet: schema version 3, this one reads 2"):
        read_manifest(tmp_path / "d", DetectorManifest)
    assert IncrementManifest.model_fields["schema_version"].default == 1


@pytest.mark.parametrize("at", [0.1, 0.4, 0.8])
def test_a_score_that_a_later_map_keeps_falls_without_it(at: float) -> None:
    before = ScoreMap(scale=2.0, offset=0.3, threshold=at)
    later = ScoreMap(scale=1.5, offset=1.1, threshold=at)
    odds = math.log(at / (1 - at))
    # The raw score that the later map lifts to the threshold lies lower than the earlier map asks.
    raw = (odds - later.offset) / later.scale
    fallen = before.scale * raw + before.offset
    assert before.scale * ((odds + before.fall(later, at) - later.offset) / later.scale) + (
        before.offset
    ) == pytest.approx(odds)
    assert fallen < odds
    assert ScoreMap(offset=0.3).fall(ScoreMap(offset=1.1), at) == pytest.approx(0.8)
