"""What other packages do while they are first imported, tamed, whoever imports them.

Some look for a library or for settings in the working folder, where a stranger's files lie, or in
a folder that all users share, or send word to their maker. `install` puts a finder before those of
Python that knows these packages by name: the one door that command line, notebooks and training
processes share. A package that was imported before duet is as its importer wanted it.
"""

# Nothing that Python has not loaded itself by now: see `duet/__init__.py`.
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any


def install() -> None:
    """Put the finder before all others, once."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def tame(package: str, how: "Callable[[Callable[[], None]], None]") -> None:
    """Have a package imported by ``how`` from now on; one that is there already is tamed at once.

    Args:
        package: Name of a top-level package.
        how: Called with what runs the package's own code; it must call that once.
    """
    _TAMED[package] = how
    if package in sys.modules:
        how(lambda: None)


def _elsewhere(load: "Callable[[], None]") -> None:
    """Call ``load`` in a working folder that is no stranger's: the one of Python itself.

    The working folder is one for all threads. It is held by its descriptor, so that one that was
    moved or removed is found again; a folder that nobody may enter harms nobody.

    Raises:
        DuetError: There is no way back.
    """
    try:
        windows = os.name == "nt"
        here = os.getcwd() if windows else os.open(".", getattr(os, "O_PATH", os.O_RDONLY))
    except OSError:
        load()
        return
    try:
        os.chdir(sys.base_prefix)
        load()
    finally:
        _return(here)


def _return(here: "str | int") -> None:
    try:
        os.chdir(here)
    except OSError as error:
        from duet.errors import DuetError

        raise DuetError(
            f"cannot return to the working folder: {error.strerror}",
            where=here if isinstance(here, str) else None,
            remedy="change into a folder that is there, and give the same command again",
        ) from None
    finally:
        if isinstance(here, int):
            os.close(here)


def _untold(load: "Callable[[], None]") -> None:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    load()


def _mute(load: "Callable[[], None]") -> None:
    # Its converter sends events to a statistics service unless the user has opted out, and does
    # nothing where the package for it is missing. Here it is missing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    load()


def _in_own_cache(load: "Callable[[], None]") -> None:
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        from duet.ownfolder import own_folder

        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(own_folder("inductor"))
    load()


def _without_gaps(load: "Callable[[], None]") -> None:
    load()
    places = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(place for place in places if place)


_TAMED: "dict[str, Callable[[Callable[[], None]], None]]" = {
    # NVIDIA's cuSPARSELt looks for libcuda.so.1 in the working folder: its RUNPATH is "$ORIGIN:".
    "torch": _elsewhere,
    "matplotlib": _elsewhere,  # reads the matplotlibrc that lies there
    "cv2": _without_gaps,  # has programs look for libraries there: ends their path in a colon
    "onnxruntime": _untold,  # names this machine to its maker
    "openvino": _mute,  # reports each conversion to its maker
    "torch._inductor": _in_own_cache,  # wants a name in /tmp that anybody may have taken
}


class _Finder:
    """Finds the packages of the table where the other finders do, with a `_Loader` around."""

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        if name not in _TAMED:
            return None
        for finder in sys.meta_path:
            found = None if finder is self else finder.find_spec(name, path, target)
            if found is not None:
                if found.loader is not None:
                    found.loader = _Loader(found.loader, _TAMED[name])  # type: ignore[assignment]
                return found
        return None


class _Loader:
    """Runs a package as the table says; else it is the loader that Python found."""

    def __init__(self, loader: "Any", tame: "Callable[[Callable[[], None]], None]") -> None:
        self.loader, self.tame = loader, tame

    def __getattr__(self, name: str) -> "Any":
        return getattr(self.loader, name)

    def exec_module(self, module: "ModuleType") -> None:
        """Run the package, which then knows only its own loader."""
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.tame(lambda: self.loader.exec_module(module))
