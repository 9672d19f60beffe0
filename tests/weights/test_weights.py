"""Start weights: a table, downloads that survive a bad network, and a door that stays shut."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest
import torch
import yaml
from factories_pickles import Payload
from factories_weights import Site, checkpoint_bytes, manifest_of, row, serving, write_manifest
from places import REPO
from safetensors.torch import save_file

import duet.families.ultralytics  # tames the engine
from duet.cli.main import _run, cli
from duet.errors import ConfigError, DuetError, ModelError
from duet.files import run_lock, sha256_file
from duet.shipped import shipped
from duet.weights import cache_folder, find, load_manifest
from duet.weights.facts import read_facts
from duet.weights.fetch import Fetched, fetch, plan_fetch, take_local
from duet.weights.manifest import is_private, parse_sha256
from duet.weights.partial import Memory
from duet.weights.store import Record, read_record, record_path, write_record
from duet.weights.transfer import Patience

QUICK = Patience(failures=2, connect=5, read=5, pause=0.01)
BODY = checkpoint_bytes()
CUT, KEPT = 150_000, 131_072
"""Bytes that a server sends before it breaks off, and whole blocks of them."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home-cache"))
    return cache_folder()


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site(BODY)) as running:
        yield running


def get(site: Site, folder: Path, patience: Patience = QUICK, **options: Any) -> Fetched:
    """Get the site's file into ``folder / "to"``; ``changes`` are changes of its row."""
    manifest = manifest_of(folder, row(site, **options.pop("changes", {})))
    notify = options.pop("notify", lambda line: None)
    plan = plan_fetch(manifest.row("tiny"), manifest, folder=folder / "to", **options)
    return fetch(plan, patience=patience, notify=notify)


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "to").iterdir()} - {".lock"}


# ---- the table that comes with duet -------------------------------------------------------------


def engine_folder() -> Path:
    spec = find_spec("ultralytics")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def test_the_official_checkpoints_are_listed() -> None:
    rows = {row.name: row for row in load_manifest().rows}
    sizes = {"yolov8": "nsmlx", "yolov9": "tsmce", "yolov10": "nsmblx", "yolo11": "nsmlx",
             "yolo12": "nsmlx", "yolo26": "nsmlx", "rtdetr-": "lx"}  # fmt: skip
    wanted = {f"{stem}{size}" for stem, letters in sizes.items() for size in letters}
    assert set(rows) == wanted | {"yolo11n-emoji", "rtdetr-tiny-emoji"}
    source = (engine_folder() / "utils/downloads.py").read_text()
    release = re.search(r'def attempt_download_asset\(.*?release: str = "([^"]+)"', source, re.S)
    assert release is not None
    address = f"https://github.com/ultralytics/assets/releases/download/{release[1]}"
    for name in wanted:
        assert rows[name].url == f"{address}/{name}.pt"
        assert rows[name].file == f"{name}.pt"
        assert rows[name].family == ("rtdetr" if name.startswith("rtdetr") else "yolo")


def test_classes_and_architectures_are_the_engines() -> None:
    manifest = load_manifest()
    listed = yaml.safe_load((engine_folder() / "cfg/datasets/coco.yaml").read_text())["names"]
    assert manifest.class_lists["coco"].names == tuple(listed[index] for index in range(80))
    known = {path.name for path in (engine_folder() / "cfg/models").rglob("*.yaml")}
    known |= {path.name for path in shipped("configs", "model").iterdir()}
    for one in manifest.rows:
        assert {one.architecture, re.sub(r"[nslmx]\.yaml$", ".yaml", one.architecture)} & known


@pytest.mark.parametrize("name", ["yolo11n-emoji", "rtdetr-tiny-emoji"])
def test_the_shipped_row_is_the_shipped_file(name: str) -> None:
    manifest = load_manifest()
    one = manifest.row(name)
    path = find(name)
    sidecar = json.loads(path.with_suffix(".json").read_text())
    assert path == shipped("weights", one.file).resolve()
    assert (one.sha256, one.size) == (sha256_file(path), path.stat().st_size)
    assert (one.architecture, one.licence) == (sidecar["architecture"], sidecar["licence"])
    assert list(manifest.classes(one)) == sidecar["classes"]


