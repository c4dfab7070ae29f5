"""Options of the optimizer `adamw`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from plugins.optimizer.group_options import AdamWConstants, GroupOptions, ScheduleOptions


class AdamWOptions(AdamWConstants, ScheduleOptions):
    """AdamW (Loshchilov and Hutter 2019) with a learning rate for each group of parameters."""

    groups: Annotated[dict[str, GroupOptions], Field(min_length=1)]
    """Groups by name, in order: the first whose pattern matches wins a parameter. A pattern that wins nothing
    and a trainable parameter in no group are errors."""
