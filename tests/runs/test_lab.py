"""The lab reads back only what it wrote: everything else is trained again, and told in one line."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from factories_toy import ToyLearner, make_job, schedule, start_state, stop_after
from factories_toy import data as data

from duet.errors import DataError
from duet.files import sha256_file
from duet.runs.lab import Lab
from duet.runs.look import FirstLook
from duet.runs.memo import recall, remember
from duet.sealed import sealed, unsealed
from duet.series import Slice
from duet.training.checkpoint import CHECKPOINT, HASHES
from duet.training.job import Job, read_job
from duet.training.loop import run_job

RESULTS = ("outcome.json", "trained.safetensors", "fisher.safetensors")


@dataclasses.dataclass
class Bench:
    """A lab whose trainings run in this process, and what it did and said."""

    folder: Path
    job: Job
    data: Slice
    ran: list[Path]
    heard: list[str]
    run: Any
    look: FirstLook = dataclasses.field(default_factory=FirstLook)

    def train(self, **changes: Any) -> Any:
        """Ask for the job, or for one with other settings."""

        def listen(title: str, record: dict[str, Any]) -> None:
            self.heard += [record["note"]] if "note" in record else []

        job = self.job.model_copy(update=changes)
        lab = Lab(self.folder / "lab", listen=listen, look=self.look, run=self.run)
        return lab.train("stage", job, start_state(), self.data)

    def place(self, seed: int = 0) -> Path:
        """Return the folder of the job with that seed."""
        (found,) = (
            path for path in self.folder.glob("lab/*") if read_job(path).seed == seed
        )  # fmt: skip
        return found

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of the tensors that the job left."""
        return {name: sha256_file(self.place() / name) for name in RESULTS[1:]}


@pytest.fixture
def bench(tmp_path: Path, data: Slice, monkeypatch: pytest.MonkeyPatch) -> Bench:
    ran: list[Path] = []

    def train(folder: Path, *_: Any) -> None:
        ran.append(folder)
        run_job(folder, ToyLearner, lambda record: None)

    job = read_job(make_job(tmp_path / "job", data, schedule=schedule(fisher_images=2)))
    return Bench(tmp_path, job, data, ran, [], train)


