"""The merge methods. Adding one = one file in `methods/` with `Params` and `merge`, and one row."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import Field, model_validator

from duet.config import Config, Params, parse_config
from duet.errors import ConfigError
from duet.registry import Table

if TYPE_CHECKING:
    from duet.merging.inputs import Inputs
    from duet.merging.trace import Notes
    from duet.vectors.tensors import Tensors

    MergeFunction = Callable[[Inputs, Any, Tensors], Notes]

Need = Literal["start", "fisher", "images"]


@dataclass(frozen=True)
class MergeMethod:
    """One row of the table; nothing is imported until a property is read.

    Attributes:
        name: Name in configurations and on the command line.
        summary: One sentence.
        reference: Where the method comes from.
        needs: What it needs beside the stages: ``start`` = θ_0, ``fisher`` = the Fisher that each
            increment keeps, ``images`` = unlabelled images of the current domain.
        ordered: The order of the stages matters.
        idempotent: Copies of a model merge to that model, bit for bit.
    """

    name: str
    summary: str
    reference: str
    needs: tuple[Need, ...] = ("start",)
    ordered: bool = False
    idempotent: bool = False

    @property
    def module(self) -> str:
        """Dotted path of the module with `Params` and `merge`."""
        return f"duet.merging.methods.{self.name.replace('-', '_')}"

    @property
    def params(self) -> type[Config]:
        """The configuration class of the method (imports its module, not torch)."""
        return cast("type[Config]", importlib.import_module(self.module).Params)

    @property
    def merge(self) -> MergeFunction:
        """The merge function (it imports torch when called)."""
        return cast("MergeFunction", importlib.import_module(self.module).merge)

    def parameters(self) -> list[dict[str, Any]]:
        """Describe the parameters, JSON-ready, from the fields of the configuration class.

        Each has a ``name``, a ``default``, the allowed values in words (``range``, such as
        ">= 0, <= 1"; empty if any), the ``source`` of its default, and a ``description``.
        """
        return [_describe(name, field) for name, field in self.params.model_fields.items()]


_ROWS = (
    MergeMethod(
        "duet",
        "Average of two models, tilted per layer towards the one that moved further.",
        "DuET, ICCV 2025, arXiv 2506.21260v2",
        ordered=True,
        idempotent=True,
    ),
    MergeMethod(
        "average",
        "Weighted mean of any number of models.",
        "Model soups, ICML 2022, arXiv 2203.05482",
        needs=(),
        idempotent=True,
    ),
    MergeMethod(
        "task-arithmetic",
        "Start weights plus the sum of all task vectors times one factor.",
        "Task arithmetic, ICLR 2023, arXiv 2212.04089",
    ),
    MergeMethod(
        "ties",
        "Keeps the largest changes, elects a sign per weight, averages who agrees.",
        "TIES-Merging, NeurIPS 2023, arXiv 2306.01708",
    ),
    MergeMethod(
        "concrete",
        "Task arithmetic under a mask that learns which weights to keep.",
        "Concrete subspace learning, 2023, arXiv 2312.06173",
        needs=("start", "images"),
    ),
    MergeMethod(
        "concrete-adamerging",
        "As concrete, and learns the factor of each task vector and layer.",
        "Concrete subspace learning, arXiv 2312.06173; AdaMerging, ICLR 2024, arXiv 2310.02575",
        needs=("start", "images"),
    ),
    MergeMethod(
        "dare",
        "Drops changes at random, rescales the rest, then adds them up or runs TIES.",
        "DARE, ICML 2024, arXiv 2311.03099",
    ),
    MergeMethod(
        "magmax",
        "Takes for each weight the change with the largest magnitude.",
        "MagMax, ECCV 2024, arXiv 2407.06322",
        ordered=True,
    ),
    MergeMethod(
        "mtda",
        "Weighted mean of the models, BatchNorm buffers fused as distributions.",
        "MTDA merging, ECCV 2024, arXiv 2407.13771",
        needs=(),
        idempotent=True,
    ),
    MergeMethod(
        "fisher",
        "Mean of the models, each weight by its Fisher information.",
        "Fisher merging, NeurIPS 2022, arXiv 2111.09832",
        needs=("fisher",),
    ),
    MergeMethod(
        "lines",
        "Task arithmetic whose factor grows from the first layer to the last.",
        "LiNeS, ICLR 2025, arXiv 2410.17146",
    ),
    MergeMethod(
        "iso-c",
        "Sum of all changes with the same strength in every direction.",
        "Iso-C, ICML 2025, arXiv 2502.04959",
    ),
    MergeMethod(
        "tsv-m",
        "Joins the main directions of every change after making them orthogonal.",
        "Task singular vectors, CVPR 2025, arXiv 2412.00081",
    ),
    MergeMethod(
        "newest",
        "No merge: the newly trained model as it is (sequential fine-tuning).",
        "control",
        needs=(),
        ordered=True,
        idempotent=True,
    ),
)

METHODS = Table(
    "merge method",
    "methods",
    {row.name: row for row in _ROWS},
    module=lambda row: row.module,
    where="merge.method",
)


def resolve(name: str) -> MergeMethod:
    """Return the method called ``name`` with its module imported.

    Raises:
        ConfigError: The name is not in the table.
    """
    METHODS.load(name)
    return METHODS[name]


class MergeChoice(Config):
    """Which merge method joins the shared tensors of several models."""

    method: str = Field(default="duet", description="a name from `duet methods`")
    params: Params = Field(default_factory=dict, description="see `duet methods NAME`")

    @model_validator(mode="after")
    def _known(self) -> MergeChoice:
        # Now, not when the merge is reached: a typo must not cost a training.
        try:
            row = resolve(self.method)
        except ConfigError as error:
            raise ValueError(f"{error.what}; {error.remedy}") from None
        try:
            parse_config(row.params, self.params, where="params")
        except ConfigError as error:
            problems = [line.removeprefix("  - ") for line in error.what.splitlines()[1:]]
            raise ValueError(f"parameters of '{self.method}': {'; '.join(problems)}") from None
        return self


def _describe(name: str, field: Any) -> dict[str, Any]:
    extra = field.json_schema_extra or {}
    signs = (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
    limits = [
        f"{sign} {getattr(item, key):g}"
        for item in field.metadata
        for key, sign in signs
        if getattr(item, key, None) is not None
    ]
    return {
        "name": name,
        "default": field.default,
        "range": extra.get("range", ", ".join(limits)),
        "source": extra.get("source", ""),
        "description": field.description or "",
    }
