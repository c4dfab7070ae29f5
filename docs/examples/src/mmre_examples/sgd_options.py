"""Options of the optimizer `sgd`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from plugins.optimizer.optimizer_options import GroupOptions, ScheduleOptions


class SgdOptions(ScheduleOptions):
    """Stochastic gradient descent with momentum, with a learning rate for each group of parameters."""

    groups: Annotated[dict[str, GroupOptions], Field(min_length=1)]
    """Parameter groups by name. A parameter belongs to the first group whose pattern matches its name."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum factor: the share of the previous update that is added to the next."""
