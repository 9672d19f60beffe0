"""Machines of a Ray cluster on this one, and a series of squares that they learn in seconds."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from factories_dots import FOLDER, on_path, write_series
from places import REPO

from duet.files import sha256_file
from duet.runs.engines.node import SCRATCH


@dataclass(frozen=True)
class Machine:
    """A machine of one core.

    Attributes:
        node: Ray's.
        scratch: Where it works.
    """

    node: Any
    scratch: Path

    def work(self) -> list[Path]:
        """Return the folders of the jobs that it does, or was doing."""
        return list(self.scratch.glob("*/.work-*"))

    def staged(self) -> set[str]:
        """Return the SHA-256 of the images that it keeps."""
        return {path.name for path in self.scratch.glob("*/images/*") if len(path.name) == 64}


@dataclass
class Machines:
    """A head without a core of its own, and machines of one core.

    Attributes:
        cluster: Ray's.
        environment: Of the machines.
        scratch: Holds a folder of each.
        there: Those that are there.
    """

    cluster: Any
    environment: dict[str, str]
    scratch: Path
    there: list[Machine] = field(default_factory=list)

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add(self) -> None:
        """Add a machine; in the main thread, as Ray wants it."""
        scratch = self.scratch / str(len(list(self.scratch.iterdir())))
        scratch.mkdir()
        node = self.cluster.add_node(
            num_cpus=1, object_store_memory=80_000_000,
            env_vars={**self.environment, SCRATCH: str(scratch)},
        )  # fmt: skip
        self.there.append(Machine(node, scratch))

    def lose(self, machine: Machine) -> None:
        """Take a machine away, as a power cut would."""
        self.there.remove(machine)
        self.cluster.remove_node(machine.node, allow_graceful=False)


PAUSE = 0.1
SLOW = """\
import time

exec(compile(open({place!r}).read(), {place!r}, "exec"))
_losses = DotsLearner.losses


def losses(self, *arguments):
    time.sleep({pause})
    return _losses(self, *arguments)


DotsLearner.losses = losses
"""
"""The family as machines find it: each step takes a moment, however fast they are, so that there is
time to take one away."""


@contextmanager
def machines(environment: dict[str, str], scratch: Path, count: int) -> Iterator[Machines]:
    """Yield a cluster of so many machines; its temporary files go when it goes."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    # Short: the names of sockets below it may have a hundred letters. Ray's `Cluster` writes its
    # address below RAY_TMPDIR (else into a folder that a new machine has not), whatever its
    # `temp_dir` is.
    folder = tempfile.mkdtemp(prefix="ray")
    os.environ["RAY_TMPDIR"] = folder
    (slow := scratch.parent / "slow").mkdir()
    (slow / "duet_dots.py").write_text(SLOW.format(place=str(FOLDER / "duet_dots.py"), pause=PAUSE))
    path = os.pathsep.join([str(slow), str(FOLDER), str(REPO)])
    environment = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment}
    cluster, before = Cluster(), signal.getsignal(signal.SIGTERM)
    try:
        cluster.add_node(
            num_cpus=0, object_store_memory=80_000_000, include_dashboard=False,
            env_vars=environment, temp_dir=f"{folder}/ray",
        )  # fmt: skip
        found = Machines(cluster, environment, scratch)
        for _ in range(count):
            found.add()
        yield found
    finally:
        cluster.shutdown()
        signal.signal(signal.SIGTERM, before)  # Ray takes it for every node that begins here
        del os.environ["RAY_TMPDIR"]
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def squares(folder: Path, epochs: int) -> Iterator[Path]:
    """Yield a series whose family is found while the block runs."""
    with on_path():
        folder.mkdir(parents=True)
        series = write_series(folder)
        place = folder / "schedule.yaml"
        place.write_text(yaml.safe_dump(yaml.safe_load(place.read_text()) | {"epochs": epochs}))
        yield series


@contextmanager
def bucket(folder: Path) -> Iterator[str]:
    """Yield the address of a bucket on an S3 server of this process; its files are in a folder."""
    import localbucket

    (folder / "bucket").mkdir(parents=True)

    class Handler(localbucket.S3Handler):  # type: ignore[misc]
        data_root = folder

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        query = f"endpoint_override=127.0.0.1:{server.server_port}&scheme=http&region=us-east-1"
        yield f"s3://bucket?{query}"
    server.shutdown()
    thread.join()
    server.server_close()


CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing",
    "AWS_EC2_METADATA_DISABLED": "true",
}  # fmt: skip
"""What clients of S3 want to have; the server looks at none of it."""


def weights(run: Path) -> dict[str, str]:
    """Return the SHA-256 of the tensors of every increment and detector."""
    found = [*(run / "increments").rglob("*.safetensors"), *(run / "models").rglob("*.safetensors")]
    return {str(path.relative_to(run)): sha256_file(path) for path in sorted(found)}


MOVING = ("seconds", "memory", "latency_ms", "command", "date", "speed")


def results(run: Path) -> Any:
    """Return `results.json` without what a clock or a command line says."""

    def still(value: Any) -> Any:
        if isinstance(value, dict):
            kept = {k: v for k, v in value.items() if not any(word in k for word in MOVING)}
            return {k: still(v) for k, v in kept.items()}
        return [still(one) for one in value] if isinstance(value, list) else value

    text = (run / "results.json").read_text().replace(str(run), "RUN")
    found = still(json.loads(text))
    found.pop("sha256", None)
    return found
