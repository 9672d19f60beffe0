"""Names of tensors in the engine's detectors: numbered layers.

Free of the engine, so that files can be merged without loading one.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from duet.errors import MissingExtraError, ModelError
from duet.families.protocol import Roles
from duet.families.tensors import place_tensors, split_tensors
from duet.merging.layers import Layer, Role
from duet.text import shown
from duet.vectors.tensors import Tensors

STATISTIC = re.compile(r"\.(running_mean|running_var|num_batches_tracked)$")


def engine_models() -> Path:
    """Return the folder of the engine's architecture files, without importing the engine.

    Raises:
        MissingExtraError: Ultralytics is not installed.
    """
    spec = find_spec("ultralytics")
    if spec is None or spec.origin is None:
        raise MissingExtraError(
            "this family needs Ultralytics", remedy="pip install 'ultralytics==8.4.190'"
        )
    return Path(spec.origin).parent / "cfg" / "models"


def head_prefix(tensors: Iterable[str]) -> str:
    """Return the name prefix of the head, e.g. ``model.23.``: the last numbered layer.

    Raises:
        ModelError: No tensor is named ``model.<number>.…``.
    """
    names = list(tensors)
    last = last_layer(names)
    if last is None:
        first = shown(names[0]) if names else "missing"
        raise ModelError(
            f"no tensor is named 'model.<number>.…'; the first is {first}",
            remedy="expected the state of an Ultralytics detector",
        )
    return f"model.{last}."


def description(file: Path, architecture: str) -> dict[str, Any]:
    """Return an architecture as the engine's models take it, read from ``file`` alone.

    Given a name instead, the engine would prefer a file of that name in the working folder.

    Args:
        file: One of the engine's or of duet's own.
        architecture: Such as ``yolo11n.yaml``; the letter after the number is the size.
    """
    content = copy.deepcopy(_read(file))
    size = re.match(r"yolov?\d+([nslmx])", architecture)
    return content | {"scale": size[1] if size else "", "yaml_file": architecture}


def layer_counts(file: Path) -> tuple[int, int]:
    """Return how many layers an architecture's backbone has, and how many there are in all."""
    content = _read(file)
    backbone = len(content["backbone"])
    return backbone, backbone + len(content["head"])


# Asked for every architecture that a file may be, and YAML takes milliseconds to read. The path is
# key enough: these files change with the engine's code or duet's, which a process loads once, too.
@functools.cache
def _read(file: Path) -> dict[str, Any]:
    import yaml

    content: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return content


def last_layer(names: Iterable[str]) -> int | None:
    """Return the number of the last layer that a name tells; None if none does."""
    return max((n for n in map(layer_number, names) if n is not None), default=None)


def layer_number(name: str) -> int | None:
    """Return the number of the layer that a tensor is in; None if no number is written so."""
    found = re.match(r"model\.(0|[1-9][0-9]{0,4})\.", name)
    return int(found[1]) if found else None


@dataclass
class EngineRules:
    """What a family on this engine knows about its tensors and architectures (`RoleRules`).

    Trainable shared tensors are merged, BatchNorm statistics of shared layers are fused, counters
    are added, and each increment's own head tensors are kept as they are. A tensor that no rule
    names is an error.

    Attributes:
        title: Of the family, for messages.
        CLASS_ROWS: See `RoleRules`.
        own: For each head form, matches an increment's own tensors, named relative to the head.
        head: Matches all tensors that a head may have, named likewise.
        parameter: Found in the names of trainable tensors.
        varying: Matches what differs between detectors of one architecture, named likewise: what
            follows their classes.
        architecture_file: Finds the description of an architecture, without importing the engine;
            a `ModelError` if there is none, a `MissingExtraError` without Ultralytics.
        known_architectures: Returns the names of the architectures, the likely ones first.
    """

    title: str
    CLASS_ROWS: re.Pattern[str]
    own: Mapping[str, re.Pattern[str]]
    head: re.Pattern[str]
    parameter: re.Pattern[str]
    varying: re.Pattern[str]
    architecture_file: Callable[[str], Path]
    known_architectures: Callable[[], Iterable[str]]

    def own_pattern(self, form: str) -> re.Pattern[str]:
        """Return what matches an increment's own tensors, named relative to the head.

        Raises:
            ModelError: The family has no such head form.
        """
        if form not in self.own:
            raise ModelError(
                f"{self.title} has no head form '{form}'",
                remedy=f"known forms: {', '.join(self.own)}",
            )
        return self.own[form]

    def split_roles(self, tensors: Tensors, form: str) -> Roles:
        """Split the state of a stock one-increment detector; every tensor lands exactly once.

        Args:
            tensors: Full state in the engine's names, such as ``model.0.conv.weight``.
            form: Head form.

        Raises:
            ModelError: Tensors have no role (all named), there is no numbered layer, or the last
                one has no class rows.
        """
        prefix, own = head_prefix(tensors), self.own_pattern(form)

        def role_of(name: str) -> str:
            local, statistic = name.removeprefix(prefix), STATISTIC.search(name) is not None
            in_head = local != name
            known = name.startswith("model.") and (statistic or self.parameter.search(name))
            if not known or (in_head and not self.head.match(local)):
                return "no role"
            if in_head and own.match(local):
                return "own"
            return "buffers" if statistic else "shared"

        remedy = f"expected the tensors of a {self.title} detector, as training leaves them"
        roles = split_tensors(tensors, role_of, prefix=prefix, remedy=remedy)
        if not any(self.CLASS_ROWS.match(name) for name in roles.own):
            raise ModelError("there are no class rows in the last layer", remedy=remedy)
        return roles

    def head_of(self, architecture: str) -> str:
        """Return the name prefix of the head, such as ``model.23.``.

        Unlike `head_prefix` it needs no tensors: the shared ones may hold none of the head.
        """
        return f"model.{layer_counts(self.architecture_file(architecture))[1] - 1}."

    def layers(self, names: Iterable[str], architecture: str) -> dict[str, Layer]:
        """Return where each tensor sits; errors as `architecture_file` and `place_tensors`."""
        backbone, count = layer_counts(self.architecture_file(architecture))

        def place(name: str) -> tuple[Role, int] | None:
            number = layer_number(name)
            if number is None:
                return None
            trunk: Role = "backbone" if number < backbone else "neck"
            return ("head" if number == count - 1 else trunk), number

        return place_tensors(names, place, count=count, architecture=architecture)
