"""The report: schema, words, tables, figures, gallery, Markdown and the command."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from factories_results import FOUR_PHASE, TWO_PHASE, Steps, make_results, write_gallery_images
from PIL import Image

from duet.cli.main import cli
from duet.errors import DataError
from duet.evaluation.ap import ClassAP
from duet.merging.trace import MergeTrace, TensorTrace
from duet.report import cautions, changes, phrases, tables, words
from duet.report.figures import figures, natural_key
from duet.report.gallery import picture
from duet.report.markdown import render_markdown, write_report
from duet.report.plots import as_png
from duet.results.files import load_results, save_results
from duet.results.schema import ClassScores, MergeEntry, Results
from duet.text import markdown as escape_markdown

ONE_PHASE: Steps = TWO_PHASE[:1]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a complete report once; tests only read it."""
    folder = tmp_path_factory.mktemp("run")
    results = make_results(gallery=1)
    save_results(folder, results)
    write_gallery_images(folder, results)
    write_report(folder)
    return folder


def _changed(results: Results, **fields: Any) -> Results:
    return Results.model_validate({**results.model_dump(), **fields})


# --- results.json -------------------------------------------------------------------------------


def test_results_round_trip(tmp_path: Path) -> None:
    results = make_results(FOUR_PHASE, gallery=2)
    assert save_results(tmp_path, results) == tmp_path / "results.json"
    assert load_results(tmp_path) == results
    assert results.main.stage_matrix().get(1, *FOUR_PHASE[0]) > 0


def _unknown_key(data: dict[str, Any]) -> None:
    data["protocol"]["sed"] = data["protocol"].pop("seed")


def _escape(data: dict[str, Any]) -> None:
    data["gallery"][0]["file"] = "../secret.png"


def _no_such_main(data: dict[str, Any]) -> None:
    data["main_strategy"] = "nobody"


def _twice(data: dict[str, Any]) -> None:
    data["strategies"].append(data["strategies"][0])


def _late(data: dict[str, Any]) -> None:
    data["strategies"][0]["matrix"][0]["stage"] = 9


def _percentages(data: dict[str, Any]) -> None:
    data["strategies"][0]["matrix"][0]["map50"] = 91.1


def _newer(data: dict[str, Any]) -> None:
    data["schema_version"] = 3


@pytest.mark.parametrize(
    ("damage", "error", "expected"),
    [
        pytest.param(_unknown_key, DataError, "did you mean 'seed'", id="unknown-key"),
        pytest.param(_escape, DataError, "inside the run folder", id="path-escapes"),
        pytest.param(_no_such_main, DataError, "'nobody' is not one of", id="main-strategy"),
        pytest.param(_twice, DataError, "unique", id="strategy-twice"),
        pytest.param(_late, DataError, "stage 9", id="stage-beyond-the-series"),
        pytest.param(_percentages, DataError, r"map50.*91\.1", id="percent-for-fraction"),
        pytest.param(_newer, DataError, "schema_version is 3", id="newer-schema"),
    ],
)
def test_damaged_results_are_refused(
    tmp_path: Path,
    damage: Callable[[dict[str, Any]], None],
    error: type[Exception],
    expected: str,
) -> None:
    path = save_results(tmp_path, make_results(gallery=1))
    data = json.loads(path.read_text())
    damage(data)
    path.write_text(json.dumps(data))
    with pytest.raises(error, match=expected):
        load_results(tmp_path)


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_missing_or_broken_results(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(DataError, match=r"no results\.json|cannot be read as JSON|schema_version"):
        load_results(tmp_path)


@pytest.mark.slow
def test_csv_holds_every_number_in_long_form(run_folder: Path) -> None:
    results = load_results(run_folder)
    with (run_folder / "results.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["strategy", "quantity", "stage", "domain", "classes", "value"]
    ri = [r for r in rows if r["strategy"] == "duet-plus" and r["quantity"] == "ri"]
    assert [float(row["value"]) for row in ri] == [results.main.indices.ri]
    cells = [r for r in rows if r["strategy"] == "duet-plus" and r["quantity"] == "map50"]
    assert len(cells) == len(results.main.matrix)
    assert cells[0]["classes"].split(";") == list(TWO_PHASE[0][1])
    assert {row["quantity"] for row in rows} >= {"ap50", "ap", "alpha", "sign_conflict", "pi_term"}
    assert sum(row["strategy"] == "reference" for row in rows) == 3


def test_conversions_from_the_other_packages() -> None:
    found = ClassAP({"cat": 0.5, "dog": None}, {"cat": 0.25}, objects={"cat": 3, "dog": 0})
    scores = ClassScores.of(2, "comic", found)
    assert (scores.ap50["dog"], scores.ap["cat"], scores.objects["cat"]) == (None, 0.25, 3)
    row = TensorTrace(30, 0.45, 0.1, 1.0, 2.0, 0.5, 0.2)
    big = TensorTrace(10, 0.55, 0.1, 1.0, 2.0, 0.5, 0.6)
    entry = MergeEntry.of(2, MergeTrace("duet", {"gamma": 0.1}, {"a": row, "b": big}, {}))
    assert entry.sign_conflict == pytest.approx((30 * 0.2 + 10 * 0.6) / 40)


# --- words and tables ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (phrases.percent(0.9041), "90.4 %"),
        (phrases.percent(1.2, unit=False), "120.0"),
        (phrases.percent(None), "–"),
        (phrases.points(-0.083), "−8.3 points"),
        (phrases.points(-0.0001, unit=False), "+0.0"),
        (phrases.points(None), "–"),
        (phrases.duration(9.04), "9.0 s"),
        (phrases.duration(75), "1 min 15 s"),
        (phrases.duration(3 * 3600 + 60), "3 h 01 min"),
        (phrases.listed(["a", "b", "c"]), "a, b and c"),
        (phrases.listed([str(n) for n in range(9)], limit=3), "0, 1, 2 and 6 more"),
        (phrases.listed([]), ""),
        (phrases.count_of(1, "class", "classes"), "1 class"),
    ],
)
def test_phrases(text: str, expected: str) -> None:
    assert text == expected


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (FOUR_PHASE[1][1], "C2"),
        (FOUR_PHASE[0][1] + FOUR_PHASE[1][1], "C1–2"),
        (FOUR_PHASE[0][1] + FOUR_PHASE[2][1], "C1+C3"),
        (("cat", "dog"), "cat and dog"),
    ],
)
def test_class_sets_have_short_names(classes: tuple[str, ...], expected: str) -> None:
    assert phrases.set_name(make_results(FOUR_PHASE), classes) == expected


