"""Increment and detector folders: what was saved comes back, and anything else is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from factories_increments import BASE, BUFFERS, STAGE, applied, make_increment, make_part, rewrite
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from duet.errors import DataError, DuetError, ModelError
from duet.files import sha256_file
from duet.increments import folders as folders_module
from duet.increments import store
from duet.increments.base import load_start, save_base
from duet.increments.manifest import DetectorManifest, IncrementManifest, Lineage, read_manifest
from duet.increments.state import DetectorState, HeadPart
from duet.increments.store import load_detector, load_increment, save_detector, save_increment
from duet.increments.tensorfile import read_tensors
from duet.merging.trace import MergeTrace
from duet.sealed import sealed, unsealed
from duet.vectors.tensors import fingerprint


def make_state(**changes: Any) -> DetectorState:
    fields: dict[str, Any] = {
        "family": "yolo",
        "architecture": "yolo11n",
        "head": "towers",
        "shared": STAGE,
        "buffers": BUFFERS,
        "parts": (HeadPart(("bird",), {"w": torch.zeros(1, 3)}, "voc"), make_part()),
    }
    return DetectorState(**(fields | changes))


def manifest_of(state: DetectorState) -> DetectorManifest:
    lineage = (Lineage(increment="comic", manifest="3" * 64, merge={"method": "duet"}),)
    return DetectorManifest.for_state(state, lineage=lineage, image_size=160, licence="AGPL-3.0")


def same(a: Any, b: Any) -> bool:
    return set(a) == set(b) and fingerprint(a) == fingerprint(b)


# --- round trips ---------------------------------------------------------------------------------


def test_increment_round_trip_and_move(tmp_path: Path) -> None:
    increment = make_increment()
    saved = save_increment(tmp_path / "new" / "comic", increment)
    shutil.move(tmp_path / "new" / "comic", tmp_path / "moved")
    loaded = load_increment(tmp_path / "moved")
    assert loaded.manifest == saved
    assert loaded.manifest == increment.manifest.model_copy(update={"files": saved.files})
    assert same(applied(loaded.vector, BASE), STAGE)  # bit for bit, through the stored correction
    assert loaded.vector.correction
    assert same(loaded.buffers, BUFFERS)
    assert same(loaded.part.tensors, increment.part.tensors)
    assert (loaded.part.classes, loaded.part.increment) == (("cat", "dog"), "comic")
    assert (loaded.refit, loaded.manifest.refit_on) == (None, None)
    assert loaded.manifest.bn_weight == 450.0
    assert sorted(path.name for path in (tmp_path / "moved").iterdir()) == [
        "increment.safetensors",
        "manifest.json",
    ]
    assert saved.fingerprint() != increment.manifest.fingerprint()  # the hashes of files count
    assert loaded.manifest.fingerprint() == saved.fingerprint()


def test_refit_round_trip(tmp_path: Path) -> None:
    increment = make_increment(refit=make_part(seed=5), refit_on="4" * 64)
    save_increment(tmp_path / "a", increment)
    loaded = load_increment(tmp_path / "a")
    assert loaded.refit is not None
    assert same(loaded.refit.tensors, make_part(seed=5).tensors)
    assert same(loaded.part.tensors, make_part(seed=0).tensors)
    assert loaded.manifest.refit_on == "4" * 64


def test_detector_round_trip(tmp_path: Path) -> None:
    state = make_state()
    saved = save_detector(tmp_path / "d", state, manifest_of(state))
    loaded = load_detector(tmp_path / "d")
    assert loaded.manifest == saved
    assert loaded.state.fingerprint() == state.fingerprint()
    assert loaded.state.labels.names == ("bird", "cat", "dog")
    assert [part.increment for part in loaded.state.parts] == ["voc", "comic"]


def test_views_and_shared_memory_can_be_saved(tmp_path: Path) -> None:
    weight = torch.randn(3, 2)
    tensors = {"w": weight, "again": weight, "view": weight.t(), "scalar": torch.tensor(1.0)}
    part = HeadPart(("cat", "dog"), tensors, "comic")
    save_increment(tmp_path / "a", dataclasses.replace(make_increment(), part=part))
    assert same(load_increment(tmp_path / "a").part.tensors, tensors)


# --- values that contradict each other ------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "match"),
    [
        pytest.param({"classes": ("cat",)}, "head part is of", id="classes"),
        pytest.param({"name": "clipart"}, "head part is of 'comic'", id="name"),
        pytest.param({"base": "5" * 64}, "task vector has base", id="base"),
        pytest.param({"refit_on": "5" * 64}, "go together", id="refit_on without refit"),
    ],
)
def test_contradicting_increments_are_refused(change: dict[str, Any], match: str) -> None:
    with pytest.raises(ModelError, match=match):
        make_increment(**change)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"metrics": {"mAP50": float("nan")}}, id="nan metric"),
        pytest.param({"config": {"x": {1, 2}}}, id="not JSON"),
        pytest.param({"base": "abc"}, id="not a fingerprint"),
        pytest.param({"images": -1}, id="negative images"),
        pytest.param({"kind": "stage"}, id="unknown kind"),
        pytest.param({"extra": 1}, id="unknown key"),
    ],
)
def test_manifest_schema_is_closed(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make_increment(**change)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        pytest.param({"head": "rings"}, ModelError, "unknown head form", id="head form"),
        pytest.param({"parts": ()}, ModelError, "at least one", id="no parts"),
        pytest.param({"parts": (make_part(),) * 2}, ModelError, "occur twice", id="twice"),
        pytest.param(
            {"parts": (make_part(), make_part(increment="x"))}, DataError, "already", id="classes"
        ),
        pytest.param({"shared": {"n": torch.tensor(1)}}, ModelError, "float32", id="counter"),
        pytest.param({"buffers": STAGE}, ModelError, "both shared and buffers", id="roles"),
        pytest.param(
            {"buffers": {"m": torch.ones(1).half()}}, ModelError, "float16 in 'm'", id="half"
        ),
    ],
)
def test_impossible_states_are_refused(
    change: dict[str, Any], error: type[DuetError], match: str
) -> None:
    with pytest.raises(error, match=match):
        make_state(**change)


def test_labels_are_put_together_once_per_state() -> None:
    """They are asked for class by class: a new list each time made that quadratic."""
    state = make_state()
    assert state.labels is state.labels
    other = dataclasses.replace(state, parts=state.parts[:1])
    assert other.labels.names == state.parts[0].classes != state.labels.names


def test_state_fingerprint_sees_tensors_and_meaning() -> None:
    state = make_state()
    moved = STAGE | {"bn.weight": torch.tensor([1.0, 1.0000001])}
    others = [
        make_state(shared=moved),
        make_state(head="rows"),
        make_state(parts=state.parts[::-1]),
        make_state(parts=(state.parts[0],)),
    ]
    assert state.fingerprint() not in {other.fingerprint() for other in others}
    assert state.fingerprint() == make_state().fingerprint()


def test_a_tensor_of_a_file_is_sent_without_the_others(tmp_path: Path) -> None:
    made = {f"t{k}": torch.full((1000 + k,), float(k)) for k in range(20)}
    save_file(made | {"half": torch.ones(3, dtype=torch.bfloat16)}, path := tmp_path / "a")
    tensors, _ = read_tensors(path)
    assert len(pickle.dumps(tensors["t3"])) < 6_000  # a question travels to other machines
    assert len(pickle.dumps(tensors)) < 1.3 * path.stat().st_size
    assert all(torch.equal(pickle.loads(pickle.dumps(tensors))[k], made[k]) for k in made)
    tensors["t3"].zero_()  # in this process alone
    assert torch.equal(read_tensors(path)[0]["t3"], made["t3"])


def test_detector_manifest_of_another_state_is_refused(tmp_path: Path) -> None:
    state = make_state()
    with pytest.raises(ModelError, match="fingerprint"):
        save_detector(tmp_path / "d", make_state(shared=BASE), manifest_of(state))
    assert not (tmp_path / "d").exists()


# --- damaged folders ------------------------------------------------------------------------------


def retensor(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change tensors and update the hash, so that only the content can give it away."""
    path = folder / "increment.safetensors"
    tensors, metadata = read_tensors(path)
    change(tensors)
    save_file(tensors, path, metadata)
    rewrite(folder, lambda data: data["files"].update({path.name: sha256_file(path)}))


