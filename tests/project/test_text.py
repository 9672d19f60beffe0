"""Names, titles and addresses of strangers in terminals, reports, figures, hints and messages."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from factories_results import make_results, write_gallery_images

from duet.cli.common import PATH, LocalPath, emit, hint
from duet.cli.main import _run, cli
from duet.detections import Detections
from duet.errors import ConfigError, DataError, DuetError, did_you_mean, together
from duet.increments.manifest import PartEntry
from duet.inference.annotate import annotate
from duet.inference.places import find_place
from duet.inference.savers.txt import YoloText
from duet.inference.sources import find_images
from duet.labels import LabelSpace
from duet.progress import note
from duet.report.figures import figures
from duet.report.markdown import render_markdown, write_report
from duet.report.plots import as_png, styled
from duet.results.files import save_results
from duet.text import (
    NAME_LENGTH,
    _quoted_on_windows,
    is_address,
    laid_out,
    markdown,
    markdown_code,
    masked,
    printable,
    shell_line,
    short_list,
    shown,
    spreadsheet,
    without_addresses,
    without_secrets,
)
from duet.weights.transfer import _next_place, _short

RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
NASTY = (
    *(
        "cat\x1b]0;owned\x07",
        "\x9b31mred",
        "a\u202egnp.exe",
        "zero\u200bwidth",
        "up\x1b[1A",
        "\x00",
    ),
    *("line\nError [runtime]: all good", "tab\there", "\u2028next", "tag\U000e0041", "\ud800half"),
)
MATHS = ("$x_$", "Ba$$ coin", "$\\x$", "$5-$10", "a\\$b", "_bg_", "^2", "{x", "%d", "C:\\temp", "$")


@pytest.mark.parametrize("name", NASTY, ids=ascii)
def test_a_terminal_gets_escapes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    seen = printable(name)
    assert seen.isprintable()
    assert printable(seen) == seen
    emit({"name": name}, False, lambda result: f"class {result['name']}\nsecond line")
    note(f"note: {printable(name)}")
    said = capsys.readouterr()
    assert said.out.count("\n") == 2
    assert said.err.count("\n") == 1
    assert not RAW.search(said.out + said.err)
    emit({"name": name}, True, str)
    assert json.loads(capsys.readouterr().out) == {"name": name}


@pytest.mark.parametrize("name", ["café", "苹果", "🍕 pizza", "❤️", "naïve-Ω", "a b", "ёж"])
def test_ordinary_letters_stay(name: str) -> None:
    assert printable(name) == name


def test_no_name_writes_a_line_of_its_own() -> None:
    error = DataError(
        together(["'a\nError [runtime]: all good' is wrong", "b"], summary="bad"), where="x\ny"
    )
    lines = laid_out(f"Error [data]: {error}").splitlines()
    assert [line[:2] for line in lines[1:]] == ["  "] * (len(lines) - 1)
    assert sum("Error [" in line[:9] for line in lines) == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_stdout_takes_any_name(tmp_path: Path, encoding: str) -> None:
    """A terminal that lacks a letter shows its escape; JSON stays JSON."""
    code = (
        "import sys; from duet.cli import main; from duet.cli.common import emit; import click\n"
        "@main.cli.command('show')\n@click.option('--json', 'j', is_flag=True)\n"
        "def show(j): emit({'n': 'caf\\u00e9 \\u82f9 \\ud800'}, j, lambda r: r['n'])\n"
        "main.cli.table['show'] = ''\n"
        "main.cli.get_command = lambda c, n: show\nmain.main()"
    )
    for extra in ([], ["--json"]):
        done = subprocess.run(
            [sys.executable, "-c", code, "show", *extra], capture_output=True, check=True,
            env={"PYTHONIOENCODING": encoding, "LC_ALL": "C", "PYTHONPATH": ":".join(sys.path)},
        )  # fmt: skip
        text = done.stdout.decode("latin-1")
        assert "caf" in text
        assert not done.stderr
    assert json.loads(text) == {"n": "café 苹 \ud800"}


@pytest.mark.parametrize(
    "word",
    [
        *("a b", "x; touch FILE #", "$(id)", "it's", "`id`", "*", "\x1b[2J", "a\nb", "", "-x/y"),
        *("\udcff.jpg", "it's \udc80a", "soft\xadhyphen", "\x9b0"),
    ],
    ids=ascii,
)
def test_hints_are_quoted_for_the_shell(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = shell_line("duet", "predict", Path(word), "IMAGES")
    assert line.isprintable()
    if word.isprintable():
        given = shlex.split(line)[2]
        assert given == (f"./{word}" if word.startswith("-") else str(Path(word)))
    hint("printf", "%s", word)
    line = capsys.readouterr().err.removeprefix("next: ").rstrip("\n")
    assert "\n" not in line
    run = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert os.fsdecode(run.stdout) == word


@pytest.mark.parametrize(
    ("word", "seen"),
    [
        *[(word, word) for word in ("duet", "--out", "C:\\a\\b.yaml", "a=0.5", "夜", "a/b_c-d")],
        *[(word, f'"{word}"') for word in ("", "a b", "a&b", "a;b", "a|b>c", "(x)", "^", "it's")],
        ("C:\\a b\\", '"C:\\a b\\\\"'),  # else the backslash escapes the quote
        *[(word, "...") for word in ("%PATH%", "$(id)", "a`b", 'a"b', "a!", "\u201cx\u201d", "\n")],
    ],
)
def test_hints_on_windows_are_text_to_both_of_its_shells(word: str, seen: str) -> None:
    """What cannot be is left out, and not quoted for one of them."""
    assert _quoted_on_windows(word) == seen


MARKDOWN = (
    *("<script>alert(1)</script>", "[x](http://y)", "![i](j)", "a|b", "**b**", "`c`", "# h", "> q"),
    *("- item", "1. item", "---", "&lt;b&gt;", "a\n\n# own heading", "</td>", "~~s~~", "[a][b]"),
)


@pytest.mark.parametrize("text", MARKDOWN)
def test_markdown_shows_what_is_written(text: str) -> None:
    done = markdown(text)
    assert "\n" not in done
    bare = re.sub(r"\\.", "", done)  # what is left has a meaning
    assert not re.search(r"<[a-z/]|\]\(|[|`*~]|&\w+;|\]\[|^#|^>|^- |^---|^\d\.", bare)


PLAIN = (
    *("1986) x", "123. x", "123456789. x", "## h", "###### h", "#", ">q", "+ x", "=== x", "-- x"),
    *("see http://evil.example/a", "https://evil.example", "www.evil.example", "WWW.evil.example"),
    *("a $x$ b $$y$$", "$5", "&#36;", "\\$", "0.0", "29.2 %", "1986 x", "3.5", "a. b", "12)x"),
)


@pytest.mark.parametrize("text", [*PLAIN, *MARKDOWN, *MATHS])
def test_markdown_renders_as_what_is_written(text: str) -> None:
    """One paragraph of text, in the reader of GitHub's dialect that knows tables and deletions."""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    opened, inline, closed = reader.parse(markdown(text))
    assert (opened.type, closed.type) == ("paragraph_open", "paragraph_close")
    assert {child.type for child in inline.children or ()} <= {"text"}
    assert "".join(child.content for child in inline.children or ()) == " ".join(text.split())