PLAIN = row(Site(b"x"))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"url": "http://example.org/w.pt"}, "https"),
        ({"url": "ftp://example.org/w.pt"}, "https"),
        ({"url": "w.pt"}, "https"),
        ({"sha256": "ABC"}, "sha256"),
        ({"file": "../w.pt"}, "file"),
        ({"file": "w.exe"}, "file"),
        ({"name": "a/b"}, "name"),
        ({"size": 0}, "size"),
        ({"classes": "fish"}, "class lists are missing: fish"),
        ({"url": None, "sha256": None}, "neither"),
        ({"licens": "MIT"}, "did you mean 'licence'"),
    ],
)
def test_wrong_rows(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        load_manifest(write_manifest(tmp_path, PLAIN | change))


@pytest.mark.parametrize("suffix", [".yaml", ".yml"])
def test_a_manifest_may_be_yaml(tmp_path: Path, suffix: str) -> None:
    path = write_manifest(tmp_path, PLAIN)
    other = path.with_suffix(suffix)
    other.write_text(yaml.safe_dump(json.loads(path.read_text())))
    assert load_manifest(other) == load_manifest(path)


def test_wrong_manifests(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="same name: tiny"):
        load_manifest(write_manifest(tmp_path, PLAIN, PLAIN | {"file": "other.pt"}))
    with pytest.raises(ConfigError, match="same file"):
        load_manifest(write_manifest(tmp_path, PLAIN, PLAIN | {"name": "other"}))
    with pytest.raises(ConfigError, match="schema"):
        load_manifest(write_manifest(tmp_path, PLAIN, schema=2))
    path = write_manifest(tmp_path, PLAIN, class_lists={"pets": ["cat", "cat"]})
    with pytest.raises(ConfigError, match="cat") as caught:
        load_manifest(path)
    assert str(path) in str(caught.value)
    with pytest.raises(ConfigError, match="cannot read"):
        load_manifest(tmp_path / "nowhere.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        load_manifest(tmp_path / "broken.json")


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("https://example.org/x", True),
        ("http://localhost:8/x", True),
        ("http://[::1]/x", True),
        ("http://localhost.example.org/x", False),
        ("http://127.0.0.1.example.org/x", False),
        ("http://127.0.0.1@example.org/x", False),
        ("file:///etc/passwd", False),
        ("https:///x", False),
        ("", False),
    ],
)
def test_private_addresses(url: str, private: bool) -> None:
    assert is_private(url) is private


def test_hashes_of_users() -> None:
    assert parse_sha256(f" SHA256:{'AB' * 32}\n") == "ab" * 32
    with pytest.raises(ConfigError, match="64 hexadecimal"):
        parse_sha256("abc")


# ---- downloads ----------------------------------------------------------------------------------


def test_a_download_is_checked_named_and_recorded(site: Site, tmp_path: Path) -> None:
    got = get(site, tmp_path)
    assert got.path.read_bytes() == BODY
    assert (got.state, got.checked, got.received) == ("downloaded", "manifest", len(BODY))
    assert [got.facts[key] for key in ("kind", "tensors", "sha256")] == [
        "state dict",
        1,
        site.sha256,
    ]
    assert names(tmp_path) == {"tiny.pt", "tiny.pt.record.json"}
    again = get(site, tmp_path)
    assert (again.state, again.received, len(site.asked)) == ("present", 0, 1)


@pytest.mark.parametrize("known_size", [True, False])
def test_a_cut_download_goes_on_where_it_was_cut(
    site: Site, tmp_path: Path, known_size: bool
) -> None:
    site.cuts = [CUT, CUT]
    got = get(site, tmp_path, changes={} if known_size else {"size": None})
    assert got.path.read_bytes() == BODY
    assert got.received == len(BODY)
    assert site.ranges_asked() == [None, f"bytes={KEPT}-", f"bytes={2 * KEPT}-"]
    assert site.asked[1]["If-Range"] == site.etag


