"""Open a detector in the program that the user names, or in the fastest one here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

from duet.defaults import Runtime
from duet.devices import parse_device
from duet.errors import ConfigError, DuetError
from duet.export.formats import FORMATS
from duet.families.foreign import open_model
from duet.families.runtimes import RUNTIMES
from duet.families.vouching import can_remember
from duet.fastest.kept import Kept, Record, fastest, here, lacking
from duet.inference.detector import LoadedDetector
from duet.inference.load import detector_folder, is_exported
from duet.inference.load import load as load_plain

FORMS = ("onnx", "openvino")
"""Formats whose files are data, and that duet runs."""

Notify = Callable[[str], None]


def load(
    model: str | Path,
    device: str = "cpu",
    *,
    runtime: Runtime | None = None,
    trust: bool = False,
    notify: Notify | None = None,
) -> LoadedDetector:
    """Open a detector as what looks at images.

    Args:
        model: As `duet.load` takes it.
        device: Where it runs.
        runtime: The program that runs it; None: the one of an exported file, else torch. ``onnx``
            and ``openvino`` export the detector on first use, check the file and keep it; ``auto``
            does so for those that are installed, and takes what is the fastest here, on a CPU.
        trust: **Dangerous**, see `duet.load`.
        notify: Told which program runs it, and why.

    Raises:
        ConfigError: No such runtime, or an exported file with another one.
        ModelError: As `duet.load`; or a named runtime computes something else.
        MissingExtraError: Packages for a named runtime are not installed.
    """
    path, tell = Path(model), notify or (lambda _: None)
    if runtime not in (None, *get_args(Runtime)):
        raise ConfigError(
            f"there is no runtime '{runtime}'", where="runtime",
            remedy=f"one of {', '.join(get_args(Runtime))}",
        )  # fmt: skip
    if is_exported(path):
        _require_own(path, runtime)
    if is_exported(path) or runtime in (None, "torch"):
        return load_plain(path, device, trust=trust, notify=notify)
    folder = detector_folder(path)
    if runtime == "auto" and parse_device(device).kind != "cpu":
        tell(f"runtime: torch, since {device} is no CPU")
        return load_plain(path, device, trust=trust, notify=notify)
    try:
        kept = Kept.of(folder)
    except OSError:  # what is wrong with it is told by who opens it
        return load_plain(path, device, trust=trust, notify=notify)
    try:
        found = _kept(kept, folder, runtime, device, trust, tell)
    except (DuetError, OSError) as error:
        if runtime != "auto":
            raise
        tell(f"runtime: torch, since no exported file can be kept: {_said(error)}")
        found = None
    return found or load_plain(path, device, trust=trust, notify=notify)


def _kept(
    kept: Kept, folder: Path, runtime: str, device: str, trust: bool, tell: Notify
) -> LoadedDetector | None:  # fmt: skip
    """Return a detector in another program; None where torch is to run it."""
    installed = [form for form in FORMS if not FORMATS[form].missing]
    forms = installed if runtime == "auto" else [runtime]
    if not forms:
        extras = " or ".join(f'"duet-detect[{RUNTIMES[form].extra}]"' for form in FORMS)
        tell(f"runtime: torch, since no other is installed: pip install {extras}")
        return None
    record = kept.read()
    if record is None or lacking(record, forms, choose=runtime == "auto"):
        record = _made(kept, folder, forms, runtime, trust, tell)
    form = runtime
    if runtime == "auto":
        form = fastest(record.measured[here()])
        tell(_told(form, record))
        if form == "torch":
            return None
    from duet.inference.exported import load_exported

    file = kept.whole(record.exports[form])
    if file is None:  # damaged
        record = _made(kept, folder, forms, runtime, trust, tell)
        file = kept.folder / record.exports[form].file
    return load_exported(file, device)


def _made(
    kept: Kept, folder: Path, forms: list[str], runtime: str, trust: bool, tell: Notify
) -> Record:
    from duet.fastest.make import make

    if not can_remember():
        raise DuetError("your cache folder cannot be written, or others can write to it")
    tell(f"runtime: exporting for {' and '.join(forms)}, once; kept in {kept.folder}")
    return make(
        kept, lambda: open_model(folder, trust=trust, notify=tell), forms, choose=runtime == "auto"
    )


def _require_own(path: Path, runtime: Runtime | None) -> None:
    """Refuse to run an exported file in another program than its own."""
    own = next((form for form, row in RUNTIMES.items() if path.name.endswith(row.ending)), None)
    if runtime in (None, "auto", own) or (runtime, own) == ("torch", "torchscript"):
        return
    raise ConfigError(
        f"an exported file runs in its own program, not in {runtime}",
        where=str(path),
        remedy="leave the runtime out, or give the detector folder",
    )


def _told(form: str, record: Record) -> str:
    """Return the line that says what runs, and why."""
    measured = record.measured[here()]
    others = [f"{measured[name]:.1f} in {name}" for name in measured if name != form]
    against = f" against {' and '.join(others)}" if others else ""
    left_out = "".join(f"; without {name}: {why}" for name, why in record.refused.items())
    return f"runtime: {form}, {measured[form]:.1f} ms an image here{against}{left_out}"


def _said(error: Exception) -> str:
    return error.what if isinstance(error, DuetError) else str(error)
