"""Write the Emoji series as YOLO folders, complete or not at all, equal to the byte each time.

Each scene depends only on ``(seed, domain, split, index)``, so neither the order nor the choice
of domains changes a file. JPEG and drawing libraries of other versions may: the stamp file
records theirs.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from duet.emoji import packages
from duet.emoji.plan import DOMAINS, Plan, Progress, check
from duet.emoji.vocabulary import FOCI, MAIN, Variants
from duet.errors import DataError, together
from duet.files import atomic_folder, read_json, sha256_json

STAMP = "emoji.json"

CREDITS = Path(__file__).with_name("ATTRIBUTION.md")
"""The attribution text that must travel with the images."""


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What lies on disk after a build.

    Attributes:
        directory: The folder that was asked for.
        counts: Images per domain and split.
        objects: Labelled objects per domain, split and class name.
        reused: True when a finished build with the same parameters was found and verified.
        domain_sha256: Per domain: hash of its data.yaml, images and labels.
        sha256: Hash over the domains asked for.
        seconds: Time this call took.
    """

    directory: Path
    counts: Mapping[str, Mapping[str, int]]
    objects: Mapping[str, Mapping[str, Mapping[str, int]]]
    reused: bool
    domain_sha256: Mapping[str, str]
    sha256: str
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON-ready data."""
        return {**asdict(self), "directory": str(self.directory)}


def build(
    directory: Path,
    *,
    seed: int = 0,
    domains: Sequence[str] = ("flat", "comic"),
    train: int = 450,
    val: int = 150,
    test: int = 250,
    size: int = 160,
    focus: Mapping[str, Sequence[str]] | None = None,
    variants: Variants = "own",
    progress: Progress | None = None,
) -> BuildReport:
    """Build the series, or reuse a finished build with the same parameters.

    Args:
        directory: Target; must be absent, empty, or a finished build with these parameters
            (which may hold more domains than asked for).
        seed: Any non-negative integer.
        domains: Names from `duet.emoji.plan.DOMAINS` that show the same classes.
        train: Scenes per domain for training.
        val: Scenes per domain for tuning; drawn like test, with another seed.
        test: Scenes per domain for reporting.
        size: Image side, pixels, in range [64, 640].
        focus: Per domain, the classes of which every training scene holds at least one; domains
            not named have none. None takes the 2-phase protocol's (`vocabulary.FOCI`).
        variants: ``own``: val and test also use held-out emoji and other backgrounds;
            ``shared``: the training ones only.
        progress: Called with (scenes done, scenes in all) after every scene.

    Raises:
        ConfigError: A parameter is out of range or unknown; all problems are named.
        DataError: The folder holds something else, or a damaged build.
        MissingExtraError: A package is not installed.
        DuetError: The file system refuses the write.
    """
    foci = FOCI["2-phase"] if focus is None else focus
    plan = Plan(
        kind="series",
        vocabulary=next((DOMAINS[name] for name in domains if name in DOMAINS), MAIN),
        domains=tuple(domains),
        splits={"train": train, "val": val, "test": test},
        seed=seed,
        size=size,
        variants=variants,
        focus={name: tuple(classes) for name, classes in foci.items()},
    )
    return draw(directory, plan, progress)


def draw(directory: Path, plan: Plan, progress: Progress | None = None) -> BuildReport:
    """Draw what a plan says, or reuse a finished build of it; arguments and errors as `build`."""
    started = time.perf_counter()
    check(plan)
    records = _finished(directory, plan)
    reused = records is not None
    if records is None:
        packages.require()
        from duet.emoji.writing import write_domains

        with atomic_folder(directory) as temporary:
            records = write_domains(temporary, plan, progress)
            for name, record in records.items():
                record["sha256"] = domain_sha256(temporary / name)
            stamp = {
                **plan.parameters(),
                "versions": packages.versions(),
                "domains": {name: records[name] for name in sorted(records)},
            }
            shutil.copyfile(CREDITS, temporary / CREDITS.name)
            (temporary / STAMP).write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")
    hashes = {name: str(records[name]["sha256"]) for name in plan.domains}
    return BuildReport(
        directory=directory,
        counts={name: dict(plan.splits) for name in plan.domains},
        objects={name: records[name]["objects"] for name in plan.domains},
        reused=reused,
        domain_sha256=hashes,
        sha256=sha256_json(hashes),
        seconds=time.perf_counter() - started,
    )


def domain_sha256(folder: Path) -> str:
    """Return the SHA-256 of a domain's data.yaml, images and labels with their relative names.

    Other files (a trainer's ``labels/train.cache``, say) do not count.
    """
    files = [folder / "data.yaml", *folder.glob("images/*/*.jpg"), *folder.glob("labels/*/*.txt")]
    digest = hashlib.sha256()
    for path in sorted(files):
        content = path.read_bytes() if path.is_file() else b""
        digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _finished(directory: Path, plan: Plan) -> dict[str, Any] | None:
    """Return the domain records of a finished, intact build with this plan; None to build.

    Raises:
        DataError: The folder holds anything else.
    """
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return None
    where, remedy = str(directory), "choose another folder, or remove this one first"
    try:
        stamp = read_json(directory / STAMP)
        records: dict[str, Any] = dict(stamp["domains"])
        found = {name: stamp.get(name) for name in plan.parameters()}
    except (DataError, KeyError, TypeError, ValueError):
        raise DataError(
            "is not empty and holds no Emoji build", where=where, remedy=remedy
        ) from None
    differing = [
        f"{name}: there {found[name]!r}, asked for {value!r}"
        for name, value in plan.parameters().items()
        if found[name] != value
    ]
    for name in plan.domains:
        focus = list(plan.focus.get(name, ()))
        if name not in records:
            differing.append(f"domain {name}: not there")
        elif records[name]["focus"] != focus:
            differing.append(f"focus of {name}: there {records[name]['focus']}, asked for {focus}")
        elif records[name]["sha256"] != domain_sha256(directory / name):
            differing.append(f"domain {name}: files were changed, added or lost since it was built")
    if differing:
        summary = "holds an Emoji build that is not the one asked for"
        raise DataError(together(differing, summary=summary), where=where, remedy=remedy)
    return records