def test_markdown_makes_no_links_or_formulas_of_what_github_adds() -> None:
    raw = " ".join(map(markdown, PLAIN))
    assert not re.search(r"\$|(?<!\\)://|(?i:\bwww\.)", raw)
    for text in ("0.0", "29.2 %", "1986 x", "3.5", "alpha_base", "R[T, D]", "a: b", "12)x"):
        assert markdown(text) == text


@pytest.mark.parametrize("line", ["```", "````\n<script>", "~~~", "a ```` b", "\x1b[2J", ""])
def test_nothing_leaves_a_code_block(line: str) -> None:
    block = markdown_code(["first", line, "last"], "sh").splitlines()
    fence = block[0].removesuffix("sh")
    assert len(block) == 5
    assert block[-1] == fence
    assert all(fence not in inner for inner in block[1:-1])


def test_cells_are_no_formulas() -> None:
    cells = ["=1+1", "+1", "-1", "@x", " =1", "\t=x", "cat", "", 1.5, -2.0, None]
    expected = ["'=1+1", "'+1", "'-1", "'@x", "' =1", "\\t=x", "cat", "", 1.5, -2.0, None]
    assert list(map(spreadsheet, cells)) == expected
    assert not any(RAW.search(str(spreadsheet(name))) for name in NASTY)


