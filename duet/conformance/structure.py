"""Checks of what belongs to whom: tensors, class rows, files, merges. Nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from duet.conformance.case import NEW, OLD, Case, scene
from duet.families.rows import drop_classes, rename_classes
from duet.families.table import families, family_of
from duet.increments.scores import ScoreMap, chosen

if TYPE_CHECKING:
    import numpy as np
    import torch

    from duet.increments.state import DetectorState
    from duet.vectors.tensors import Tensors


def check_row(case: Case, folder: Path) -> None:
    """The table's row and the family agree, and the architecture is told by its name."""
    row = families()[case.family]
    assert case.engine.name == case.family, f"`name` is {case.engine.name}, not {case.family}"
    assert case.engine.licence == row.licence, "the licence is not the row's"
    assert family_of(case.architecture) == case.family, f"{case.architecture} is another family's"
    # Bases and references are trained once for all strategies, as rows.
    assert row.heads.get("rows") == "rows", "every family needs the head form `rows`"


def check_split(case: Case, folder: Path) -> None:
    """Every parameter and buffer has one role, in every head form, and `whole` joins them again."""
    fresh = case.engine.fresh(case.architecture, OLD, seed=0)
    for form in case.forms:
        roles = case.rules.split_roles(fresh.tensors, form)
        assert not roles.shared.keys() & roles.buffers.keys(), f"{form}: a tensor has two roles"
        assert all(t.is_floating_point() for t in roles.shared.values()), form
        layers = case.rules.layers(roles.shared, case.architecture)
        assert layers.keys() == roles.shared.keys(), f"{form}: a shared tensor has no layer"
        state = case.engine.start_state(
            fresh, architecture=case.architecture, head=form, classes=OLD, increment="first", seed=1
        )
        assert same(state.shared, roles.shared), f"{form}: `start_state` shares other tensors"
        assert state.parts[0].tensors.keys() == roles.own.keys(), f"{form}: other own tensors"
        assert same(case.engine.whole(state), fresh.tensors), f"{form}: split and `whole` differ"
        numbers = sum(t.numel() for part in (roles.shared, roles.buffers, roles.own)
                      for t in part.values())  # fmt: skip
        limit = sum(t.numel() for t in fresh.tensors.values())
        assert numbers <= limit, f"{form}: a tensor has two roles"


def check_class_tensors(case: Case, folder: Path) -> None:
    """The class rows are exactly the tensors whose shape follows the class count."""
    engine = case.engine
    small = engine.fresh(case.architecture, OLD, seed=0).tensors
    large = engine.fresh(case.architecture, OLD + NEW, seed=0).tensors
    assert small.keys() == large.keys()
    grown = {name for name in small if small[name].shape != large[name].shape}
    for name in grown:
        one, other = small[name].shape, large[name].shape
        assert other[0] - one[0] == len(NEW), f"{name} {one} {other}: classes are not its rows"
        assert one[1:] == other[1:], f"{name} {one} {other}: more than the rows changed"
    own = case.rules.split_roles(small, "rows").own
    for name, rows in own.items():
        assert rows.shape[0] == len(OLD), f"{name}: {rows.shape[0]} rows for {len(OLD)} classes"
    owners = {name for name in small for local in own if f".{name}".endswith(f".{local}")}
    assert owners == grown, f"own tensors of `rows` are not the class rows: {owners ^ grown}"


def check_start_by_name(case: Case, folder: Path) -> None:
    """Classes that the start weights know by name keep their rows; others start fresh."""
    start = case.engine.fresh(case.architecture, OLD, seed=0)
    before = case.rules.split_roles(start.tensors, "rows").own
    state = case.engine.start_state(
        start, architecture=case.architecture, head="rows", classes=("Blue", "violet"),
        increment="first", seed=9,
    )  # fmt: skip
    for name, rows in state.parts[0].tensors.items():
        assert same_bits(rows[0], before[name][OLD.index("blue")]), f"{name}: 'Blue' lost its row"
    assert any(
        not same_bits(rows[1], before[name][row])
        for name, rows in state.parts[0].tensors.items()
        for row in range(len(OLD))
    ), "an unknown class took over a row"