def flip(path: Path, seed: int) -> None:
    content = bytearray(path.read_bytes())
    place = random.Random(seed).randrange(8 * len(content))
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def other_value(path: Path) -> None:
    """Put in what has the right form: another number, or the same tensors of another job."""
    if path.suffix == ".json":
        document = json.loads(path.read_text())
        path.write_text(json.dumps({**document, "images_seen": document["images_seen"] + 1}))
        return
    cut(path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": cut,
    "emptied": lambda path: path.write_bytes(b""),
    "removed": Path.unlink,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "deep JSON": lambda path: path.write_text("[" * 99999),
    "null": lambda path: path.write_text("null"),
    "edited": other_value,
    **{f"flip {seed}": lambda path, seed=seed: flip(path, seed) for seed in range(3)},  # type: ignore[misc]
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_result_is_trained_again(bench: Bench, damage: str) -> None:
    first = bench.train()
    expected = bench.hashes()
    assert bench.train().reused
    assert (len(bench.ran), bench.heard) == (1, [])
    for times, name in enumerate(RESULTS, start=2):
        DAMAGES[damage](bench.place() / name)
        again = bench.train()
        assert not again.reused
        assert again.state.fingerprint() == first.state.fingerprint()
        assert bench.hashes() == expected
        assert (len(bench.ran), len(bench.heard)) == (times, times - 1)
        assert name in bench.heard[-1]
        assert "trained again" in bench.heard[-1]
    assert bench.train().reused


@pytest.mark.slow
def test_the_result_of_another_job_is_not_taken(bench: Bench) -> None:
    expected = bench.train().state.fingerprint()  # now: tensors are mapped from their file
    assert bench.train(seed=1).state.fingerprint() != expected
    mine, theirs = bench.place(), bench.place(seed=1)
    for name in RESULTS:
        shutil.copyfile(theirs / name, mine / name)
    assert bench.train().state.fingerprint() == expected
    assert "another job" in bench.heard[-1]


@pytest.mark.parametrize("name", [CHECKPOINT, HASHES])
@pytest.mark.parametrize("damage", ["cut", "emptied", "removed", "flip 0", "flip 1"])
def test_a_damaged_checkpoint_begins_anew(
    bench: Bench, damage: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = bench.train().state.fingerprint()
    shutil.rmtree(bench.folder / "lab")
    began = []

    def struck(folder: Path, *_: Any) -> None:
        run_job(folder, ToyLearner, stop_after(7))  # in the third epoch

    def resumed(folder: Path, *_: Any) -> None:
        began.append((folder / CHECKPOINT).exists())
        run_job(folder, ToyLearner, lambda record: None)

    bench.run = struck
    with pytest.raises(KeyboardInterrupt):
        bench.train()
    DAMAGES[damage](bench.place() / name)
    bench.run = resumed
    assert bench.train().state.fingerprint() == expected
    if name == HASHES and not bench.heard:  # what is left of the hashes still vouches for it
        assert began == [True]
    else:
        assert began == [False]
        assert CHECKPOINT in bench.heard[0]


def test_a_checkpoint_survives_kills_while_the_next_is_written(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice, before the new file takes the place of the old one."""
    struck = 0
    real = os.replace

    def replace(source: Any, target: Any) -> None:
        nonlocal struck
        if Path(target).name == CHECKPOINT and Path(target).exists() and struck < 2:
            struck += 1
            raise KeyboardInterrupt
        real(source, target)

    def train(folder: Path, *_: Any) -> None:
        run_job(folder, ToyLearner, lambda record: None)

    monkeypatch.setattr(os, "replace", replace)
    bench.run = train
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            bench.train()
    bench.train()
    assert (struck, bench.heard) == (2, [])


def test_a_whole_checkpoint_is_used(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []

    def struck(folder: Path, *_: Any) -> None:
        run_job(folder, ToyLearner, stop_after(7))

    def resumed(folder: Path, *_: Any) -> None:
        run_job(folder, ToyLearner, lambda record: steps.append(record["done"]))

    bench.run = struck
    with pytest.raises(KeyboardInterrupt):
        bench.train()
    bench.run = resumed
    bench.train()
    assert (min(steps), bench.heard) == (7, [])


# ---- images that change while a run works --------------------------------------------------------


def test_images_that_were_exchanged_are_refused(bench: Bench, tmp_path: Path) -> None:
    copies = tuple(tmp_path / f"{index}.png" for index in range(len(bench.data.images)))
    for image, copy in zip(bench.data.images, copies, strict=True):
        shutil.copyfile(image, copy)
    bench.data = dataclasses.replace(bench.data, images=copies)
    seen = {copy: (copy.stat().st_size, copy.stat().st_mtime_ns) for copy in copies}
    bench.look = FirstLook(seen)
    expected = bench.train().state.fingerprint()
    content = copies[2].read_bytes()
    shutil.copyfile(copies[3], copies[2])
    with pytest.raises(DataError, match="1 images changed") as caught:
        bench.train()
    assert caught.value.where == str(copies[2])
    copies[2].write_bytes(content)
    os.utime(copies[2], ns=(seen[copies[2]][1], seen[copies[2]][1]))
    again = bench.train()
    assert (again.state.fingerprint(), again.reused) == (expected, True)


@pytest.mark.parametrize("times", ["new", "kept"])
def test_images_that_change_in_a_training_spoil_it(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: str
) -> None:
    copy = tmp_path / "first.png"
    shutil.copyfile(bench.data.images[0], copy)
    bench.data = dataclasses.replace(bench.data, images=(copy, *bench.data.images[1:]))
    bench.look = FirstLook({copy: (copy.stat().st_size, copy.stat().st_mtime_ns)})

    def train(folder: Path, *_: Any) -> None:
        run_job(folder, ToyLearner, lambda record: None)
        before = copy.stat()
        shutil.copyfile(bench.data.images[1], copy)
        if times == "kept":  # as `cp -p` and `rsync -t` do, with an image of the same size
            copy.write_bytes(copy.read_bytes()[: before.st_size].ljust(before.st_size, b"\0"))
            os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns))

    bench.run = train
    with pytest.raises(DataError, match="changed since their labels were read"):
        bench.train()
    assert not list(bench.folder.glob("lab/*/outcome.json"))


# ---- small results -------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "edited"])
def test_damaged_small_results_are_told(tmp_path: Path, damage: str) -> None:
    path, heard = tmp_path / "cell.json", list[str]()
    assert recall(path, "question", heard.append) is None
    remember(path, "question", {"ap50": {"cat": 0.25, "dog": None}})
    assert recall(path, "question", heard.append) == {"ap50": {"cat": 0.25, "dog": None}}
    assert heard == []
    assert recall(path, "another", heard.append) is None
    DAMAGES[damage](path)
    assert recall(path, "question", heard.append) is None
    assert len(heard) == (1 if damage == "removed" else 2)
    assert all(str(path) in line for line in heard)


def test_seals_find_every_flipped_bit() -> None:
    whole = sealed({"a": 0.1, "b": [1, None, "é"], "c": {"d": True}})
    text = json.dumps(whole)
    for place in range(8 * len(text)):
        content = bytearray(text.encode())
        content[place // 8] ^= 1 << place % 8
        try:
            found = json.loads(content)
        except ValueError:
            continue
        assert isinstance(found, dict)
        if found == whole:  # another spelling, such as \\u00E9
            continue
        with pytest.raises(ValueError, match=r"hash|content"):
            unsealed(found)