def tensors_path(folder: Path) -> Path:
    return folder / "increment.safetensors"


DAMAGES: list[Any] = [
    pytest.param(lambda f: shutil.rmtree(f), "no such file or folder", id="folder missing"),
    pytest.param(lambda f: (f / "manifest.json").unlink(), "no such file", id="manifest missing"),
    pytest.param(lambda f: tensors_path(f).unlink(), "is missing", id="tensors missing"),
    pytest.param(
        lambda f: tensors_path(f).rename(f / "other.safetensors"), "is missing", id="renamed"
    ),
    pytest.param(
        lambda f: rewrite(f, lambda d: d["files"].update({"../../etc/passwd": "0" * 64})),
        "lists the files",
        id="manifest points elsewhere",
    ),
    pytest.param(
        lambda f: (f / "manifest.json").write_text("{"), "not valid JSON", id="manifest cut"
    ),
    pytest.param(
        lambda f: (f / "manifest.json").write_text("[" * 99999), "not valid JSON", id="deep JSON"
    ),
    pytest.param(
        lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe\x00"), "not valid JSON", id="binary"
    ),
    pytest.param(
        lambda f: (f / "manifest.json").write_text("3"), "expected a JSON object", id="number"
    ),
    pytest.param(
        lambda f: rewrite(f, lambda d: d.update(schema_version=3)), "newer duet", id="newer schema"
    ),
    pytest.param(
        lambda f: rewrite(f, lambda d: d.update(schema_version="1.0")), "not valid", id="odd schema"
    ),
    pytest.param(
        lambda f: rewrite(f, lambda d: d.update(imags=3)), "did you mean 'images'", id="unknown key"
    ),
    pytest.param(lambda f: rewrite(f, lambda d: d.pop("seed")), "seed: missing", id="key missing"),
    pytest.param(
        lambda f: rewrite(f, lambda d: d.update(classes=["cat", "cow"])),
        "not the one that they were saved with",
        id="classes edited",
    ),
    pytest.param(
        lambda f: rewrite(f, lambda d: d.update(classes=["cat", "cat"])),
        "not the one",
        id="class twice",
    ),
    pytest.param(
        lambda f: rewrite(f, lambda d: d.update(refit_on="0" * 64)), "not the one", id="refit_on"
    ),
    pytest.param(
        lambda f: retensor(f, lambda x: x["part/cls.weight"].fill_(float("nan"))),
        r"part/cls\.weight: 6 of 6",
        id="NaN",
    ),
    pytest.param(
        lambda f: retensor(f, lambda x: x.pop("correction/conv.weight.values")),
        "half of the correction",
        id="half a correction",
    ),
    pytest.param(
        lambda f: retensor(f, lambda x: x["correction/conv.weight.indices"].fill_(99)),
        "outside the vector",
        id="correction outside",
    ),
    pytest.param(
        lambda f: retensor(f, lambda x: x.update(weights=torch.ones(1))),
        "unknown tensor 'weights'",
        id="foreign tensor",
    ),
    pytest.param(
        lambda f: retensor(f, lambda x: [x.pop("part/cls.weight"), x.pop("part/n")]),
        "a head part needs tensors",
        id="no part",
    ),
    pytest.param(
        lambda f: retensor(
            f, lambda x: x.update({"vector/bn.weight": x["vector/bn.weight"].half()})
        ),
        "expected float32",
        id="half vector",
    ),
]