def check_rows_survive(case: Case, folder: Path) -> None:
    """Growing, reordering, dropping and renaming classes leaves every other class as it was."""
    for form in case.forms:
        first, both = case.start(form), case.grown(form)
        assert same(first.shared, both.shared), f"{form}: growing changed shared tensors"
        assert same(first.parts[0].tensors, both.parts[0].tensors), f"{form}: growing moved a part"
        swapped = replace(both, parts=both.parts[::-1])
        # Logits of one class at the places of the network, whichever position the class has.
        close(by_class(case, swapped), by_class(case, both), f"{form}: other order of increments")
        kept = drop_classes(case.rules, both.parts[0], ["green"])
        assert kept is not None
        assert kept.classes == ("red", "blue")
        rows = case.rules.split_roles(case.engine.whole(case.start("rows")), "rows").own
        for name, tensor in both.parts[0].tensors.items():
            expected = tensor[[0, 2]] if name in rows else tensor
            assert same_bits(kept.tensors[name], expected), f"{form}: dropping changed {name}"
        dropped = by_class(case, replace(both, parts=(kept, both.parts[1])))
        assert tuple(dropped) == ("red", "blue", *NEW), f"{form}: a dropped class is still there"
        assert drop_classes(case.rules, both.parts[1], NEW) is None
        renamed = rename_classes(both.parts[1], {"pink": "rose"})
        assert renamed.classes == ("yellow", "rose")
        assert same(renamed.tensors, both.parts[1].tensors), f"{form}: renaming moved tensors"


def check_scores(case: Case, folder: Path) -> None:
    """Score maps give the scores that they say, to who looks; they change no logit that learns."""
    import numpy as np

    for form in case.forms:
        state = case.grown(form)
        raw = scores_by_class(case, state)
        most = [max(part.classes, key=lambda name: len(raw[name])) for part in state.parts]
        # Some networks give their best answers alone, and an increment may have none of these.
        maps = {n: raised(raw[n], a) for n, a in zip(most, (0.5, 1.5), strict=True) if len(raw[n])}
        parts = tuple(replace(part, scores=chosen(maps, part.classes)) for part in state.parts)
        mapped = replace(state, parts=parts)
        seen = scores_by_class(case, mapped)
        for name, scores in raw.items():
            count = min(len(scores), len(seen[name]))
            assert count or name not in maps, f"{form}: nothing is found of {name}"
            one = maps.get(name, ScoreMap())
            expected = 1 / (1 + np.exp(-one.scale * logits(scores) - one.offset))
            off = np.abs(seen[name][:count] - expected[:count]).max(initial=0.0)
            assert off < 1e-5, f"{form}: scores of {name} are off by {off:.1e}"
        learned = by_class(case, mapped)
        for name, rows in by_class(case, state).items():
            assert same_bits(learned[name], rows), f"{form}: score maps change `class_logits`"


