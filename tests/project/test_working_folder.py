"""A run in somebody's folder: nothing of it is run, and nothing in it is changed."""

from __future__ import annotations

import getpass
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from factories_run import Tiny, offline, tiny

from duet import imports
from duet.errors import DuetError

pytestmark = pytest.mark.slow

THIRD_PARTY = (
    "PIL", "albumentations", "click", "cv2", "filelock", "matplotlib", "numpy", "pydantic", "rich",
    "safetensors", "scipy", "torch", "torchvision", "ultralytics", "yaml",
)  # fmt: skip
BY_PYTHON = ("sitecustomize", "usercustomize")
SNARES = ("libcuda.so.1", "matplotlibrc")
"""Files that NVIDIA's libraries and matplotlib look for there; a pipe holds whoever opens it."""
posix = pytest.mark.skipif(os.name != "posix", reason="pipes in folders are POSIX's")
ENTRY = "from duet.cli.main import main\nmain()\n"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("working-folder")


def plant(folder: Path, names: set[str]) -> Path:
    """Put a module of each name into ``folder``; return the file into which they write."""
    log = folder.parent / f"{folder.name}.ran"
    for name in names:
        code = f"with open({str(log)!r}, 'a') as log:\n    log.write({name!r} + chr(10))\n"
        code += f"raise ImportError('a stranger has run: ' + {name!r})\n"
        if len(name) % 2:  # as a package, as a module
            (folder / name).mkdir(parents=True)
            (folder / name / "__init__.py").write_text(code)
        else:
            (folder / f"{name}.py").write_text(code)
    return log


def odd_files(data: Path) -> None:
    """Put beside the images what people keep there, under the names that the engine uses itself."""
    images = sorted((data / "flat" / "images" / "train").iterdir())
    arrays = (
        np.arange(64, dtype=np.float32), np.zeros((64, 64), np.float32),
        np.array([{"pickled": "object"}], dtype=object), np.zeros((64, 64, 3), np.uint8),
        np.zeros((64, 64, 3), np.uint16), np.zeros((64, 64, 4), np.uint8), np.zeros((0,)),
    )  # fmt: skip
    for image, array in zip(images, arrays, strict=False):
        np.save(image.with_suffix(".npy"), array, allow_pickle=True)
    images[7].with_suffix(".npy").write_bytes(b"\x93NUMPY not one")
    for split in (data / "flat" / "images" / "val", data / "comic" / "images" / "train"):
        for image in split.iterdir():
            np.save(image.with_suffix(".npy"), np.zeros((64, 64, 3), np.uint8))
    for labels in (data / "flat" / "labels", data / "comic" / "labels"):
        for split in ("train", "val", "test"):
            np.save(labels / f"{split}.cache", np.array([1]))
            (labels / f"{split}.cache.npy").write_bytes(b"mine")
    (data / "flat" / "images" / "autosplit_train.txt").write_text("./gone.jpg\n")
    (data / "flat" / "Thumbs.db").write_bytes(b"\0" * 64)


