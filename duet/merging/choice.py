"""Which method merges, as a configuration names it."""

from __future__ import annotations

from pydantic import Field, model_validator

from duet.config import Config, Params, parse_config
from duet.errors import ConfigError
from duet.merging.table import resolve


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
