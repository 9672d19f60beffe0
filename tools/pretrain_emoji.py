"""Train θ_0, "the pretrained detector", on 60 emoji classes that the Emoji series does not use.

    python tools/pretrain_emoji.py --out weights/yolo11n-emoji.safetensors

Writes float16 safetensors (its float32 upcast *is* θ_0) and a manifest with sha256, classes,
command, seeds and mAP50. About eleven minutes on one CPU core.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from duet.emoji.build import BuildReport, draw
from duet.emoji.plan import Plan, Progress
from duet.emoji.vocabulary import Emoji, Vocabulary

_PRETRAINING = {
    # food
    "apple": "1f34e", "banana": "1f34c", "grapes": "1f347", "watermelon": "1f349",
    "strawberry": "1f353", "cherries": "1f352", "pineapple": "1f34d", "carrot": "1f955",
    "corn": "1f33d", "broccoli": "1f966", "avocado": "1f951", "aubergine": "1f346",
    "mushroom": "1f344", "bread": "1f35e", "cheese": "1f9c0", "pizza": "1f355",
    "hamburger": "1f354", "hot dog": "1f32d", "doughnut": "1f369", "ice cream": "1f366",
    "cupcake": "1f9c1", "pretzel": "1f968",
    # wild animals; none with the body of a dog, cat, horse or cow (fox, lion, zebra, giraffe, ...)
    "elephant": "1f418", "turtle": "1f422", "whale": "1f40b", "octopus": "1f419",
    "crab": "1f980", "snail": "1f40c", "butterfly": "1f98b", "bee": "1f41d", "frog": "1f438",
    "kangaroo": "1f998", "crocodile": "1f40a", "snake": "1f40d", "fish": "1f41f",
    "hedgehog": "1f994", "shark": "1f988", "spider": "1f577", "ladybird": "1f41e",
    "squirrel": "1f43f",
    # plants, none in a pot
    "sunflower": "1f33b", "rose": "1f339", "maple leaf": "1f341", "fir tree": "1f332",
    # things; no vehicle, furniture, screen or bottle
    "key": "1f511", "hammer": "1f528", "scissors": "2702", "umbrella": "2602",
    "guitar": "1f3b8", "trumpet": "1f3ba", "football": "26bd", "basketball": "1f3c0",
    "gift": "1f381", "backpack": "1f392", "alarm clock": "23f0", "light bulb": "1f4a1",
    "top hat": "1f3a9", "glasses": "1f453", "crown": "1f451", "bell": "1f514",
}  # fmt: skip

PRETRAINING = Vocabulary({name: Emoji((code,)) for name, code in _PRETRAINING.items()})
"""Sixty classes that share no emoji with those of the series."""


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default="weights/yolo11n-emoji.safetensors")
@click.option(
    "--work", type=click.Path(path_type=Path), default=None, help="Keep data and training here."
)
@click.option("--architecture", default="yolo11n.yaml", show_default=True)
@click.option("--scenes", default=5000, show_default=True, help="Training scenes.")
@click.option("--epochs", default=11, show_default=True)
@click.option("--lr", default=2e-3, show_default=True, help="Peak learning rate.")
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def main(
    out: Path, work: Path | None, architecture: str, scenes: int, epochs: int, lr: float,
    seed: int, threads: int, as_json: bool,
) -> None:  # fmt: skip
    """Build the scenes, train, evaluate on unseen scenes, write the weights."""
    with tempfile.TemporaryDirectory() as temporary:
        manifest = pretrain(
            work or Path(temporary), out, architecture, scenes, epochs, lr, seed, threads
        )
    if as_json:
        print(json.dumps(manifest, indent=2))
    else:
        print(f"{out}  mAP50 {manifest['map50']:.3f} on {manifest['test_scenes']} unseen scenes")


def pretrain(
    work: Path,
    out: Path,
    architecture: str,
    scenes: int,
    epochs: int,
    lr: float,
    seed: int,
    threads: int,
) -> dict[str, Any]:
    """Return the manifest that was written beside the weights."""
    from duet.families.table import resolve_family
    from duet.increments.base import save_base
    from duet.runs.evaluate import evaluate_state
    from duet.series import eval_slice
    from duet.series.formats.table import resolve

    report = build(work / "mixed", seed=seed, train=scenes)
    source = work / "mixed" / "mixed" / "data.yaml"
    data = resolve("yolo").read(source, domain="mixed", verify="header").data
    classes = data.labels.names
    trained = train(work, data, architecture, epochs, lr, seed, threads)
    whole = trained.state
    flat = resolve_family(whole.family).whole(whole)
    result = evaluate_state(whole, eval_slice(data, classes, "test"), image_size=160)
    info = {
        "name": out.stem,
        "architecture": architecture,
        "classes": list(classes),
        "licence": "AGPL-3.0-or-later",
        "command": f"python tools/pretrain_emoji.py --architecture {architecture} "
        f"--epochs {epochs} --scenes {scenes} --lr {lr:g}",
        "seed": seed,
        "training_scenes": scenes,
        "epochs": epochs,
        "data_sha256": report.sha256,
        "image_size": 160,
        "map50": round(result.map50(classes), 4),
        "test_scenes": len(data.splits["test"].images),
        "seconds": trained.seconds,
    }
    save_base(out, flat, info=info)
    return info


def build(
    directory: Path, *, seed: int = 0, train: int = 5000, test: int = 400, size: int = 160,
    progress: Progress | None = None,
) -> BuildReport:  # fmt: skip
    """Build the one-domain dataset ``mixed``: sixty other classes in mixed styles.

    Its data.yaml uses the test images as val, too: there is nothing to tune on it.
    """
    plan = mixed({"train": train, "test": test}, seed=seed, size=size)
    return draw(directory, plan, progress)


def mixed(splits: dict[str, int], *, seed: int = 0, size: int = 160) -> Plan:
    """Return what to draw: every style of the series, on photographs and gradients."""
    from duet.emoji.backgrounds import gradient, one_of, photo
    from duet.emoji.finishing import camera
    from duet.emoji.glyphs import Artwork
    from duet.emoji.looks import Look
    from duet.emoji.styles import inked, swapped

    look = Look(
        artworks=(
            (Artwork("twemoji"), 0.35),
            (Artwork("openmoji"), 0.3),
            (Artwork("twemoji", inked), 0.2),
            (Artwork("twemoji", swapped), 0.15),
        ),
        # Photographs twice: the sharpest clutter teaches most about what is not an object. No
        # halftone or paper: the series' later domains must be new to the pretrained detector.
        background=one_of(photo, photo, gradient),
        finish=camera,
        shadow=0.3,
    )
    return Plan(
        kind="pretraining", vocabulary=PRETRAINING, domains=("mixed",), splits=splits, seed=seed,
        size=size, variants="own", focus={}, looks={"mixed": look},
    )  # fmt: skip


def train(
    work: Path, data: Any, architecture: str, epochs: int, lr: float, seed: int, threads: int
) -> Any:
    """Train a detector with random weights on the scenes, through duet's own lab."""
    from duet.families.table import family_of, resolve_family
    from duet.increments.base import StartWeights
    from duet.runs.lab import Lab
    from duet.series import train_slice
    from duet.training.job import Job, JobPart
    from duet.training.schedule import Augmentation, Schedule

    classes = data.labels.names
    name = family_of(architecture)
    family = resolve_family(name)
    fresh = StartWeights(family.fresh(architecture, classes, seed=seed).tensors)
    start = family.start_state(
        fresh, architecture=architecture, head="rows", classes=classes, increment="mixed",
        seed=seed,
    )  # fmt: skip
    schedule = Schedule(
        epochs=epochs, batch=16, image_size=160, lr=lr, warmup_epochs=0.5, threads=threads,
        weight_decay=5e-4, augmentation=Augmentation(scale=0.4, translate=0.1),
    )  # fmt: skip
    job = Job(
        family=name, architecture=architecture, head="rows", phase="base", schedule=schedule,
        seed=seed, parts=(JobPart(increment="mixed", classes=classes),),
    )  # fmt: skip
    lab = Lab(work / "stages", listen=_print_progress)
    return lab.train("θ_0", job, start, train_slice(data, classes))


def _print_progress(title: str, record: dict[str, Any]) -> None:
    if record.get("done", 0) % 50 == 0 and "done" in record:
        print(f"{title}: {record['done']}/{record['total']} loss {record['loss']}", file=sys.stderr)


if __name__ == "__main__":
    main()