def hashes(folder: Path) -> dict[str, tuple[str, int]]:
    """Return content and modification time of everything below a folder, folders too."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder",
            path.stat().st_mtime_ns,
        )
        for path in sorted(folder.rglob("*"))
    }


@dataclass(frozen=True)
class Somebody:
    """A finished run in a folder of somebody else's.

    Attributes:
        place: The working folder: series, data, and modules.
        log: What ran of those.
        before: State of the working folder when the run began.
        after: And when it had ended, without the run folder.
        out: The run folder.
    """

    place: Path
    log: Path
    before: dict[str, tuple[str, int]]
    after: dict[str, tuple[str, int]]
    out: Path


def entry(base: Path) -> list[str]:
    """Return the command `duet` as pip installs it: a script in a folder of its own."""
    script = base / "bin" / "duet-script.py"
    script.parent.mkdir(exist_ok=True)
    script.write_text(ENTRY)
    return [sys.executable, str(script)]


def snares(folder: Path) -> None:
    """Leave a pipe under each of `SNARES`, where the system has pipes."""
    for name in SNARES if hasattr(os, "mkfifo") else ():
        os.mkfifo(folder / name)


def run(base: Path, command: list[str], cwd: Path, **more: str) -> str:
    environment = {**offline(base), "TMPDIR": str(base / "tmp"), **more}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)  # of the process that runs the tests
    (base / "tmp").mkdir(exist_ok=True)
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def somebody(base: Path) -> Somebody:
    source: Tiny = tiny(base)
    place = base / "theirs"
    shutil.copytree(source.folder, place)
    odd_files(place / "data")
    snares(place)
    log = plant(place, {*sys.stdlib_module_names, *THIRD_PARTY, *BY_PYTHON, "duet"})
    schedule = yaml.safe_load((place / "schedule.yaml").read_text())
    (place / "schedule.yaml").write_text(yaml.safe_dump({**schedule, "epochs": 1}))
    (place / "method.yaml").write_text(
        yaml.safe_dump({"name": "ours", "head": "rows", "refit": {"epochs": 0}})
    )
    precious = base / "precious.txt"
    precious.write_text("written for years\n")
    before = hashes(place)
    out = base / "out"
    out.mkdir()
    (out / "results.json").symlink_to(precious)
    command = [
        "run",
        "series.yaml",
        "--strategy",
        "method.yaml",
        "--out",
        str(out),
        "--no-references",
    ]
    run(base, [*entry(base), *command], place)
    return Somebody(place, log, before, hashes(place), out)


def test_a_run_leaves_every_file_of_the_data_as_it_was(somebody: Somebody) -> None:
    assert any(name.endswith(".npy") for name in somebody.before)
    assert somebody.after == somebody.before


def test_a_run_imports_nothing_from_the_working_folder(somebody: Somebody) -> None:
    assert not somebody.log.exists(), somebody.log.read_text()


def test_a_run_writes_through_no_link(somebody: Somebody) -> None:
    assert (somebody.out.parent / "precious.txt").read_text() == "written for years\n"
    assert not (somebody.out / "results.json").is_symlink()


def test_what_lies_beside_an_image_is_not_trained_on(somebody: Somebody, base: Path) -> None:
    from duet.families.ultralytics.data import SliceDataset
    from duet.images import read_image
    from duet.training.job import read_slice

    (job,) = (somebody.out / "lab").glob("base-*")
    slice_file = read_slice(job / "slice.npz")
    from ultralytics.utils import DEFAULT_CFG

    for cache in (None, "ram", "disk"):
        dataset = SliceDataset(
            slice_file=slice_file, class_offset=0, imgsz=64, augment=False, hyp=DEFAULT_CFG,
            cache=cache, data={"names": {0: "a"}, "nc": 1, "channels": 3},
        )  # fmt: skip
        for index, image in enumerate(slice_file.images):
            np.testing.assert_array_equal(dataset.load_image(index)[0], read_image(image))
    assert hashes(somebody.place) == somebody.before


@pytest.mark.parametrize("words", [["methods"], ["data", "check", "series.yaml"], ["--help"]])
def test_light_commands_import_nothing_from_the_working_folder(
    words: list[str], base: Path, somebody: Somebody
) -> None:
    run(base, [*entry(base), *words], somebody.place)
    assert not somebody.log.exists(), somebody.log.read_text()


def test_python_m_duet_imports_nothing_from_the_working_folder(base: Path, tmp_path: Path) -> None:
    """But for what Python itself looks for there, before any module begins."""
    (tmp_path / "probe.py").write_text("import sys\nprint(*sys.modules)\n")
    loaded = run(base, [sys.executable, "-m", "probe"], tmp_path).split()
    place = tmp_path / "theirs"
    place.mkdir()
    names = {*sys.stdlib_module_names, *THIRD_PARTY, *BY_PYTHON} - {"runpy", "pkgutil"}
    log = plant(place, names - {name.partition(".")[0] for name in loaded})
    assert (place / "json.py").exists() or (place / "json").exists()
    assert "ties" in run(base, [sys.executable, "-m", "duet", "methods"], place)
    assert not log.exists(), log.read_text()


def test_paths_of_the_environment_stay_what_they_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from duet.runs import worker

    monkeypatch.chdir(tmp_path)
    for name in ("PYTHONPATH", "LD_LIBRARY_PATH"):
        monkeypatch.setenv(name, os.pathsep.join(["", "mine", "/absolute", ""]))
        wanted = os.pathsep.join([str(tmp_path / "mine"), "/absolute"])
        assert worker.environment()[name] == wanted


@posix
@pytest.mark.parametrize(
    "code",
    [
        "import duet, torch",
        "import duet\nfrom matplotlib.figure import Figure",
        "import duet\nduet.load",
        "import torch.nn, matplotlib",  # the finder is there as soon as anything of duet is
    ],
)
def test_a_notebook_loads_no_library_of_the_working_folder(
    code: str, base: Path, tmp_path: Path
) -> None:
    snares(tmp_path)
    told = "\nimport os, torch\nprint(os.getcwd(), torch.__spec__.loader is torch.__loader__)"
    first = "import duet.text\n" + code + told
    said = run(base, [sys.executable, "-c", first], tmp_path)
    assert said.split() == [str(tmp_path), "True"]


@posix
def test_packages_are_imported_where_the_working_folder_is_gone(base: Path, tmp_path: Path) -> None:
    place = tmp_path / "gone"
    place.mkdir()
    code = (
        "import os\nfrom pathlib import Path\nhere = Path.cwd()\nhere.rmdir()\n"
        "import duet, matplotlib\nprint(os.stat('.').st_nlink)"
    )
    assert run(base, [sys.executable, "-c", code], place) == "0\n"


def test_no_way_back_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    given, loaded = os.chdir, []

    def chdir(place: object) -> None:
        if place != sys.base_prefix:
            raise PermissionError(13, "Permission denied")
        given(sys.base_prefix)

    with monkeypatch.context() as there:
        there.setattr(os, "chdir", chdir)
        with pytest.raises(DuetError, match=r"cannot return .*Permission denied"):
            imports._elsewhere(lambda: loaded.append(os.getcwd()))
    assert loaded == [os.path.realpath(sys.base_prefix)]


@posix
@pytest.mark.parametrize("trap", ["file", "link", "none"])
def test_nobody_in_a_shared_folder_stops_the_engine(trap: str, base: Path, tmp_path: Path) -> None:
    """Inductor wants a folder of a name that everybody knows."""
    known = tmp_path / f"torchinductor_{getpass.getuser()}"
    if trap == "file":
        known.touch()
    elif trap == "link":
        known.symlink_to(tmp_path / "nowhere")
    code = (
        "import os, duet.families.ultralytics, ultralytics\n"
        "from torch._inductor.runtime.cache_dir_utils import cache_dir\nprint(cache_dir())"
    )
    said = run(base, [sys.executable, "-c", code], base, TMPDIR=str(tmp_path)).strip()
    assert Path(said).is_relative_to(base / "cache" / "duet")
    assert list(tmp_path.iterdir()) == ([] if trap == "none" else [known])


def test_opencv_leaves_no_gap_in_the_path_of_libraries(base: Path) -> None:
    code = "import duet, cv2, os\nprint(os.environ.get('LD_LIBRARY_PATH', ''))"
    for given in ("", "/absolute"):
        said = run(base, [sys.executable, "-c", code], base, LD_LIBRARY_PATH=given).strip()
        assert "" not in said.split(os.pathsep) or not said
        assert said.endswith(given)


def test_an_empty_entry_of_the_path_imports_nothing(base: Path, tmp_path: Path) -> None:
    """But for what the script of pip imports before duet: the interpreter's own."""
    log = plant(tmp_path, {"json", "click", "signal", "rich"})
    given = offline(base)["PYTHONPATH"]
    for path in (os.pathsep + given, given + os.pathsep):
        assert "ties" in run(base, [*entry(base), "methods"], tmp_path, PYTHONPATH=path)
        assert not log.exists(), log.read_text()


@pytest.mark.parametrize("name", ["bench_doctor", "foreign_merge"])
def test_tools_start_python_without_the_working_folder(
    name: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool: Any = pytest.importorskip(f"tools.{name}")
    log = plant(tmp_path, {"json", "resource", "random"})
    monkeypatch.chdir(tmp_path)
    for key, value in offline(base).items():
        monkeypatch.setenv(key, value)
    if name == "bench_doctor":
        with pytest.raises(subprocess.CalledProcessError):
            tool.measure(Path("no.yaml"), 1)
    else:
        assert tool.stock("import json, random; print(sys.argv[1])", Path("x")).strip() == str(
            tmp_path / "x"
        )
    assert not log.exists(), log.read_text()