def test_the_next_command_goes_on(site: Site, tmp_path: Path) -> None:
    site.cuts = [CUT]
    with pytest.raises(DuetError, match=f"cut after {KEPT} bytes") as caught:
        get(site, tmp_path, Patience(failures=1))
    assert "goes on from there" in str(caught.value)
    assert "tiny.part.pt" in names(tmp_path)
    assert "tiny.pt" not in names(tmp_path)
    assert not any(site.url in path.read_text("latin-1") for path in tmp_path.glob("tiny*"))
    assert get(site, tmp_path).received == len(BODY) - KEPT
    assert names(tmp_path) == {"tiny.pt", "tiny.pt.record.json"}


@pytest.mark.parametrize("reason", ["no ranges", "no validator", "weak validator", "changed"])
def test_a_part_that_cannot_be_trusted_is_not_used(site: Site, tmp_path: Path, reason: str) -> None:
    site.ranges = reason != "no ranges"
    site.etag = {"no validator": "", "weak validator": 'W/"one"'}.get(reason, site.etag)
    site.cuts = [CUT]
    with pytest.raises(DuetError, match="cut"):
        get(site, tmp_path, Patience(failures=1))
    if reason == "changed":
        site.body, site.etag = checkpoint_bytes(seed=1), '"two"'
    got = get(site, tmp_path)
    assert got.path.read_bytes() == site.body
    assert got.received == len(BODY)


def test_a_record_keeps_no_secret_of_an_address(tmp_path: Path) -> None:
    secret = Record(
        sha256="0" * 64,
        checked="user",
        url="https://me:s3cret@example.org/w.pt?token=s3cret#s3cret",
    )
    write_record(tmp_path / "w.pt", secret)
    assert "s3cret" not in record_path(tmp_path / "w.pt").read_text()
    kept = read_record(tmp_path / "w.pt")
    assert kept is not None
    assert kept.url is not None
    assert "example.org" in kept.url


def test_a_server_that_resumes_another_file_is_caught(site: Site, tmp_path: Path) -> None:
    site.cuts = [CUT]
    with pytest.raises(DuetError, match="cut"):
        get(site, tmp_path, Patience(failures=1))
    site.body, site.blind = checkpoint_bytes(seed=1), True
    with pytest.raises(ModelError, match="not the one expected"):
        get(site, tmp_path)
    assert "tiny.pt" not in names(tmp_path)


def write_part(site: Site, tmp_path: Path, body: bytes) -> Path:
    """Write what a process leaves that was killed after it received ``body``."""
    part = tmp_path / "to/tiny.part.pt"
    part.write_bytes(body)
    memory = Memory(part, site.url)
    memory.begin(0, site.etag)
    memory.add(body)
    memory.save()
    return part


@pytest.mark.parametrize("known", [True, False])
def test_a_damaged_part_is_not_used(site: Site, tmp_path: Path, known: bool) -> None:
    (tmp_path / "to").mkdir()
    part = write_part(site, tmp_path, BODY[:KEPT])
    part.write_bytes(bytes([BODY[0] ^ 1]) + BODY[1:KEPT])
    unknown: dict[str, Any] = {"changes": {"sha256": None}, "accept_unverified": True}
    got = get(site, tmp_path, **({} if known else unknown))
    assert (got.path.read_bytes(), got.received) == (BODY, len(BODY))


