"""The merge methods. Adding one = one file with `Params` and `merge`, and one row in `METHODS`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from duet.config import Config
from duet.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import torch

    from duet.merging.trace import TensorTrace
    from duet.vectors import Tensors

    MergeFunction = Callable[
        [Tensors, Sequence[Tensors], Any], tuple[dict[str, torch.Tensor], dict[str, TensorTrace]]
    ]


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method, for `duet methods` and the documentation.

    Attributes:
        name: Key in the configuration.
        default: Default value.
        range: Allowed values in words, such as ">= 0, <= 1"; empty if any.
        source: Where the default comes from.
        description: What it does.
    """

    name: str
    default: Any
    range: str
    source: str
    description: str


@dataclass(frozen=True)
class Method:
    """One row of the table; nothing is imported until a property is read.

    Attributes:
        name: Name in configurations and on the command line.
        module: Dotted path of the module with `Params` and `merge`.
        summary: One sentence.
        reference: Where the method comes from.
    """

    name: str
    module: str
    summary: str
    reference: str

    @property
    def params(self) -> type[Config]:
        """The configuration class of the method (imports its module, not torch)."""
        return cast("type[Config]", importlib.import_module(self.module).Params)

    @property
    def merge(self) -> MergeFunction:
        """The merge function (it imports torch when called)."""
        return cast("MergeFunction", importlib.import_module(self.module).merge)

    def parameters(self) -> tuple[Parameter, ...]:
        """Describe the parameters from the fields of the configuration class."""
        return tuple(_describe(name, field) for name, field in self.params.model_fields.items())


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "duet": Method(
            name="duet",
            module="duet.merging.duet",
            summary="Average of two models, tilted per layer towards the one that moved further.",
            reference="DuET, ICCV 2025, arXiv 2506.21260v2",
        ),
        "average": Method(
            name="average",
            module="duet.merging.average",
            summary="Weighted mean of any number of models.",
            reference="Model soups, ICML 2022, arXiv 2203.05482",
        ),
        "newest": Method(
            name="newest",
            module="duet.merging.newest",
            summary="No merge: the newly trained model as it is (sequential fine-tuning).",
            reference="control",
        ),
    }
)


def resolve(name: str) -> Method:
    """Return the method called ``name`` with its module imported.

    Raises:
        ConfigError: The name is not in the table.
    """
    if name not in METHODS:
        raise ConfigError(
            f"unknown merge method '{name}'{did_you_mean(name, METHODS)}",
            where="merge.method",
            remedy=f"known methods: {', '.join(METHODS)}",
        )
    method = METHODS[name]
    importlib.import_module(method.module)
    return method


def _describe(name: str, field: Any) -> Parameter:
    extra = field.json_schema_extra or {}
    signs = (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
    limits = [
        f"{sign} {getattr(item, key):g}"
        for item in field.metadata
        for key, sign in signs
        if getattr(item, key, None) is not None
    ]
    return Parameter(
        name=name,
        default=field.default,
        range=extra.get("range", ", ".join(limits)),
        source=extra.get("source", ""),
        description=field.description or "",
    )