EDITS: dict[str, Any] = {
    "bn_weight": 1e9, "images": 10**9, "config": {"method": {"merge": {"method": "average"}}},
    "parent": "0" * 64, "index": 7, "kind": "independent", "seed": 5, "versions": {"torch": "1"},
    "data": "0" * 64, "domain": "night", "licence": "MIT", "metrics": {"map50": 0.99},
    "name": "other", "base": "0" * 64, "architecture": "yolo11s.yaml", "family": "rtdetr",
    "head": "parallel", "classes": ["cow", "horse"], "fisher_images": 3, "refit_on": "0" * 64,
    "scores": {"cat": {"scale": 0.5}}, "rescored": {"dog": {"offset": 1.0}},
    "colours": {"mean": [1, 2, 3], "spread": [1, 2, 3]},
}  # fmt: skip


def test_every_field_of_an_increment_manifest_is_covered(tmp_path: Path) -> None:
    untried = {"format", "schema_version", "files", "adapts"}  # other tests try them
    assert set(EDITS) == set(IncrementManifest.model_fields) - untried
    folder = tmp_path / "comic"
    save_increment(folder, make_increment())
    written = (folder / "manifest.json").read_bytes()
    for field, value in EDITS.items():
        plain = json.loads(written)
        assert plain.get(field) != value
        (folder / "manifest.json").write_text(json.dumps({**plain, field: value}))
        with pytest.raises(ModelError, match="edited or damaged") as caught:
            read_manifest(folder, IncrementManifest)  # also where no tensor is read
        assert "manifest.json" in str(caught.value.where)
        resealed = sealed({**unsealed(plain), field: value})
        (folder / "manifest.json").write_text(json.dumps(resealed))
        with pytest.raises(ModelError) as caught:
            load_increment(folder)
        assert str(folder) in str(caught.value)
    (folder / "manifest.json").write_bytes(written)
    load_increment(folder)