def test_what_came_after_the_last_note_is_asked_for_again(site: Site, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    part = write_part(site, tmp_path, BODY[:KEPT])
    part.write_bytes(BODY[:KEPT] + b"?" * 99)  # a kill in between: nobody knows what it is
    assert get(site, tmp_path).received == len(BODY) - KEPT


@pytest.mark.parametrize(
    "change", [{"checked": []}, {"checked": "zz"}, {"sha256": 5}, {"url": {}}, {"schema": 2}]
)
def test_an_edited_record_is_an_error(tmp_path: Path, change: dict[str, Any]) -> None:
    write_record(tmp_path / "w.pt", Record(sha256="0" * 64, checked="user", url=None))
    kept = json.loads(record_path(tmp_path / "w.pt").read_text())
    record_path(tmp_path / "w.pt").write_text(json.dumps(kept | change))
    with pytest.raises(ModelError, match="the record of the download cannot be read"):
        read_record(tmp_path / "w.pt")


def test_a_complete_part_is_not_asked_for_again(site: Site, tmp_path: Path) -> None:
    site.cuts = [CUT]
    with pytest.raises(DuetError, match="cut"):
        get(site, tmp_path, Patience(failures=1))
    write_part(site, tmp_path, BODY)
    assert get(site, tmp_path).received == 0
    assert site.ranges_asked()[-1] == f"bytes={len(BODY)}-"
    (tmp_path / "to/tiny.pt").unlink()
    site.cuts = [10]
    with pytest.raises(DuetError, match="cut"):
        get(site, tmp_path, Patience(failures=1))
    (tmp_path / "to/tiny.part.pt").write_bytes(BODY + b"more")  # longer than the file
    assert get(site, tmp_path).received == len(BODY)


def test_a_wrong_hash_is_set_aside(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        get(site, tmp_path, sha256="0" * 64)
    for said in (site.sha256, "0" * 64, "tiny.pt.bad", "nothing opens it"):
        assert said in str(caught.value)
    assert names(tmp_path) == {"tiny.pt.bad"}
    assert get(site, tmp_path).state == "downloaded"


@pytest.mark.parametrize(
    ("announced", "changes", "match", "left"),
    [
        pytest.param(len(BODY) + 9, {"size": None}, "cut after", "part", id="too much"),
        pytest.param(1000, {"size": None}, "not the one expected", "bad", id="too little"),
        pytest.param(len(BODY) + 9, {}, "offers a file of", "", id="other size"),
        pytest.param(-1, {"size": 1000}, "more than the 1000 bytes", "part", id="more than known"),
        pytest.param(-1, {"size": len(BODY) + 9}, "offers a file of", "part", id="less than known"),
    ],
)
def test_lies_about_the_length(
    site: Site, tmp_path: Path, announced: int, changes: dict[str, Any], match: str, left: str
) -> None:
    site.announced = announced
    with pytest.raises(DuetError, match=match):
        get(site, tmp_path, changes=changes)
    assert "tiny.pt" not in names(tmp_path)
    assert ("tiny.pt.bad" in names(tmp_path)) == (left == "bad")
    assert ("tiny.part.pt" in names(tmp_path)) == (left == "part")


def test_a_length_that_nobody_says_is_no_error(site: Site, tmp_path: Path) -> None:
    site.announced = -1
    assert get(site, tmp_path, changes={"size": None}).path.read_bytes() == BODY


@pytest.mark.slow
def test_a_silent_server_is_left_after_a_while(site: Site, tmp_path: Path) -> None:
    site.cuts, site.stall = [CUT], 3.0
    lines: list[str] = []
    got = get(site, tmp_path, Patience(failures=5, read=1.0, pause=0.01), notify=lines.append)
    assert site.ranges_asked()[:2] == [None, f"bytes={KEPT}-"]
    assert got.path.read_bytes() == BODY
    told = f"127.0.0.1: nothing came for 1 s; {KEPT} bytes are here; attempt 2 of 5 in 0 s"
    assert lines[0] == told


def test_what_a_killed_download_left_is_named(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "to").mkdir()
    killed = 4_194_999  # more than Linux has processes
    left = [tmp_path / "to" / f".tiny{kind}-{killed}-0123abcd{suffix}"
            for kind, suffix in (
                ("", ".pt"), (".pt.record", ".json"), (".part.pt.resume", ".json"),
            )]  # fmt: skip
    for path in left:
        path.touch()
    table = write_manifest(tmp_path, row(site))
    assert (
        _run(["weights", "get", "tiny", "--to", f"{tmp_path / 'to'}", "--manifest", f"{table}"])
        == 0
    )
    told = capsys.readouterr().err
    assert all(str(path) in told for path in left)


def test_servers_that_recover(site: Site, tmp_path: Path) -> None:
    site.statuses = [503]
    assert get(site, tmp_path).state == "downloaded"


@pytest.mark.parametrize(
    ("statuses", "match", "requests"),
    [([404], "404", 1), ([403], "403", 1), ([503, 503], "503", 2), ([304], "304", 1)],
)
def test_servers_that_refuse(
    site: Site, tmp_path: Path, statuses: list[int], match: str, requests: int
) -> None:
    site.statuses = statuses
    with pytest.raises(DuetError, match=match) as caught:
        get(site, tmp_path)
    assert caught.value.remedy
    assert len(site.asked) == requests
    assert names(tmp_path) == set()


def test_nobody_answers(site: Site, tmp_path: Path) -> None:
    changes = {"url": "http://127.0.0.1:9/w.pt"}  # nothing listens on the discard port
    with pytest.raises(DuetError, match="cut after 0 bytes") as caught:
        get(site, tmp_path, changes=changes)
    assert "check the network" in str(caught.value)
    assert caught.value.what == "the download was cut after 0 bytes: connection refused"


def test_a_name_that_is_not_found_is_told_in_words(site: Site, tmp_path: Path) -> None:
    lines: list[str] = []
    changes = {"url": "https://nowhere.invalid/w.pt"}  # RFC 6761: never resolves
    with pytest.raises(DuetError, match="name cannot be found: there is no network"):
        get(site, tmp_path, changes=changes, notify=lines.append)
    assert len(lines) == QUICK.failures - 1
    assert all("HTTPSConnectionPool" not in line and len(line) < 200 for line in lines)


@pytest.mark.parametrize("where", ["http://[::1", "https://[x", "//[", "http://a:b:c/"])
def test_a_redirect_to_no_address_is_refused(where: str, site: Site, tmp_path: Path) -> None:
    site.redirects = [where]
    with pytest.raises(DuetError, match=r"malformed or not https|cut after|is no"):
        get(site, tmp_path)


def test_redirects(site: Site, tmp_path: Path) -> None:
    site.redirects = ["/elsewhere.pt", site.url]
    assert get(site, tmp_path).state == "downloaded"
    for target, match in (
        ("http://example.org/w.pt", "not https"),
        ("file:///etc/passwd", "not https"),
    ):
        site.redirects = [target]
        with pytest.raises(DuetError, match=match):
            get(site, tmp_path / "second")
    site.redirects = ["/again.pt"] * 9
    with pytest.raises(DuetError, match="redirects"):
        get(site, tmp_path / "third")


def test_no_password_leaves_the_machine(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "netrc"
    secret.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(secret))
    get(site, tmp_path)
    assert "Authorization" not in site.asked[0]


# ---- what comes out of a download ---------------------------------------------------------------


def test_a_program_with_the_right_hash_is_refused(tmp_path: Path) -> None:
    marker, evil = tmp_path / "executed", tmp_path / "evil.pt"
    torch.save({"model": Payload(marker), "w": torch.ones(3)}, evil)
    with serving(Site(evil.read_bytes())) as site, pytest.raises(ModelError) as caught:
        get(site, tmp_path)
    assert "posix.system" in str(caught.value)
    assert "Nothing of it was run" in str(caught.value)
    assert names(tmp_path) == {"tiny.pt.bad"}
    assert not marker.exists()


@pytest.mark.parametrize("body", [b"<html>please log in</html>", b"", BODY[:5000]])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, body: bytes) -> None:
    with serving(Site(body)) as site, pytest.raises(ModelError, match="not a readable"):
        get(site, tmp_path, changes={"size": None})
    assert names(tmp_path) == {"tiny.pt.bad"}


def test_unknown_hashes_are_asked_about_first_and_pinned_then(site: Site, tmp_path: Path) -> None:
    unknown: dict[str, Any] = {"changes": {"sha256": None, "size": None}}
    with pytest.raises(ConfigError, match="nobody has told") as caught:
        get(site, tmp_path, **unknown)
    assert "--accept-unverified" in str(caught.value)
    assert site.asked == []
    got = get(site, tmp_path, accept_unverified=True, **unknown)
    assert got.checked == "first download"
    got.path.unlink()
    assert get(site, tmp_path, **unknown).state == "downloaded"  # pinned: no question any more
    got.path.unlink()
    site.body, site.etag = checkpoint_bytes(seed=1), '"two"'
    for accept in (False, True):
        with pytest.raises(ModelError, match="not the one expected"):
            get(site, tmp_path, accept_unverified=accept, **unknown)
    with pytest.raises(ModelError, match="earlier download"):
        get(site, tmp_path, sha256=site.sha256, **unknown)


def test_the_word_of_the_user_counts_most(site: Site, tmp_path: Path) -> None:
    """A publisher replaced the file, and the manifest does not know it yet."""
    changes = {"sha256": "0" * 64, "size": 5}
    with pytest.raises(ModelError, match="offers a file of"):
        get(site, tmp_path, changes=changes)
    got = get(site, tmp_path, changes=changes, sha256=site.sha256)
    assert got.checked == "user"
    again = get(site, tmp_path, changes=changes)
    assert (again.state, again.checked) == ("present", "user")


def test_a_file_that_the_user_put_there_is_adopted(site: Site, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to/tiny.pt").write_bytes(BODY)
    assert get(site, tmp_path).state == "present"
    assert site.asked == []
    (tmp_path / "to/tiny.pt").write_bytes(checkpoint_bytes(seed=1))
    with pytest.raises(ModelError, match="not the one that was expected"):
        get(site, tmp_path)
    assert site.asked == []


def test_a_damaged_record_is_no_missing_record(site: Site, tmp_path: Path) -> None:
    get(site, tmp_path)
    for content in ("{", '{"schema": 2}', "[]"):
        (tmp_path / "to/tiny.pt.record.json").write_text(content)
        with pytest.raises(ModelError, match="record of the download"):
            get(site, tmp_path)


def test_two_at_a_time_wait_for_nobody(site: Site, tmp_path: Path) -> None:
    with run_lock(tmp_path / "to"), pytest.raises(DuetError, match="another duet process"):
        get(site, tmp_path)


def test_a_full_disk_is_told_before_and_while(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 10}))
        with pytest.raises(DuetError, match="not enough space"):
            get(site, tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, limits[1]))
    try:
        with pytest.raises(DuetError, match="cannot write"):
            get(site, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert get(site, tmp_path).path.read_bytes() == BODY


def test_a_folder_that_is_a_file(site: Site, tmp_path: Path) -> None:
    (tmp_path / "to").write_text("")
    with pytest.raises(DuetError, match="cannot write") as caught:
        get(site, tmp_path)
    assert str(tmp_path / "to") in str(caught.value)


# ---- finding ------------------------------------------------------------------------------------


def test_find(site: Site, tmp_path: Path, own_cache: Path) -> None:
    manifest = manifest_of(tmp_path, row(site))
    with pytest.raises(ConfigError, match="duet weights get tiny"):
        find("tiny", manifest=manifest)
    fetched = fetch(plan_fetch(manifest.row("tiny"), manifest), patience=QUICK)
    assert find("tiny", manifest=manifest) == fetched.path == own_cache / "tiny.pt"
    assert find(fetched.path, manifest=manifest) == fetched.path
    fetched.path.write_bytes(BODY + b" ")
    with pytest.raises(ModelError, match="not the one that was expected"):
        find("tiny", manifest=manifest)
    assert len(site.asked) == 1


@pytest.mark.parametrize(
    ("wanted", "match"),
    [
        ("yolo11m", "duet weights get yolo11m"),
        ("yolo11mm", "did you mean 'yolo11m'"),
        ("yolo11m.pt", "did you mean the name 'yolo11m'"),
        ("somewhere/best.pt", "no such file"),
    ],
)
def test_find_names_the_way_out(wanted: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        find(wanted)


# ---- files that are already here ----------------------------------------------------------------


def test_a_local_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    path.write_bytes(BODY)
    got = take_local(path)
    assert (got.path, got.state, got.checked) == (path, "local", None)
    copied = take_local(path, folder=tmp_path / "to", sha256=sha256_file(path))
    assert (copied.path, copied.checked) == (tmp_path / "to/mine.pt", "user")
    assert copied.path.read_bytes() == BODY
    (tmp_path / "to/mine.pt").write_bytes(b"other")
    with pytest.raises(ConfigError, match="another file"):
        take_local(path, folder=tmp_path / "to")
    with pytest.raises(ModelError, match="expected"):
        take_local(path, sha256="0" * 64)
    with pytest.raises(ModelError, match="no such file"):
        take_local(tmp_path / "nowhere.pt")


def test_local_base_weights_travel_with_their_sidecar(tmp_path: Path) -> None:
    got = take_local(find("yolo11n-emoji"), folder=tmp_path)
    assert (got.facts["kind"], got.facts["architecture"]) == ("base weights", "yolo11n.yaml")
    assert got.facts["classes"][0] == "apple"
    assert {path.name for path in tmp_path.glob("yolo*")} == {
        "yolo11n-emoji.safetensors", "yolo11n-emoji.json",
    }  # fmt: skip
    save_file({"w": torch.ones(2)}, tmp_path / "bare.safetensors")
    bare = take_local(tmp_path / "bare.safetensors").facts
    assert [bare[key] for key in ("architecture", "classes", "licence")] == [None] * 3
    assert bare["tensors"] == 1


def circular(path: Path) -> None:
    content: dict[str, Any] = {"w": torch.ones(2)}
    content["self"] = content
    torch.save(content, path)


@pytest.mark.parametrize(
    ("write", "match"),
    [
        (lambda path: torch.save({"a": 1}, path), "no tensors"),
        (lambda path: torch.save([], path), "no tensors"),
        (circular, None),
    ],
)
def test_odd_contents(tmp_path: Path, write: Callable[[Path], None], match: str | None) -> None:
    write(tmp_path / "odd.pt")
    if match is None:
        assert read_facts(tmp_path / "odd.pt")["tensors"] == 1
        return
    with pytest.raises(ModelError, match=match):
        read_facts(tmp_path / "odd.pt")


def test_an_ultralytics_checkpoint_tells_what_it_is(tmp_path: Path) -> None:
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel("yolo11n.yaml", nc=2, verbose=False).half()
    model.names = {0: "cat", 1: "dog"}
    licence = "AGPL-3.0 License (https://ultralytics.com/license)"
    torch.save({"ema": None, "model": model, "license": licence}, tmp_path / "best.pt")
    with serving(Site((tmp_path / "best.pt").read_bytes())) as site:
        facts = get(site, tmp_path).facts
    assert (facts["kind"], facts["architecture"]) == ("Ultralytics checkpoint", "yolo11n.yaml")
    assert (facts["classes"], facts["licence"]) == (("cat", "dog"), licence)
    assert facts["tensors"] == len(model.state_dict())


# ---- the command --------------------------------------------------------------------------------


def duet(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Run a command in this process; return its exit code, stdout and stderr."""
    code = _run([str(word) for word in words])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_ls(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str], own_cache: Path
) -> None:
    code, out, _ = duet(capsys, "weights", "ls")
    assert code == 0
    assert re.search(
        r"^yolo11n-emoji +yolo +yolo11n\.yaml +60 emoji +5\.3 MB .* shipped$", out, re.M
    )
    assert re.search(r"^yolov9c +yolo .* - +AGPL-3\.0 +unknown +not downloaded$", out, re.M)
    code, out, _ = duet(capsys, "weights", "ls", "--family", "rtdetr", "--json")
    assert [item["name"] for item in json.loads(out)["weights"]] == [
        "rtdetr-tiny-emoji", "rtdetr-l", "rtdetr-x",
    ]  # fmt: skip
    code, _, err = duet(capsys, "weights", "ls", "--family", "rtdet")
    assert (code, "did you mean 'rtdetr'" in err) == (2, True)
    table = write_manifest(tmp_path, row(site))
    for presence in ("not downloaded", "cached"):
        _, out, _ = duet(capsys, "weights", "ls", "--manifest", table, "--json")
        (item,) = json.loads(out)["weights"]
        assert (item["presence"], item["classes"]) == (presence, 2)
        assert item["path"] == (str(own_cache / "tiny.pt") if presence == "cached" else None)
        duet(capsys, "weights", "get", "tiny", "--manifest", table)


def test_get(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_manifest(tmp_path, row(site, sha256=None))
    words = ("weights", "get", "tiny", "--manifest", table, "--to", tmp_path / "to", "--json")
    code, out, err = duet(capsys, *words)
    assert (code, out, json.loads(err)["error"]) == (2, "", "config")
    code, out, _ = duet(capsys, *words, "--accept-unverified", "--dry-run")
    plan = json.loads(out)
    assert (code, plan["sha256"], plan["present"], plan["url"]) == (0, None, False, site.url)
    assert (site.asked, (tmp_path / "to").exists()) == ([], False)
    code, out, err = duet(capsys, *words, "--accept-unverified")
    result = json.loads(out)
    assert (code, result["state"], result["sha256"]) == (0, "downloaded", site.sha256)
    assert (result["architecture"], result["classes"]) == ("yolo11n.yaml", ["cat", "dog"])
    assert f"pinned: SHA-256 {site.sha256}" in err
    code, out, _ = duet(capsys, *words[:-1])
    assert (code, "(present)" in out, "2: cat, dog" in out) == (0, True, True)


def test_get_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.pt"
    path.write_bytes(BODY)
    code, out, _ = duet(capsys, "weights", "get", path)
    assert (code, "state dict, 1 tensors" in out, "not compared" in out) == (0, True, True)
    code, out, _ = duet(capsys, "weights", "get", path, "--to", tmp_path / "to", "--json")
    assert (code, json.loads(out)["state"]) == (0, "copied")
    code, out, _ = duet(capsys, "weights", "get", "yolo11n-emoji", "--json")
    assert (code, json.loads(out)["state"]) == (0, "shipped")
    code, _, err = duet(capsys, "weights", "get", "https://example.org/w.pt")
    assert (code, "download it yourself" in err) == (2, True)
    torch.save({"model": Payload(tmp_path / "executed")}, path)
    code, out, err = duet(capsys, "weights", "get", path)
    assert (code, out, "posix.system" in err) == (4, "", True)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "log"])
def test_progress_with_the_time_left(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, terminal: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr("duet.progress.PLAIN_EVERY", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    table = write_manifest(tmp_path, row(site))
    code, out, err = duet(capsys, "weights", "get", "tiny", "--manifest", table)
    assert (code, "(downloaded)" in out) == (0, True)
    assert re.search("tiny.*0:00:00" if terminal else r"tiny: 0\.\d MB of 0\.4 MB, \d s left", err)


@pytest.mark.slow
def test_nothing_asks_the_network_unasked(tmp_path: Path) -> None:
    """An audit hook sees every look-up, connection and process, whichever library starts it."""
    local = tmp_path / "mine.pt"
    local.write_bytes(BODY)
    lines = [
        ["weights", "ls"], ["weights", "ls", "--json"], ["weights", "get", "yolo11n", "--dry-run"],
        ["weights", "get", "yolov9c"], ["weights", "get", "yolo11n-emoji"],
        ["weights", "get", str(local)],
    ]  # fmt: skip
    program = f"""
import json, sys
seen = []
watched = ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec")
def look(event, arguments):
    # torch lists the system's libraries when it is imported.
    if event in watched and "/sbin/ldconfig" not in repr(arguments):
        seen.append((event, repr(arguments)))
sys.addaudithook(look)
from duet.cli.main import _run
import duet.cli.weights
heavy = [name for name in ("torch", "requests", "rich", "pydantic") if name in sys.modules]
codes = [_run(line) for line in {lines!r}]
from duet.weights import find
try:
    find("yolo11n")
except Exception as error:
    codes.append(error.exit_code)
print(json.dumps([seen, heavy, codes]), file=sys.stderr)
"""
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    seen, heavy, codes = json.loads(done.stderr.splitlines()[-1])
    assert (seen, heavy) == ([], [])
    assert codes == [0, 0, 0, 2, 0, 0, 2]


def test_listing_needs_no_torch(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom duet.cli.main import _run\n_run(['weights', 'ls'])\n"
        "sys.exit('torch' in sys.modules or 'requests' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0


@pytest.mark.parametrize("name", ["ls", "get"])
def test_the_examples_parse(name: str) -> None:
    context = click.Context(cli)
    group = cli.get_command(context, "weights")
    assert isinstance(group, click.Group)
    command = group.get_command(context, name)
    assert command is not None
    assert command.epilog is not None
    lines = command.epilog.split("Examples:")[1].strip().splitlines()
    for words in map(shlex.split, lines):
        assert words[:3] == ["duet", "weights", command.name]
        command.make_context(words[2], words[3:])


def test_the_documented_python_runs() -> None:
    page = (REPO / "docs/weights.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    exec(compile(example, "docs/weights.md", "exec"), {})


def test_the_documented_table_loads(tmp_path: Path) -> None:
    page = (REPO / "docs/weights.md").read_text()
    (table,) = re.findall(r"^```json\n(.*?)^```", page, re.M | re.S)
    (tmp_path / "manifest.json").write_text(table)
    assert "signs-n" in load_manifest(tmp_path / "manifest.json")