@pytest.mark.slow
def test_a_report_of_hostile_names(tmp_path: Path) -> None:
    """Every text of `results.json` is somebody's: code blocks, tables, prose, figures, CSV."""
    names = ("=cmd|x", *MATHS[:3], *NASTY[:7])
    results = make_results((("shop $x_$", names), ("eu\x1b[2J", MARKDOWN[:6])), gallery=1)
    data = results.model_dump(mode="json", by_alias=True)
    data["commands"] = {"next": ["```\n<script>"], "reproduce": ["duet run\x1b[2J ````"]}
    for method in data["strategies"]:
        method["title"] = "$t_$ | x"
    results = type(results).model_validate(data)
    save_results(tmp_path, results)
    write_gallery_images(tmp_path, results)
    (tmp_path / results.gallery[0].file).write_bytes(b"damaged")  # no reason to refuse the rest
    text = write_report(tmp_path).read_text()
    assert not RAW.search(text)
    assert "images are damaged and not shown" in text
    fences = re.findall(r"(?ms)^(`{3,})sh\n.*?^\1$", text)
    assert sorted(map(len, fences)) == [4, 5]
    outside = re.sub(r"(?ms)^(`{3,})sh\n.*?^\1$", "", text)
    assert not re.search(r"(?<!\\)<script|(?<!\\)\|x", outside)
    rows = list(csv.reader(io.StringIO((tmp_path / "results.csv").read_text())))
    assert not any(cell.startswith(("=", "@")) for row in rows for cell in row)


@pytest.mark.parametrize("name", [*MATHS, "x" * 5000, *NASTY[:4]], ids=lambda n: ascii(n)[:20])
@pytest.mark.slow
def test_figures_draw_names_as_text(name: str) -> None:
    import matplotlib

    results = make_results(((name, (name, "b")), ("eu", ("c", "d"))), gallery=0)
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"text.usetex": True, "text.parse_math": True}):
        made = {stem: figures(results)[stem](results) for stem in ("old-classes", "stage-matrix")}
        pictures = [as_png(figure) for figure in made.values()]
    assert dict(matplotlib.rcParams) == before
    assert all(one.startswith(b"\x89PNG") for one in pictures)
    (axes,) = made["old-classes"].axes
    drawn = [label.get_text() for label in axes.get_yticklabels()]
    assert not name.isascii() or not name.isprintable() or drawn[0][:20] == name[:20]
    assert not any(RAW.search(text) for text in drawn)


def test_settings_of_the_user_change_no_figure() -> None:
    import matplotlib

    with matplotlib.rc_context({"text.usetex": True, "font.size": 40}), styled():
        assert not matplotlib.rcParams["text.usetex"]
        assert matplotlib.rcParams["font.size"] == 9.5


def test_templates_never_run_names() -> None:
    results = make_results((("{{ 7 * 191 }}", ("{% raw %}", "{{ results }}")), ("b", ("c",))))
    text = render_markdown(results, plots={})
    assert "1337" not in text
    assert "{{ results }}" in text


# --- lengths --------------------------------------------------------------------------------------


def test_names_have_a_length_and_whole_characters() -> None:
    assert len(LabelSpace(("x" * NAME_LENGTH,))) == 1
    for name in ("x" * (NAME_LENGTH + 1), "\ud800"):
        with pytest.raises(DataError) as caught:
            LabelSpace((name,))
        assert len(str(caught.value)) < 400
    with pytest.raises(ValueError, match="at most 200"):
        PartEntry(increment="a", classes=("x" * 10_000,))


def test_values_in_messages_are_short() -> None:
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    for value in ("x" * 10_000, ["y" * 500] * 10_000, {"k": deep}, 10**6000, deep, b"z" * 9999):
        assert len(shown(value)) < 250
    assert len(short_list(map(str, range(10_000)))) < 200
    assert len(together(["x" * 5000] * 5000, summary="s")) < 15_000
    assert "and 4980 more" in together(["x"] * 5000, summary="s")
    assert len(str(DuetError("x" * 10**6, remedy="y" * 10**6))) < 15_000
    assert did_you_mean("clas77", (f"class{n}" for n in range(50_000)))
    assert did_you_mean("x" * 10**5, ["x" * 10**5]) == ""


def test_long_names_are_drawn_clipped() -> None:
    labels = LabelSpace(("w" * NAME_LENGTH, "ш" * NAME_LENGTH))
    boxes = np.array([[4, 4, 40, 40], [8, 8, 60, 60]], np.float32)
    found = Detections(boxes, np.array([0.9, 0.8], np.float32), np.array([0, 1]), labels)
    drawn = annotate(np.zeros((64, 64, 3), np.uint8), found, ["a", "b"], tell=True)
    assert drawn.shape == (64, 64, 3)


def test_one_class_a_line(tmp_path: Path) -> None:
    names = ["cat", "two\nlines", "a\u2028b", "c\rd", "é"]
    detector: Any = SimpleNamespace(facts=SimpleNamespace(classes=names))
    YoloText(tmp_path, detector)
    written = (tmp_path / "labels" / "classes.txt").read_text(encoding="utf-8")
    assert len(written.splitlines()) == len(names)