def test_an_edited_detector_manifest_is_refused(tmp_path: Path) -> None:
    state, folder = make_state(), tmp_path / "d"
    save_detector(folder, state, manifest_of(state))
    plain = json.loads((folder / "manifest.json").read_text())
    for field, value in {"image_size": 96, "recipe": {"method": "average"}, "lineage": []}.items():
        (folder / "manifest.json").write_text(json.dumps({**plain, field: value}))
        with pytest.raises(ModelError, match="edited or damaged"):
            load_detector(folder)
    (folder / "manifest.json").write_text(json.dumps({**plain, "sha256": None}))
    with pytest.raises(ModelError, match="edited or damaged"):
        load_detector(folder)


@pytest.mark.parametrize(("damage", "match"), DAMAGES)
def test_damaged_increments_are_refused(
    tmp_path: Path, damage: Callable[[Path], object], match: str
) -> None:
    folder = tmp_path / "comic"
    save_increment(folder, make_increment())
    damage(folder)
    with pytest.raises(ModelError, match=match) as caught:
        load_increment(folder)
    assert str(folder) in str(caught.value)
    assert caught.value.remedy or "expected a JSON object" in match


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_truncated_or_flipped_tensor_files_are_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damage") / "comic"
    save_increment(folder, make_increment())
    path = tensors_path(folder)
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:position]
    else:
        content[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with pytest.raises(ModelError, match="changed since it was written"):
        load_increment(folder)


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_tensor_files_with_a_matching_hash_never_crash(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damage") / "comic"
    save_increment(folder, make_increment())
    path = tensors_path(folder)
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    rewrite(folder, lambda d: d["files"].update({path.name: sha256_file(path)}))
    # A flip may also give valid other numbers; any other exception is a bug.
    with contextlib.suppress(ModelError):
        load_increment(folder)


def test_wrong_kind_of_folder_is_named(tmp_path: Path) -> None:
    state = make_state()
    save_detector(tmp_path / "d", state, manifest_of(state))
    save_increment(tmp_path / "i", make_increment())
    with pytest.raises(ModelError, match="this is a detector folder"):
        load_increment(tmp_path / "d")
    with pytest.raises(ModelError, match="this is an increment folder"):
        load_detector(tmp_path / "i")
    (tmp_path / "manifest.json").write_text('{"name": "package"}')
    with pytest.raises(ModelError, match="not a folder that duet wrote"):
        load_detector(tmp_path)
    with pytest.raises(ModelError, match="this is a file"):
        load_detector(tmp_path / "manifest.json")  # a file, not a folder


def test_detector_with_edited_meaning_is_refused(tmp_path: Path) -> None:
    state = make_state()
    save_detector(tmp_path / "d", state, manifest_of(state))
    rewrite(tmp_path / "d", lambda d: d["parts"][1].update(classes=["dog", "cat"]))
    with pytest.raises(ModelError, match="fingerprint"):
        load_detector(tmp_path / "d")


def test_nan_is_not_saved(tmp_path: Path) -> None:
    part = HeadPart(("cat", "dog"), {"w": torch.tensor([float("nan")])}, "comic")
    with pytest.raises(ModelError, match="part/w: 1 of 1"):
        save_increment(tmp_path / "a", dataclasses.replace(make_increment(), part=part))
    assert list(tmp_path.iterdir()) == []


# --- writing --------------------------------------------------------------------------------------


def test_existing_folder_needs_overwrite(tmp_path: Path) -> None:
    folder = tmp_path / "comic"
    save_increment(folder, make_increment())
    with pytest.raises(DuetError, match="already exists"):
        save_increment(folder, make_increment(seed=9))
    assert load_increment(folder).manifest.seed == 3
    save_increment(folder, make_increment(seed=9), overwrite=True)
    assert load_increment(folder).manifest.seed == 9
    assert [path.name for path in tmp_path.iterdir()] == ["comic"]


def test_overwrite_never_deletes_other_peoples_folders(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("x")
    with pytest.raises(DuetError, match="not a folder that duet wrote"):
        save_increment(tmp_path / "photos", make_increment(), overwrite=True)
    assert (tmp_path / "photos" / "cat.jpg").exists()


def test_a_detector_never_replaces_an_increment_nor_the_reverse(tmp_path: Path) -> None:
    state = make_state()
    save_increment(tmp_path / "i", make_increment())
    save_detector(tmp_path / "d", state, manifest_of(state))
    with pytest.raises(DuetError, match="this is an increment folder"):
        save_detector(tmp_path / "i", state, manifest_of(state), overwrite=True)
    with pytest.raises(DuetError, match="this is a detector folder"):
        save_increment(tmp_path / "d", make_increment(), overwrite=True)
    assert load_increment(tmp_path / "i").manifest.name == "comic"
    assert load_detector(tmp_path / "d").state.labels.names == ("bird", "cat", "dog")


def test_overwrite_works_without_the_exchange_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders_module, "_exchange", lambda _a, _b: False)
    save_increment(tmp_path / "a", make_increment())
    save_increment(tmp_path / "a", make_increment(seed=9), overwrite=True)
    assert load_increment(tmp_path / "a").manifest.seed == 9
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def mine(folder: Path) -> dict[str, str]:
    """Save an increment, put a user's files beside it, and return them."""
    save_increment(folder, make_increment())
    (folder / "export" / "deep").mkdir(parents=True)
    files = {"notes.txt": "mine", "export/model.onnx": "x", "export/deep/a b.bin": "y"}
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "link").symlink_to("notes.txt")
    return files


def still_mine(folder: Path, files: dict[str, str]) -> bool:
    return {name: (folder / name).read_text() for name in files} == files and (
        folder / "link"
    ).is_symlink()


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "none"])
def test_files_of_the_user_stay_in_a_folder_that_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    folder = tmp_path / "a"
    files = mine(folder)
    (folder / "export").chmod(0o555)  # moving it would fail
    if not links:

        def refuse(*_: Any, **__: Any) -> None:
            raise OSError(errno.EPERM, "no such thing here")

        monkeypatch.setattr(os, "link", refuse)
    save_increment(folder, make_increment(seed=9), overwrite=True)
    assert load_increment(folder).manifest.seed == 9
    assert still_mine(folder, files)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_around_the_exchange_loses_no_file_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    folder = tmp_path / "a"
    files = mine(folder)
    real = folders_module._swap

    def struck(fresh: Path, target: Path) -> Path:
        if moment == "after":
            real(fresh, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(folders_module, "_swap", struck)
    with pytest.raises(KeyboardInterrupt):
        save_increment(folder, make_increment(seed=9), overwrite=True)
    assert load_increment(folder).manifest.seed == (9 if moment == "after" else 3)
    assert still_mine(folder, files)


def test_a_file_of_the_user_is_not_replaced_by_one_of_its_name(tmp_path: Path) -> None:
    state = make_state()
    save_detector(tmp_path / "d", state, manifest_of(state))
    (tmp_path / "d" / "trace.json").write_text("mine")
    with pytest.raises(DuetError, match=r"'trace.json' is not of duet's making"):
        save_detector(
            tmp_path / "d",
            state,
            manifest_of(state),
            overwrite=True,
            traces=(MergeTrace("newest", {}, {}, {}),),
        )
    assert (tmp_path / "d" / "trace.json").read_text() == "mine"


def test_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    save_increment(tmp_path / "a", make_increment(), overwrite=True)
    assert load_increment(tmp_path / "a").manifest.name == "comic"


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_full_disk_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, overwrite: bool, at: int
) -> None:
    folder = tmp_path / "comic"
    if overwrite:
        save_increment(folder, make_increment())
    before = sorted(path.name for path in tmp_path.rglob("*"))
    real, calls = getattr(os, call), 0

    def full(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **options)

    monkeypatch.setattr(os, call, full)
    if call == "fsync" and at == 3:
        save_increment(folder, make_increment(seed=9), overwrite=overwrite)  # only two files
        return
    with pytest.raises(DuetError, match="No space left") as caught:
        save_increment(folder, make_increment(seed=9), overwrite=overwrite)
    assert caught.value.where == str(folder)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    if overwrite:
        assert load_increment(folder).manifest.seed == 3


