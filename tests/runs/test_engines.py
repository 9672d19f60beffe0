"""What engines are made of, without a cluster: the store, images elsewhere, work of a machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import factories_cluster as make
import numpy as np
import pytest
from factories_series import write_image
from factories_toy import start_state

from duet.errors import ConfigError, DataError, DuetError, MissingExtraError, ModelError
from duet.files import sha256_file
from duet.runs.engines import images, node
from duet.runs.engines.board import Notes, watched
from duet.runs.engines.cluster import Need
from duet.runs.engines.engine import ENGINES, HERE, Wishes, opened
from duet.runs.engines.images import Whereabouts, place, require_same, shots, stage
from duet.runs.engines.seats import Meeting, Seat, seated
from duet.runs.engines.store import Store
from duet.runs.questions import Agreeing, Measuring
from duet.series.model import Annotation, Slice
from duet.training.schedule import Schedule

# ---- the store -----------------------------------------------------------------------------------


@pytest.fixture(params=["folder", "bucket", "memory"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "folder":
        yield str(tmp_path / "store")
    elif request.param == "memory":  # any other file system of fsspec
        yield f"memory://{tmp_path.name}/store"
    else:
        with make.bucket(tmp_path / "s3") as found:
            yield found


def written(path: Path, size: int = 100_000, seed: int = 0) -> Path:
    path.write_bytes(np.random.default_rng(seed).bytes(size))
    return path


def test_a_content_goes_there_once_and_comes_back(address: str, tmp_path: Path) -> None:
    store, file = Store(address, "run-a"), written(tmp_path / "a")
    sha256 = store.put(file)
    assert sha256 == sha256_file(file)
    assert store.has(sha256)
    assert store.has(sha256, 100_000)
    assert not store.has(sha256, 99_999)  # half of it does not count
    store._write = None  # type: ignore[assignment, method-assign]  # nothing is sent again
    assert store.put(file) == sha256
    store.get(sha256, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == file.read_bytes()
    with pytest.raises(ModelError, match="gone from the store"):
        store.get("0" * 64, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_damaged_content_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"), "run-a")
    sha256 = store.put(written(tmp_path / "a"))
    written(tmp_path / "store" / f"run-a-{sha256}", seed=1)
    with pytest.raises(ModelError, match="damaged") as caught:
        store.get(sha256, tmp_path / "b")
    assert str(caught.value.where).endswith(sha256)
    assert not (tmp_path / "b").exists()


def test_a_checkpoint_takes_the_place_of_the_one_before(address: str, tmp_path: Path) -> None:
    store, other = Store(address, "run-a"), Store(address, "run-b")
    first, second = written(tmp_path / "1", seed=1), written(tmp_path / "2", seed=2)
    assert store.checkpoint("key") is None
    assert store.checkpoints() == {}
    for file in (first, second):
        store.set_checkpoint("key", file)
        assert store.checkpoint("key") == sha256_file(file)
    other.set_checkpoint("key", first)
    assert not store.has(sha256_file(first))
    assert store.checkpoints() == {"key": sha256_file(second)}
    store.forget_checkpoint("key")
    assert store.checkpoints() == {}
    store.put(first)
    store.clear()
    assert store._names() == other._names()
    assert all(name.startswith("run-b-") for name in other._names())
    assert other.checkpoint("key") == sha256_file(first)


@pytest.mark.parametrize(
    ("address", "error"),
    [
        pytest.param("s3://", ConfigError, id="no bucket"),
        pytest.param("nothing://x", ConfigError, id="no such kind"),
        pytest.param("sftp://user:pass@host/x", MissingExtraError, id="no package"),
    ],
)
def test_no_address_of_a_store(address: str, error: type[DuetError]) -> None:
    with pytest.raises(error) as caught:
        Store(address)
    assert "pass" not in str(caught.value)


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(DuetError) as caught:
        Store(str(tmp_path / "store")).put(written(tmp_path / "a"))
    assert "store" in str(caught.value.where)


# ---- images --------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    (tmp_path / "here").mkdir()
    found = [tmp_path / "here" / f"{n}.png" for n in range(5)]
    for n, path in enumerate(found):
        write_image(path, seed=n, size=(8, 8 + n))
    return found


def test_roots_differ(
    pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(images.ROOT, str(tmp_path / "here"))
    where = Whereabouts.here(None)
    monkeypatch.setenv(images.ROOT, str(tmp_path / "there"))
    assert where.local(str(pictures[0])) == tmp_path / "there" / "0.png"
    assert where.local("/elsewhere/0.png") == Path("/elsewhere/0.png")
    monkeypatch.delenv(images.ROOT)
    assert where.local(str(pictures[0])) == pictures[0]
    assert Whereabouts.here(None).root == ""


@pytest.mark.parametrize("change", ["gone", "longer", "other"])
def test_a_machine_without_an_image_is_named(change: str, pictures: list[Path]) -> None:
    wanted, bad = shots(pictures), pictures[3]
    require_same(wanted, Whereabouts(), "west")
    content = bad.read_bytes()
    if change == "gone":
        bad.unlink()
    else:
        bad.write_bytes(content + b"." if change == "longer" else content[:-1] + b"\1")
    with pytest.raises(DataError, match=r"^node west: .*3\.png: 1 of 5 images are not there"):
        require_same(wanted, Whereabouts(), "west")


def test_of_many_images_some_are_hashed(pictures: list[Path]) -> None:
    assert [bool(shot.sha256) for shot in shots(pictures, most=2)] == [
        True,
        False,
        False,
        True,
        False,
    ]
    assert all(shot.sha256 for shot in shots(pictures, most=5))
    assert [shot.size for shot in shots(pictures, most=1)] == [p.stat().st_size for p in pictures]


def test_staged_images_are_fetched_once_and_bounded(
    pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, cache = str(tmp_path / "store"), tmp_path / "cache"
    stage(pictures, Store(address, images.STAGED))
    wanted, where = shots(pictures), Whereabouts(store=address)
    monkeypatch.setenv(images.CACHE, "1e-7")  # 100 bytes: less than two of them
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    found = place(wanted, where, tmp_path / "one", cache, "west")
    assert [path.read_bytes() for path in found] == [path.read_bytes() for path in pictures]
    assert [path.suffix for path in found] == [".png"] * 5
    kept = [path for path in cache.iterdir() if len(path.name) == 64]
    assert sum(path.stat().st_size for path in kept) <= 100
    monkeypatch.delenv(images.CACHE)
    place(wanted, where, tmp_path / "two", cache, "west")
    assert len([path for path in cache.iterdir() if len(path.name) == 64]) == 5
    monkeypatch.setattr(Store, "get", None)  # nothing is fetched again
    (tmp_path / "three").mkdir()
    again = place(wanted, where, tmp_path / "three", cache, "west")
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in pictures]


def test_a_cache_that_is_no_number(
    pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage(pictures, Store(str(tmp_path / "store"), images.STAGED))
    monkeypatch.setenv(images.CACHE, "much")
    where = Whereabouts(store=str(tmp_path / "store"))
    with pytest.raises(ConfigError, match="expected gigabytes, got 'much'"):
        place(shots(pictures), where, tmp_path, tmp_path / "cache", "west")


# ---- work of a machine ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "given"), [("cpu", "cpu"), ("mps", "mps"), ("cuda:3", "0"), ("4,7", "0,1")]
)
def test_devices_are_counted_among_those_given(asked: str, given: str) -> None:
    assert node.given_device(asked) == given


@pytest.mark.parametrize(
    ("changes", "need"),
    [
        ({}, Need(1, 0)),
        ({"threads": 4, "workers": 8}, Need(4, 0)),  # on a CPU nothing loads beside
        ({"device": "1", "workers": 8}, Need(9, 1)),
        ({"device": "0,1", "threads": 2}, Need(2, 2)),
        ({"threads": 0}, Need(1, 0)),
        ({"device": "3", "ranks": 4, "workers": 2}, Need(3, 1, 4)),
    ],
)
def test_what_a_training_takes(changes: dict[str, object], need: Need) -> None:
    assert Need.of(Schedule.model_validate(changes)) == need
    assert Need.of_device("0,1") == Need(1, 1)


def test_how_often_a_machine_has_room() -> None:
    rank = Need(2, 1, ranks=8)
    assert rank.times({"CPU": 9, "GPU": 8}) == 4
    assert rank.times({"CPU": 9, "GPU": 3}) == 3
    assert rank.times({"CPU": 9}) == 0
    assert Need(2).times({"CPU": 9}) == 4


def test_ranks_meet_and_go_on_from_one_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "taken")
    monkeypatch.delenv("RANK")
    board, words = Notes(), ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")

    def meet(rank: int, proposed: Meeting | None) -> Any:
        return board.meet((7, 0), rank, 2, proposed)

    first = Meeting("10.0.0.1", 20_001, "sha")
    assert meet(0, first) is None  # nobody begins before all are there
    seat = Seat(1, 2, "10.0.0.2", lambda proposed: meet(1, proposed))
    with seated(seat, "another") as last:
        assert last == "sha"
        assert [os.environ[word] for word in words] == ["1", "2", "0", "10.0.0.1"]
        assert os.environ["MASTER_PORT"] == "20001"
    assert not {*words} & {*os.environ}
    assert meet(0, first) == first
    assert board.meet((7, 1), 0, 2, None) is None  # begun anew, they meet anew
    with seated(None, "sha") as last:
        assert last == "sha"
        assert "RANK" not in os.environ


def test_a_question_is_moved(pictures: list[Path], tmp_path: Path) -> None:
    state = start_state()
    blank = Annotation(np.zeros(0, np.int64), np.zeros((0, 4)), 8, 8)
    data = Slice("d", "test", ("a",), tuple(pictures[:2]), (blank,) * 2)
    there = [Path("/there", path.name) for path in pictures]
    question = Measuring(state, data, 64, "cuda:2")
    assert node.images_of(question) == pictures[:2]
    moved = node.moved(question, there[:2])
    assert (moved.data.images, moved.device) == (tuple(there[:2]), "cuda:0")
    assert replace(moved, data=data, device="cuda:2") == question
    agreeing = Agreeing(state, state, tuple(pictures), 64)
    assert node.images_of(agreeing) == pictures
    assert node.moved(agreeing, there) == replace(agreeing, images=tuple(there))


def test_errors_come_back_in_words_of_here(tmp_path: Path) -> None:
    names = {"/there/job": "/here/job", "/there/job/images/1.png": "/data/cat.png"}
    error = DataError("damaged", where="/there/job/images/1.png", remedy="see /there/job/log")
    found = node._in_words_of_here(error, names, Path("/there/job/stderr.log"), "west")
    assert isinstance(found, DataError)
    assert found.as_dict() == DataError(
        "damaged", where="/data/cat.png", remedy="see /here/job/log"
    ).as_dict()  # fmt: skip
    assert type(DuetError.from_dict(found.as_dict())) is DataError
    (log := tmp_path / "stderr.log").write_text("first\nlast words\n")
    error = DuetError("ended with code 1", remedy=f"the whole message is in {log}")
    told = node._in_words_of_here(error, names, log, "west")
    assert told.remedy == "on node west it said: first | last words"


def test_scratch_is_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(node.SCRATCH, str(tmp_path / "scratch"))
    folder = node.own_scratch()
    assert folder.parent == tmp_path / "scratch"
    assert folder.stat().st_mode & 0o077 == 0
    folder.chmod(0o777)
    with pytest.raises(DuetError, match="others may write"):
        node.own_scratch()


def test_what_tasks_tell() -> None:
    notes = Notes()
    notes.begin(1, "west")
    for done in range(5):
        notes.tell(1, {"done": done, "total": 9})
    assert notes.take() == [(1, {"done": 4, "total": 9})]
    notes.begin(1, "east")
    assert notes.take() == [(1, {"note": "its machine was lost; again on east"})]
    assert notes.take() == []


def test_not_every_step_is_told() -> None:
    told: list[dict[str, object]] = []

    class Actor:
        class tell:  # noqa: N801
            @staticmethod
            def remote(number: int, record: dict[str, object]) -> None:
                told.append(record)

    tell = watched(Actor, 3)
    for done in range(1, 101):
        tell({"done": done, "total": 100})
    tell({"note": "a word"})
    assert [record.get("done") for record in told] == [1, 100, None]


# ---- engines -------------------------------------------------------------------------------------


def test_this_machine_is_the_default(tmp_path: Path) -> None:
    assert list(ENGINES) == ["local", "ray"]
    with opened("local", Wishes(), tmp_path) as engine:
        assert engine is HERE
    assert HERE.at_a_time(3) == 3
    assert replace(HERE, jobs=7).at_a_time(3) == 7


@pytest.mark.parametrize(
    ("name", "wishes", "words"),
    [
        ("rya", Wishes(), "unknown engine 'rya', did you mean 'ray'"),
        ("local", Wishes("auto", "x"), "--address, --store is for several machines"),
        ("ray", Wishes(stage_data=True), "images are sent through a store"),
    ],
)
def test_wishes_that_cannot_be_met(name: str, wishes: Wishes, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words), opened(name, wishes, tmp_path):
        pass


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with (
        pytest.raises(MissingExtraError, match="needs Ray") as caught,
        opened("ray", Wishes(), tmp_path),
    ):
        pass
    assert "pip install 'duet-detect[ray]'" in str(caught.value.remedy)
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_a_checkpoint_is_kept_while_it_is_replaced(tmp_path: Path) -> None:
    from duet.training.checkpoint import CHECKPOINT, HASHES

    store = Store(str(tmp_path / "store"), "run-a")
    folder = tmp_path / "job"
    folder.mkdir()
    said: list[object] = []
    with node._keeping(store, "key", folder, said.append):
        for seed in (1, 2):
            written(folder / CHECKPOINT, seed=seed)
            (folder / HASHES).write_text(f"{sha256_file(folder / CHECKPOINT)}\n")
            waited = threading.Event()
            for _ in range(100):
                if store.checkpoint("key") == sha256_file(folder / CHECKPOINT):
                    break
                waited.wait(0.1)
            assert store.checkpoint("key") == sha256_file(folder / CHECKPOINT)
    assert said == []
    again = tmp_path / "again"
    again.mkdir()
    assert node._fetch_checkpoint(store, store.checkpoint("key"), again)
    assert (again / HASHES).read_text().split() == [sha256_file(again / CHECKPOINT)]