# --- secrets --------------------------------------------------------------------------------------

SECRET = "S3CRET"
ADDRESSES = [
    *(
        f"{scheme}://{login}@cam.local:554/live"
        for scheme in ("rtsp", "rtsps", "RTSP", "http", "rtmp", "srt", "foo", "mms")
        for login in (f"admin:{SECRET}", SECRET)
    ),
    *(f"rtsp://admin:{SECRET}{odd}x@cam/1" for odd in "/?#@:;&=%\\ [] "),
    *(f"rtsp://admin:{odd}{SECRET}@cam/1" for odd in "/?#@:;&=%\\[]"),
    *(f"{lead}rtsp://admin:{SECRET}@cam/1" for lead in (" ", "\t", "\n", "\u00a0", '"', "'")),
    *(f"rtsp{middle}admin:{SECRET}@cam/1" for middle in (":/", ":", ":///", ":\\\\", "//", ";//")),
    *(
        f"http://cam/x?{key}={SECRET}"
        for key in ("p", "pw", "access", "X-Amz-Credential", "streamid")
    ),
    *(f"http://cam/x{sign}{SECRET}" for sign in ("#token=", "?", "#", ";", "/", "&k=")),
    f"rtmp://host/app/{SECRET}",
    f"srt://host:9000?streamid=read:cam,s={SECRET}",
    f"srt://host:9000?passphrase={SECRET}&mode=caller",
    f"http://cam/x?token=a@{SECRET}",
    f"http://cam/x?mail=me@{SECRET}.org",
    f"admin:{SECRET}@cam/1",
    f"admin:{SECRET}@cam/clip.mp4",
    f"admin:{SECRET}@cam/*.jpg",
    f"//admin:{SECRET}@cam/1",
    f"rtsp://admin:{SECRET}",
    f"rtsp://[bad:{SECRET}@cam/1",
    f"rtsp://{SECRET}:@cam",
    f"udp://@{SECRET}@239.0.0.1:1234",
    f"https://host/{SECRET}/index.m3u8",
]


@pytest.mark.parametrize("address", ADDRESSES, ids=ascii)
def test_no_spelling_of_an_address_shows_its_secret(address: str) -> None:
    assert is_address(address)
    told = [masked(address)]
    try:
        place = find_place(address)
        told += [place.shown, repr(place)]
    except DataError as error:
        told += [str(error), json.dumps(error.as_dict())]
    with pytest.raises(DataError) as caught:
        find_images(address)
    told.append(str(caught.value))
    assert not any(SECRET in text for text in told)


def test_enough_spellings() -> None:
    assert len(set(ADDRESSES)) >= 60