def test_a_full_disk_is_noticed_before_the_file_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DuetError, match="No space left"):
        save_increment(tmp_path / "comic", make_increment())
    assert list(tmp_path.iterdir()) == []


# --- base weights ---------------------------------------------------------------------------------


def test_base_upcast_is_theta_0(tmp_path: Path) -> None:
    path = tmp_path / "toy.safetensors"
    tensors = {"w": torch.tensor([0.1, 1e-9, -65504.0]), "n": torch.tensor(4)}
    theta_0 = save_base(path, tensors, info={"licence": "AGPL-3.0"})
    loaded = load_start(path).tensors
    assert same(loaded, theta_0)
    assert loaded["w"].dtype == torch.float32
    assert loaded["w"].tolist() == [0.0999755859375, 0.0, -65504.0]  # float16 of 0.1, upcast
    assert loaded["n"].dtype == torch.int64
    assert load_file(path)["w"].dtype == torch.float16
    assert json.loads((tmp_path / "toy.json").read_text())["licence"] == "AGPL-3.0"
    save_base(path, {"w": torch.ones(2)})  # maintainers may write it again
    assert load_start(path).tensors["w"].tolist() == [1.0, 1.0]


def test_base_without_sidecar_loads(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors")
    assert load_start(tmp_path / "a.safetensors").tensors["w"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        pytest.param(lambda p: p.unlink(), "the file is missing", id="missing"),
        pytest.param(lambda p: p.write_bytes(p.read_bytes()[:-1]), "content changed", id="cut"),
        pytest.param(
            lambda p: p.with_suffix(".json").write_text("{}"), "sha256: missing", id="side"
        ),
        pytest.param(lambda p: p.with_suffix(".json").write_text("[]"), "a JSON object", id="list"),
    ],
)
def test_damaged_base_is_refused(
    tmp_path: Path, damage: Callable[[Path], object], match: str
) -> None:
    path = tmp_path / "toy.safetensors"
    save_base(path, {"w": torch.ones(2)})
    damage(path)
    with pytest.raises(ModelError, match=match):
        load_start(path)


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        pytest.param({"w": torch.tensor([7e4])}, "above 65504", id="too large"),
        pytest.param({"w": torch.tensor([float("inf")])}, "NaN or infinite", id="inf"),
    ],
)
def test_base_refuses_what_half_precision_cannot_hold(
    tmp_path: Path, tensors: dict[str, torch.Tensor], match: str
) -> None:
    with pytest.raises(ModelError, match=match):
        save_base(tmp_path / "a.safetensors", tensors)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_base_of_other_floats_is_read_exactly(dtype: torch.dtype, tmp_path: Path) -> None:
    numbers = torch.tensor([1.0, 2.0**-30, -65280.0, 3e38]).to(dtype)
    save_file({"w": numbers}, tmp_path / "a.safetensors")
    loaded = load_start(tmp_path / "a.safetensors").tensors["w"]
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded, numbers.float())


