"""Options that all optimizers share: named groups of parameters, decay, and the schedule of the rates."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from runner.stages import Options

Rate = Annotated[float, Field(ge=0)]


class GroupOptions(Options):
    """One group: the parameters that it wins, and how fast they learn."""

    match: Annotated[str, Field(min_length=1)]
    """Pattern on a parameter's full name, with `*`, `?` and `[…]` as in file names (`fnmatch`, upper and
    lower case differ). A parameter goes to the first group whose pattern it matches."""

    lr: Rate
    """Peak learning rate, reached after the warm-up."""

    weight_decay: Rate | None = None
    """Decoupled weight decay of this group; by default the section's."""


class ScheduleOptions(Options):
    """What does not depend on the algorithm."""

    weight_decay: Rate = 0.1
    """Decoupled weight decay of groups that name none; 0.1 is what 2U1's finetune.sh passes."""

    decay_vectors: bool = False
    """Whether parameters of one dimension, that is biases and the weights of norms, decay too. That they do
    not is our choice; 2U1's trainer spares biases but lets the weights of RMSNorm decay."""

    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How rates fall after the warm-up: to zero along half a cosine (2U1's finetune.sh) or a line, or not."""

    warmup: Annotated[float, Field(ge=0, le=1)] = 0.03
    """Share of all optimizer steps over which rates rise from zero to their peak (2U1's finetune.sh)."""


class AdamWConstants(Options):
    """The constants of AdamW."""

    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay rates of the first and second moment (Kingma and Ba 2015; 2U1 keeps them)."""

    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of the second moment (Kingma and Ba 2015; 2U1 keeps it)."""
