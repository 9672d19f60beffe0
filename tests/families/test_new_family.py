"""docs/new_family.md is true: a family in one file, found like that of an installed package."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import factories_run as make
import pytest
from factories_dots import FOLDER, on_path, write_series
from places import REPO, TESTS

from duet.conformance import CHECKS, Case
from duet.conformance.case import NEW, OLD
from duet.errors import ConfigError
from duet.families.table import FAMILIES, families, resolve_family, resolve_roles
from duet.increments.store import load_detector

PAGE = REPO / "docs" / "new_family.md"


@pytest.fixture
def dots() -> Iterator[None]:
    with on_path():
        yield


def test_it_is_registered_here_only() -> None:
    assert "dots" not in families()
    with pytest.raises(ConfigError, match="unknown detector family 'dots'") as caught:
        resolve_family("dots")
    assert "PYTHONPATH" in str(caught.value.remedy)


@pytest.mark.usefixtures("dots")
@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_dots_conform(check: str, tmp_path: Path) -> None:
    CHECKS[check](Case("dots", "dots-tiny", lr=1e-2), tmp_path)


# ---- entry points that cannot be used ---------------------------------------------------------


def offer(folder: Path, name: str, value: str) -> None:
    """Write the metadata of an installed package that offers a family."""
    info = folder / "other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.4\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[duet.families]\n{name} = {value}\n")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        pytest.param("no_such_module:ROW", "does not load: No module named", id="no module"),
        pytest.param("duet.families.table:NONE", "does not load: module", id="no attribute"),
        pytest.param("duet.families.table:FAMILIES", "names a mappingproxy", id="no row"),
    ],
)
def test_a_damaged_offer_is_named(
    value: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(tmp_path, "other", value)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=words) as caught:
        families()
    assert "entry point 'other'" in str(caught.value.where)
    assert resolve_roles("yolo")  # duet's own families still work


@pytest.mark.usefixtures("dots")
def test_a_name_of_duets_own_cannot_be_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(tmp_path, "yolo", "duet_dots:ROW")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert families()["yolo"] == FAMILIES["yolo"]


# ---- two increments, from the command line ----------------------------------------------------


def objects(document: dict[str, Any]) -> list[list[Any]]:
    """Return class, score and box of everything in `predictions.json`."""
    return [
        [found["name"], round(found["score"], 3), *(round(side, 1) for side in found["xyxy"])]
        for image in document["images"]
        for found in image["detections"]
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("dots")
def test_dots_learn_a_series(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    series, out = write_series(tmp_path), tmp_path / "run"
    done = make.duet_here(
        capsys, "run", series, "--strategy", tmp_path / "strategy.yaml", "--out", out, "--jobs", 1,
        "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    # Base, increment, re-fit and the reference of PI, a process each; the data sets share no
    # class, so there is nothing that references of GI could learn.
    assert len(list((out / "lab").iterdir())) == 4
    before, after = (load_detector(out / "models" / "short" / n) for n in ("1-day", "2-night"))
    assert (after.state.family, after.state.head) == ("dots", "rows")
    assert after.state.labels.names == OLD + NEW
    assert after.manifest.licence == resolve_family("dots").licence == "BSD-3-Clause"
    old, kept = before.state.parts[0].tensors, after.state.parts[0].tensors
    assert all(bool((kept[name] == old[name]).all()) for name in old)

    model, photos = out / "models" / "short" / "2-night", tmp_path / "night" / "images" / "val"
    done = make.duet_here(capsys, "export", model, "--to", "onnx", "--json")
    assert done.code == 0, done.err
    assert done.json()["licence"] == "BSD-3-Clause"
    seen = []
    for source in (model, model / "export" / "model.onnx"):
        target = tmp_path / f"seen-{source.suffix}"
        done = make.duet_here(capsys, "predict", source, photos, "--out", target)
        assert done.code == 0, done.err
        seen.append(json.loads((target / "predictions.json").read_text()))
    assert seen[0]["classes"] == seen[1]["classes"]
    assert objects(seen[0]) == objects(seen[1])
    assert objects(seen[0]), "the detector finds nothing"


# ---- the page ---------------------------------------------------------------------------------


def test_every_excerpt_is_in_the_code() -> None:
    files = FOLDER / "duet_dots.py", TESTS / "factories_dots.py", Path(__file__)
    sources = [path.read_text() for path in files]
    found = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(found) >= 6
    for block in found:
        assert any(block in text for text in sources), block


def test_the_page_names_every_method() -> None:
    from duet.families.family import Family
    from duet.families.protocol import RoleRules

    for protocol in (Family, RoleRules):
        for name in vars(protocol):
            if not name.startswith("_"):
                assert f"`{name}`" in PAGE.read_text(), name
    assert all(f"`{name}`" in PAGE.read_text() for name in CHECKS)