WRAPPED = {
    "DataParallel": lambda tensors: {f"module.{k}": v for k, v in tensors.items()},
    "YOLO": lambda tensors: {f"model.{k}": v for k, v in tensors.items()},
    "both": lambda tensors: {f"module.model.{k}": v for k, v in tensors.items()},
    "thop": lambda tensors: {
        **tensors, "total_ops": torch.zeros(1).double(), "model.0.bn.total_params": torch.ones(1),
    },
}  # fmt: skip


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_base_has_the_names_of_the_detector(wrap: Callable[..., Any], tmp_path: Path) -> None:
    tensors = {
        "model.0.conv.weight": torch.ones(2),
        "model.0.bn.num_batches_tracked": torch.tensor(4),
    }
    save_file(wrap(tensors), tmp_path / "a.safetensors")
    assert same(load_start(tmp_path / "a.safetensors").tensors, tensors)


def test_names_that_only_some_tensors_have_stay(tmp_path: Path) -> None:
    tensors = {
        "model.model.a": torch.ones(2),
        "model.head": torch.ones(1),
        "module.b": torch.ones(1),
    }
    save_file(tensors, tmp_path / "a.safetensors")
    assert same(load_start(tmp_path / "a.safetensors").tensors, tensors)


@pytest.mark.parametrize(
    ("tensor", "match"),
    [
        (torch.tensor([1 / 3, 0.5, 1e300], dtype=torch.float64), "2 of 3 float64 numbers in 'w'"),
        (torch.ones(2, dtype=torch.int32), r"expected floating numbers, got torch\.int32 in 'w'"),
    ],
)
def test_base_of_another_type_is_refused(tensor: torch.Tensor, match: str, tmp_path: Path) -> None:
    save_file({"w": tensor}, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match=match) as caught:
        load_start(tmp_path / "a.safetensors")
    assert str(tmp_path / "a.safetensors") in str(caught.value)
    (tmp_path / "b.pt").write_bytes(b"")
    with pytest.raises(ModelError, match=r"expected a \.safetensors"):
        load_start(tmp_path / "b.pt")


def test_store_names_its_files() -> None:
    assert (store.INCREMENT, store.MODEL) == ("increment.safetensors", "model.safetensors")