def test_the_answer_names_the_numbers_of_the_main_strategy() -> None:
    results = make_results()
    kept, learned, compared = words.answer(results)
    indices = results.main.indices
    assert phrases.percent(indices.ri) in kept
    assert "10 old classes" in kept
    assert phrases.percent(indices.pi) in learned
    assert "9 new classes (lion, panda" in learned
    assert phrases.percent(indices.gi) in learned
    assert "rank 1 of 5 strategies" in compared
    assert "Frozen trunk" in compared


def test_worst_classes_are_named_with_both_values() -> None:
    results = make_results()
    worst = min(
        (item for item in changes.class_changes(results, results.main) if item.increment == 1),
        key=lambda item: item.change or 0,
    )
    line = next(line for line in words.lost(results) if "old classes lost more" in line)
    assert f"most: {worst.name} {phrases.points(worst.change, unit=False)}" in line


@pytest.mark.parametrize("steps", [ONE_PHASE, TWO_PHASE, FOUR_PHASE], ids=["1", "2", "4"])
@pytest.mark.parametrize("references", [True, False], ids=["references", "none"])
def test_every_section_has_words_for_every_series(steps: Steps, references: bool) -> None:
    results = make_results(steps, references=references)
    sections = (words.answer, words.kept, words.gained, words.lost, cautions.cautions)
    for section in sections:
        assert section(results)
        assert all(re.fullmatch(r"\S.*\.", line) for line in section(results))
    markdown = render_markdown(results, plots={})
    assert "None" not in markdown
    assert not re.search(r"\bnan\b", markdown)
    if not references and len(steps) > 1:
        assert "no reference models were trained" in markdown


def test_summary_table_puts_the_main_strategy_first() -> None:
    results = _changed(make_results(), main_strategy="seq-ft")
    table = tables.summary_table(results)
    assert table.rows[0][0] == "Plain fine-tuning"
    assert [len(row) for row in table.rows] == [len(table.header)] * 5
    assert table.header[1] == "RI"
    assert len({len(line) for line in table.as_text().splitlines()}) == 1
    with pytest.raises(DataError, match="a row needs 2 cells, got 1"):
        tables.Table(("a", "b"), (("1",),))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a|b", r"a\|b"),
        ("<script>", r"\<script>"),
        ("i < T, R[T, D_i]", "i < T, R[T, D_i]"),
        ("*bold* `code`", r"\*bold\* \`code\`"),
        ("[x](http://y)", r"[x\](http\://y)"),
        ("two\nlines", "two lines"),
        ("# not a title", r"\# not a title"),
    ],
)
def test_markdown_is_escaped(text: str, expected: str) -> None:
    assert escape_markdown(text) == expected


# --- pictures -----------------------------------------------------------------------------------


def test_network_order_is_natural_order() -> None:
    names = ["model.10.conv", "model.2.conv", "model.2.bn", "stem", "model.2.m.11", "model.2.m.2"]
    assert sorted(names, key=natural_key) == [
        "model.2.bn", "model.2.conv", "model.2.m.2", "model.2.m.11", "model.10.conv", "stem",
    ]  # fmt: skip


def test_figures_are_offered_only_where_there_is_something_to_show() -> None:
    every = {"indices", "stage-matrix", "old-classes", "new-classes", "merge"}
    assert set(figures(make_results())) == every
    assert set(figures(make_results(ONE_PHASE))) == {"indices", "stage-matrix"}