def check_stored(case: Case, folder: Path) -> None:
    """A detector folder gives back the same bits and finds the same objects."""
    from duet.increments.store import load_detector

    wide = [scene(OLD[0], case.image_size, seed=1)[0][: case.image_size // 2]]
    for form in case.forms:
        state = case.grown(form)
        case.keep(state, folder / form)
        loaded = load_detector(folder / form).state
        assert same(loaded.to_tensors(), state.to_tensors()), form
        assert loaded.fingerprint() == state.fingerprint(), form
        seen = [
            case.engine.detector(one, image_size=case.image_size)(wide, confidence=0.0)[0]
            for one in (state, loaded)
        ]
        assert len(seen[0]), f"{form}: nothing found, even at confidence 0"
        assert (seen[0].xyxy == seen[1].xyxy).all(), form
        assert (seen[0].scores == seen[1].scores).all(), form
        assert seen[0].names == seen[1].names, form
        height, width = wide[0].shape[:2]
        limits = [width, height, width, height]
        assert ((seen[0].xyxy >= 0) & (seen[0].xyxy <= limits)).all(), f"{form}: boxes outside"
        assert (seen[0].scores[:-1] >= seen[0].scores[1:]).all(), f"{form}: not best first"


def check_merge(case: Case, folder: Path) -> None:
    """DuET's merge with alpha 1 is the old detector, with alpha 0 the new one, to the bit."""
    import torch

    from duet.merging.inputs import Inputs
    from duet.merging.operand import Operand
    from duet.merging.shared import merge_shared

    generator = torch.Generator().manual_seed(7)
    for form in case.forms:
        state = case.start(form)
        old = state.shared
        new = {n: t + 0.01 * torch.randn(t.shape, generator=generator) for n, t in old.items()}
        layers = case.rules.layers(old, case.architecture)
        stages = (Operand("old", weights=old), Operand("new", weights=new))
        inputs = Inputs(stages, start=old, layers=layers)
        for alpha, expected in ((0.0, new), (1.0, old)):
            params = {"gamma": 0.0, "alpha_base": alpha}
            merged = merge_shared("duet", params, inputs, buffers=(state.buffers,))
            assert same(merged.tensors, expected), f"{form}: alpha {alpha} is not one of the two"
            assert same(merged.buffers, state.buffers), f"{form}: one model's statistics changed"
        alone = Inputs((Operand("new", weights=new),), start=old, layers=layers)
        mean = merge_shared("average", {}, alone, buffers=(state.buffers,))
        assert same(mean.tensors, new), f"{form}: the mean of one is not that one"


def scores_by_class(case: Case, state: DetectorState) -> dict[str, np.ndarray]:
    """Return the scores of each class on an image, float64, best first; nothing is suppressed."""
    image, _ = scene(OLD[0], case.image_size, seed=1)
    found = case.engine.detector(state, image_size=case.image_size)(
        [image], confidence=0.0, iou=1.0, limit=100_000, multi_label=True
    )[0]
    of_class = [found.scores[found.class_ids == index] for index in range(len(state.labels))]
    return {n: s.astype("float64") for n, s in zip(state.labels, of_class, strict=True)}


def raised(scores: np.ndarray, scale: float) -> ScoreMap:
    """Return a map that lifts the median logit by 2 and spreads the others about it."""
    import numpy as np

    return ScoreMap(scale=scale, offset=2 + (1 - scale) * float(np.median(logits(scores))))


def logits(scores: np.ndarray) -> np.ndarray:
    """Return the logits of scores."""
    import numpy as np

    found: np.ndarray = np.log(scores / (1 - scores))
    return found


def by_class(case: Case, state: DetectorState) -> dict[str, torch.Tensor]:
    """Return the logits ``(B, A)`` of each class on a fixed batch."""
    import torch

    with torch.no_grad():
        logits = case.engine.class_logits(state)({}, case.batch())
    return dict(zip(state.labels, logits.unbind(1), strict=True))


def same(one: Tensors, other: Tensors) -> bool:
    """Say whether two sets of tensors have the same names and bits."""
    return one.keys() == other.keys() and all(same_bits(one[k], other[k]) for k in one)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Say whether two tensors are equal; NaN equals nothing."""
    return one.shape == other.shape and one.dtype == other.dtype and bool((one == other).all())


def close(got: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], what: str) -> None:
    """Assert that two sets of logits, ``(B, A)`` a class, are the same places' in any order.

    Batched arithmetic may differ in the last places, and where a network picks its places by score
    (queries), near ties then change theirs: which comes first depends on the processor.
    """
    import torch

    assert got.keys() == expected.keys(), what
    rows_CBA = [torch.stack([logits[name] for name in expected]) for logits in (got, expected)]
    for image, (one_CA, other_CA) in enumerate(zip(*(r.unbind(1) for r in rows_CBA), strict=True)):
        aligned = one_CA[:, _matched(one_CA, other_CA)]
        assert torch.allclose(aligned, other_CA, rtol=1e-4, atol=1e-4), f"{what}: image {image}"


def _matched(one_CA: torch.Tensor, other_CA: torch.Tensor) -> torch.Tensor:
    """Return for each place of ``other`` the place of ``one`` that is its own, nearest in sum."""
    import torch
    from scipy.optimize import linear_sum_assignment

    assert one_CA.shape == other_CA.shape
    places = (other_CA.T.double(), one_CA.T.double())
    costs_AA = torch.cdist(*places, compute_mode="donot_use_mm_for_euclid_dist")
    return torch.as_tensor(linear_sum_assignment(costs_AA.numpy())[1])
