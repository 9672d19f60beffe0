"""One row of the table of families."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from duet.errors import ConfigError
from duet.increments.forms import HeadForm

if TYPE_CHECKING:
    from duet.images import Fit


@dataclass(frozen=True)
class FamilyRow:
    """What is known of a family before its engine is loaded.

    Attributes:
        module: Module that holds an object named `FAMILY`, imported on use.
        roles: Module that is a `RoleRules`; importing it loads no engine.
        summary: One line for people.
        licence: SPDX identifier of the engine, stamped into every file.
        architectures: Pattern of its architecture names.
        heads: The head form that it builds for each form that a strategy asks for.
        files: What its engine writes: suffixes of files, or names of a file in a folder.
        fit: How images become inputs for inference and evaluation; where all must be squares, as in
            training and in exported files, see `duet.images.squared`.
        leaves_out: Whether its loss can leave known classes out that nobody labelled.
        trains_with: Modules that its trainings import, beyond ``module``. Importing them must start
            no thread and touch no device.
        install: What `pip install` is given to get its engine; empty if the package brings it.
    """

    module: str
    roles: str
    summary: str
    licence: str
    architectures: str
    heads: Mapping[str, HeadForm]
    files: tuple[str, ...] = ()
    fit: Fit = "stretch"
    leaves_out: bool = False
    trains_with: tuple[str, ...] = ()
    install: str = ""

    def head_form(self, wanted: str, family: str) -> HeadForm:
        """Return the head form that the family builds where a strategy asks for ``wanted``.

        Raises:
            ConfigError: It has none.
        """
        if wanted not in self.heads:
            raise ConfigError(
                f"the family '{family}' has no head form '{wanted}'",
                remedy=f"choose a strategy with one of: {', '.join(self.heads)}",
            )
        return self.heads[wanted]