def test_figures_are_deterministic() -> None:
    results = make_results()
    draw = figures(results)["indices"]
    figure = draw(results)
    assert "old knowledge kept" in figure.axes[0].get_title(loc="left")
    assert "89.3" in [text.get_text() for text in figure.axes[0].texts]
    assert as_png(figure) == as_png(draw(results))


def test_stage_matrix_figure_holds_every_number() -> None:
    results = make_results(FOUR_PHASE)
    *panels, _colorbar = figures(results)["stage-matrix"](results).axes
    texts = {text.get_text() for axes in panels for text in axes.texts}
    assert {phrases.percent(cell.map50, unit=False) for cell in results.main.matrix} <= texts


# --- the whole report ---------------------------------------------------------------------------


def test_report_opens_with_the_answer_and_shows_every_section(run_folder: Path) -> None:
    results = load_results(run_folder)
    text = (run_folder / "report.md").read_text()
    title, answer, table = text.split("\n\n")[:3]
    assert title == "# synthetic: what was kept, gained and lost"
    assert answer == " ".join(words.answer(results))
    assert table.startswith("| Strategy | RI | GI | PI | RAI | H |")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings == [
        "What was kept", "What was gained", "What was lost", "Before anyone relies on this",
        "The same images before and after", "Every stage", "Every class",
        "Every ratio behind the indices", "What the merge did", "Protocol",
        "What the indices mean", "What it cost", "How to reproduce", "What next",
    ]  # fmt: skip
    assert "\n\n\n" not in text
    assert "duet run series.yaml --out RUN --seed 0" in text


def test_every_picture_of_the_report_exists_and_is_a_picture(run_folder: Path) -> None:
    text = (run_folder / "report.md").read_text()
    linked = re.findall(r"\]\((plots/[^)]+)\)", text)
    assert len(linked) == 6  # five figures and an image
    for name in linked:
        with Image.open(run_folder / name) as picture:
            assert min(picture.size) > 200
    assert sorted(p.name for p in (run_folder / "plots").iterdir() if p.name[0] == ".") == []


def test_tables_are_whole(run_folder: Path) -> None:
    for block in (run_folder / "report.md").read_text().split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) <= 1
        assert not rows or len(rows) >= 3


@pytest.mark.slow
def test_needs_nothing_but_results_json_and_the_images_it_names(
    tmp_path: Path, run_folder: Path
) -> None:
    results = _changed(load_results(run_folder), strategies=[load_results(run_folder).main])
    save_results(tmp_path, results)
    (tmp_path / "results.csv").unlink()
    write_report(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "1 of 1 images are not in the run folder and not shown: gallery/00.png." in text
    assert "No other strategy was run" in text
    assert not list((tmp_path / "plots").glob("gallery*"))


def test_pictures_of_an_earlier_report_are_removed(tmp_path: Path) -> None:
    save_results(tmp_path, make_results(ONE_PHASE))
    plots = tmp_path / "plots"
    plots.mkdir()
    for name in ("gallery.jpg", "gallery-09.jpg", "indices.svg", "merge.png", "my-gallery.jpg"):
        (plots / name).write_text("old")
    write_report(tmp_path)
    assert sorted(path.name for path in plots.iterdir()) == [
        "indices.png", "my-gallery.jpg", "stage-matrix.png",
    ]  # fmt: skip


def test_a_file_that_is_no_image_is_named(tmp_path: Path, run_folder: Path) -> None:
    shutil.copy(run_folder / "results.json", tmp_path)
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery" / "00.png").write_text("not an image")
    with pytest.raises(DataError, match=r"gallery/00\.png: cannot be read as an image"):
        picture(tmp_path / "gallery" / "00.png")


def test_command_prints_path_and_table(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The writing is tested above; here only what the command prints.
    monkeypatch.setattr(
        "duet.report.markdown.write_report", lambda folder, results: Path(folder) / "report.md"
    )
    outcome = CliRunner().invoke(cli, ["report", str(run_folder)])
    assert outcome.exit_code == 0, outcome.output
    assert f"report: {run_folder / 'report.md'}" in outcome.output
    assert "Plain fine-tuning" in outcome.output
    machine = json.loads(CliRunner().invoke(cli, ["report", str(run_folder), "--json"]).output)
    indices = load_results(run_folder).main.indices
    assert machine["summary"]["duet-plus"]["ri"] == indices.ri
    assert len(machine["answer"]) == 3


def test_command_fails_clearly_without_a_run(tmp_path: Path) -> None:
    outcome = CliRunner().invoke(cli, ["report", str(tmp_path)])
    assert isinstance(outcome.exception, DataError)
    assert "no results.json" in str(outcome.exception)


def test_importing_the_command_loads_nothing_heavy() -> None:
    code = (
        "import sys, duet.cli.report; first = set(sys.modules);"
        "import duet.report.markdown, duet.evaluation.indices;"
        "assert not first & {'numpy', 'pydantic'};"
        "assert not set(sys.modules) & {'torch', 'matplotlib', 'cv2', 'supervision', 'jinja2'}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
