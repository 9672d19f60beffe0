"""The merge methods. Adding one = one file in `methods/` with `Params` and `merge`, and one row."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from duet.config import Config
from duet.registry import Table

if TYPE_CHECKING:
    from duet.merging.inputs import Inputs
    from duet.merging.trace import Notes
    from duet.vectors.tensors import Tensors

    MergeFunction = Callable[[Inputs, Any, Tensors], Notes]

Need = Literal["start", "fisher", "images"]


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
class MergeMethod:
    """One row of the table; nothing is imported until a property is read.

    Attributes:
        name: Name in configurations and on the command line.
        module: Dotted path of the module with `Params` and `merge`.
        summary: One sentence.
        reference: Where the method comes from.
        needs: What it needs beside the stages: ``start`` = θ_0, ``fisher`` = the Fisher that each
            increment keeps, ``images`` = unlabelled images of the current domain.
        ordered: The order of the stages matters.
    """

    name: str
    module: str
    summary: str
    reference: str
    needs: tuple[Need, ...] = ("start",)
    ordered: bool = False

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


METHODS = Table(
    "merge method",
    "methods",
    {
        "duet": MergeMethod(
            name="duet",
            module="duet.merging.methods.duet",
            summary="Average of two models, tilted per layer towards the one that moved further.",
            reference="DuET, ICCV 2025, arXiv 2506.21260v2",
            ordered=True,
        ),
        "average": MergeMethod(
            name="average",
            module="duet.merging.methods.average",
            summary="Weighted mean of any number of models.",
            reference="Model soups, ICML 2022, arXiv 2203.05482",
            needs=(),
        ),
        "task-arithmetic": MergeMethod(
            name="task-arithmetic",
            module="duet.merging.methods.task_arithmetic",
            summary="Start weights plus the sum of all task vectors times one factor.",
            reference="Task arithmetic, ICLR 2023, arXiv 2212.04089",
        ),
        "ties": MergeMethod(
            name="ties",
            module="duet.merging.methods.ties",
            summary="Keeps the largest changes, elects a sign per weight, averages who agrees.",
            reference="TIES-Merging, NeurIPS 2023, arXiv 2306.01708",
        ),
        "concrete": MergeMethod(
            name="concrete",
            module="duet.merging.methods.concrete",
            summary="Task arithmetic under a mask that learns which weights to keep.",
            reference="Concrete subspace learning, 2023, arXiv 2312.06173",
            needs=("start", "images"),
        ),
        "concrete-adamerging": MergeMethod(
            name="concrete-adamerging",
            module="duet.merging.methods.concrete_adamerging",
            summary="As concrete, and learns the factor of each task vector and layer.",
            reference="Concrete subspace learning, arXiv 2312.06173; AdaMerging, ICLR 2024, "
            "arXiv 2310.02575",
            needs=("start", "images"),
        ),
        "dare": MergeMethod(
            name="dare",
            module="duet.merging.methods.dare",
            summary="Drops changes at random, rescales the rest, then adds them up or runs TIES.",
            reference="DARE, ICML 2024, arXiv 2311.03099",
        ),
        "magmax": MergeMethod(
            name="magmax",
            module="duet.merging.methods.magmax",
            summary="Takes for each weight the change with the largest magnitude.",
            reference="MagMax, ECCV 2024, arXiv 2407.06322",
            ordered=True,
        ),
        "mtda": MergeMethod(
            name="mtda",
            module="duet.merging.methods.mtda",
            summary="Weighted mean of the models, BatchNorm buffers fused as distributions.",
            reference="MTDA merging, ECCV 2024, arXiv 2407.13771",
            needs=(),
        ),
        "fisher": MergeMethod(
            name="fisher",
            module="duet.merging.methods.fisher",
            summary="Mean of the models, each weight by its Fisher information.",
            reference="Fisher merging, NeurIPS 2022, arXiv 2111.09832",
            needs=("fisher",),
        ),
        "lines": MergeMethod(
            name="lines",
            module="duet.merging.methods.lines",
            summary="Task arithmetic whose factor grows from the first layer to the last.",
            reference="LiNeS, ICLR 2025, arXiv 2410.17146",
        ),
        "iso-c": MergeMethod(
            name="iso-c",
            module="duet.merging.methods.iso_c",
            summary="Sum of all changes with the same strength in every direction.",
            reference="Iso-C, ICML 2025, arXiv 2502.04959",
        ),
        "tsv-m": MergeMethod(
            name="tsv-m",
            module="duet.merging.methods.tsv_m",
            summary="Joins the main directions of every change after making them orthogonal.",
            reference="Task singular vectors, CVPR 2025, arXiv 2412.00081",
        ),
        "newest": MergeMethod(
            name="newest",
            module="duet.merging.methods.newest",
            summary="No merge: the newly trained model as it is (sequential fine-tuning).",
            reference="control",
            needs=(),
            ordered=True,
        ),
    },
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
