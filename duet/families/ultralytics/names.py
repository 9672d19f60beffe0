"""Names of tensors in the engine's detectors: numbered layers.

Free of the engine, so that files can be merged without loading one.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from duet.errors import MissingExtraError, ModelError, together
from duet.families.protocol import RoleRules, Roles
from duet.merging.layers import Layer, Role
from duet.text import shown
from duet.vectors.tensors import Tensors


class EngineRules(RoleRules, Protocol):
    """The module ``roles`` of a family on this engine.

    Attributes:
        VARYING: Matches what differs between detectors of one architecture, named relative to the
            head: what follows their classes.
    """

    VARYING: re.Pattern[str]

    def head_of(self, architecture: str) -> str:
        """Return the name prefix of the head, such as ``model.23.``; needs no tensors."""
        ...

    def architecture_file(self, architecture: str) -> Path:
        """Find the description of an architecture, without importing the engine.

        Raises:
            ModelError: There is no such architecture.
            MissingExtraError: Ultralytics is not installed.
        """
        ...

    def known_architectures(self) -> Iterable[str]:
        """Return the names of the architectures, the likely ones first."""
        ...


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
    numbers = [layer_number(name) for name in names]
    last = max((number for number in numbers if number is not None), default=None)
    if last is None:
        first = shown(names[0]) if names else "missing"
        raise ModelError(
            f"no tensor is named 'model.<number>.…'; the first is {first}",
            remedy="expected the state of an Ultralytics detector",
        )
    return f"model.{last}."


def split_layers(
    tensors: Tensors,
    *,
    own: re.Pattern[str],
    head: re.Pattern[str],
    parameter: re.Pattern[str],
    expected: str,
) -> Roles:
    """Split the state of a stock one-increment detector; every tensor lands exactly once.

    Args:
        tensors: Full state in the engine's names, such as ``model.0.conv.weight``.
        own: Matches an increment's own tensors, named relative to the head.
        head: Matches all tensors that a head may have, named likewise.
        parameter: Found in the names of trainable tensors.
        expected: What the tensors should have been, for the message.

    Raises:
        ModelError: Tensors have no role (all named), or there is no numbered layer.
    """
    prefix = head_prefix(tensors)
    shared, buffers, parts, unknown = {}, {}, {}, []
    for name, tensor in tensors.items():
        local = name.removeprefix(prefix)
        in_head, statistic = local != name, STATISTIC.search(name) is not None
        known = name.startswith("model.") and (statistic or parameter.search(name) is not None)
        if not known or (in_head and not head.match(local)):
            unknown.append(f"{name} {tuple(tensor.shape)} has no role")
        elif in_head and own.match(local):
            parts[local] = tensor
        elif statistic:
            buffers[name] = tensor
        else:
            shared[name] = tensor
    if unknown:
        raise ModelError(
            together(sorted(unknown), summary="tensors that duet does not know how to merge"),
            remedy=f"expected {expected}, as training leaves them",
        )
    return Roles(shared, buffers, parts)


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


def layers_in(names: Iterable[str], file: Path, architecture: str) -> dict[str, Layer]:
    """Return where each tensor sits: its part of the detector, and its depth.

    Args:
        names: Tensor names, such as ``model.0.conv.weight``.
        file: Description of the architecture.
        architecture: Its name, for messages.

    Raises:
        ModelError: A tensor lies outside of the architecture.
    """
    backbone, count = layer_counts(file)
    found: dict[str, Layer] = {}
    outside = []
    for name in names:
        number = layer_number(name)
        if number is None or number >= count:
            outside.append(name)
            continue
        role: Role = "backbone" if number < backbone else "neck"
        found[name] = Layer("head" if number == count - 1 else role, number / (count - 1))
    if outside:
        raise ModelError(
            together(sorted(outside), summary=f"tensors outside the {count} layers"),
            where=architecture,
            remedy="the tensors belong to another architecture",
        )
    return found


def layer_number(name: str) -> int | None:
    """Return the number of the layer that a tensor is in; None if no number is written so."""
    found = re.match(r"model\.(0|[1-9][0-9]{0,4})\.", name)
    return int(found[1]) if found else None
