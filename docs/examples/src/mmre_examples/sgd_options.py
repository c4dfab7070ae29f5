"""Options of the optimizer `sgd`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from plugins.optimizer.optimizer_options import GroupOptions, ScheduleOptions


class SgdOptions(ScheduleOptions):
    """Stochastic gradient descent with momentum, with a rate for each group of parameters."""

    groups: Annotated[dict[str, GroupOptions], Field(min_length=1)]
    """Groups by name, in order: the first whose pattern matches wins a parameter."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Share of the last step that is kept in the next."""