@pytest.mark.parametrize(
    ("address", "seen"),
    [
        ("rtsp://10.0.0.5:554/stream1", "rtsp://10.0.0.5:554/***"),
        ("rtsp://a:b@cam/1", "rtsp://***@cam/***"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("https://cam.example/", "https://cam.example/"),
        ("srt://host:9000", "srt://host:9000"),
        ("s3://AKIAS3CRET/x", "s3://***"),
    ],
)
def test_what_is_harmless_is_shown(address: str, seen: str) -> None:
    assert masked(address) == seen


def test_files_that_only_look_like_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a:b@c.mp4").touch()
    assert find_place("a:b@c.mp4").kind == "file"
    for path in ("C:/a/b.jpg", "photos/*.jpg", "a@b.jpg", "0", "x:y.mp4", "C:\\cam@home\\a.png"):
        assert not is_address(path)


def test_a_command_that_gets_an_address_prints_no_secret(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words in (
        ["weights", "get", f"https://me:{SECRET}@host/x.pt?token={SECRET}"],
        ["weights", "get", f"https:/me:{SECRET}@host/x.pt"],
        ["run", f"https://me:{SECRET}@host/s.yaml"],
        ["data", "check", f"https://host/s.yaml?t={SECRET}"],
        ["report", f"https://host/run#{SECRET}"],
        ["data", "convert", f"https://me:{SECRET}@host/a", "out", "--to", "coco"],
        ["run", "s.yaml", "--weights", f"HTTPS:me:{SECRET}@host/x", "--dry-run"],
        ["run", "s.yaml", "--weights", f"s3://{SECRET}/x", "--dry-run"],
        ["run", "s.yaml", "--strategies", f"duet-plus,https://host/{SECRET}/m.yaml"],
        ["import", f"https://host/{SECRET}/a.pt"],
        ["merge", f"mine=https://host/{SECRET}/a.pt", "b", "--out", "c"],
        ["predict", "model", "images", "--out", f"rtsp://me:{SECRET}@host/x"],
        ["export", "model", "--to", "onnx", "--check", f"https://host/{SECRET}"],
    ):
        for extra in ([], ["--json"]):
            assert _run([*words, *extra]) != 0
            said = capsys.readouterr()
            assert SECRET not in said.out + said.err


def test_every_path_of_the_command_line_refuses_addresses() -> None:
    import click

    def commands(group: click.Group) -> list[click.Command]:
        found = []
        for name in group.list_commands(click.Context(group)):
            command = group.get_command(click.Context(group), name)
            assert command is not None
            found += commands(command) if isinstance(command, click.Group) else [command]
        return found

    options = [option for command in commands(cli) for option in command.params]
    paths = [option.type for option in options if isinstance(option.type, click.Path)]
    assert len(paths) > 50
    assert all(isinstance(path, LocalPath) for path in paths)


def test_a_path_that_looks_like_an_address_and_is_there_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("me:you@home").mkdir()
    assert PATH.convert("me:you@home", None, None) == Path("me:you@home")
    with pytest.raises(ConfigError, match="expected a path on this machine"):
        PATH.convert("me:she@home", None, None)


@pytest.mark.parametrize(
    "place",
    [
        f"https://me:{SECRET}@h/a?b", f"rtsp://me:{SECRET}@h/a", f"https://h/{SECRET}/a",
        f"HTTPS:me:{SECRET}@h/a", f"s3://{SECRET}/a",
    ],
)  # fmt: skip
@pytest.mark.parametrize("key", ["path", "train", "data", "root"])
def test_addresses_in_files_of_strangers_are_masked(
    key: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"path": ".", "train": "images", "val": "images", "names": ["cat"]}
    item = {"domain": "d", "data": "data.yaml", "classes": ["cat"]}
    series: dict[str, Any] = {"name": "a", "root": ".", "increments": [item]}
    item |= {key: place} if key == "data" else {}
    series |= {key: place} if key == "root" else {}
    data |= {key: place} if key in data else {}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(data))
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(series))
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump({**series, "defaults": place}))
    for words in (
        ["data", "check", str(tmp_path / "wrong.yaml")],
        ["data", "check", str(tmp_path / "s.yaml")],
        ["run", str(tmp_path / "s.yaml"), "--dry-run"],
        ["data", "convert", str(tmp_path / "s.yaml"), str(tmp_path / "out"), "--to", "coco"],
    ):
        for extra in ([], ["--json"]):
            assert _run([*words, *extra]) != 0
            said = capsys.readouterr()
            assert "***" in said.out + said.err
            assert SECRET not in said.out + said.err


def test_messages_of_other_programs_hold_no_secret() -> None:
    import requests
    from urllib3.exceptions import MaxRetryError, NewConnectionError

    url = f"https://me:{SECRET}@host/x?token={SECRET}"
    inner = NewConnectionError(None, f"refused {url}")  # type: ignore[arg-type]
    errors = [
        requests.exceptions.ConnectionError(MaxRetryError(None, url, inner)),  # type: ignore[arg-type]
        requests.exceptions.InvalidProxyURL(f"check {url}"),
        requests.exceptions.ProxyError(url),
        requests.exceptions.InvalidURL(url),
        requests.exceptions.ConnectionError(OSError(111, "Connection refused")),
    ]
    assert not any(SECRET in _short(error) for error in errors)
    assert _short(errors[-1]) == "Connection refused"
    assert SECRET not in str(DuetError(f"open failed: '{url}'", where=url, remedy=f"see {url}"))
    assert SECRET not in without_addresses(f"no file 'a/https:/h/{SECRET}/b', HTTP:a:{SECRET}@h")
    assert without_addresses("[a] C:/x/b.jpg:3: class a:b") == "[a] C:/x/b.jpg:3: class a:b"
    assert without_secrets("see https://docs.example/a/b.") == "see https://docs.example/a/b."


@pytest.mark.parametrize(
    "location", ["http://[::1", "https://[", "http://evil", "file:///etc/passwd", "//[x", "ftp://a"]
)
def test_no_redirect_is_a_traceback(location: str) -> None:
    assert _next_place("https://host/a", location) is None


def test_ordinary_redirects_are_followed() -> None:
    assert _next_place("https://host/a/b", "../c") == "https://host/c"
    assert _next_place("https://host/a", "https://other/b?k=1") == "https://other/b?k=1"
