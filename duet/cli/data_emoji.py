"""`duet data emoji`: draw the Emoji series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from duet.cli.common import PATH, emit, json_option, tell_leftovers
from duet.progress import counted

EPILOG = """\b
Examples:
  duet data emoji datasets/emoji
  duet data emoji datasets/emoji-4phase --protocol 4-phase
  duet data emoji datasets/tiny --domains flat,sketch --protocol none --train 40 --val 20 --test 20
"""


@click.command("emoji", epilog=EPILOG)
@click.argument("directory", type=PATH, metavar="DIR")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--domains", help="Comma-separated; the protocol's when left out.")
@click.option(
    "--protocol",
    type=click.Choice(
        [
            "2-phase",
            "4-phase",
            "class-only",
            "domain-only",
            "mtda",
            "8-chain",
            "12-chain",
            "icons",
            "none",
        ]
    ),
    default="2-phase",
    show_default=True,
    help="Which classes each domain's training scenes are sure to show.",
)
@click.option("--train", type=click.IntRange(min=1), default=450, show_default=True)
@click.option("--val", type=click.IntRange(min=0), default=150, show_default=True)
@click.option("--test", type=click.IntRange(min=0), default=250, show_default=True)
@click.option(
    "--variants",
    type=click.Choice(["own", "shared"]),
    default="own",
    show_default=True,
    help="own: val and test also use emoji and backgrounds that training never shows.",
)
@json_option
def emoji(
    directory: Path, domains: str | None, protocol: str, as_json: bool, **options: Any
) -> None:
    """Draw the Emoji series: 20 classes in domains that really differ, with exact boxes.

    With --protocol icons it is another series: 16 other classes of other artwork. Nothing is
    downloaded. Counts are scenes per domain. Equal options give equal files; a finished build with
    the same options is verified and reused.
    """
    from duet.emoji.build import build
    from duet.emoji.vocabulary import FOCI

    chosen = [name.strip() for name in domains.split(",")] if domains else list(FOCI[protocol])
    tell_leftovers(directory)
    with counted("drawing scenes") as step:
        report = build(
            directory, domains=chosen or ["flat", "comic"], focus=FOCI[protocol], progress=step,
            **options,
        )  # fmt: skip
    emit({"schema": 1, **report.as_dict()}, as_json, _text)


def _text(report: dict[str, Any]) -> str:
    """Return one line per domain and split."""
    lines = [f"{'domain':<12} {'split':<6} images  objects  per class"]
    for domain, splits in report["counts"].items():
        for split, images in splits.items():
            numbers = report["objects"][domain][split].values()
            lines.append(
                f"{domain:<12} {split:<6} {images:>6} {sum(numbers):>8}  "
                f"{min(numbers)} to {max(numbers)}"
            )
    state = (
        "already there, verified" if report["reused"] else f"written in {report['seconds']:.1f} s"
    )
    credits = Path(report["directory"]) / "ATTRIBUTION.md"
    return "\n".join([*lines, f"{state}; sha256 {report['sha256'][:16]}; credits in {credits}"])
