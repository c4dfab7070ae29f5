"""Options of the optimizers: parameter groups, weight decay, learning-rate schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from runner.stages import Options

Rate = Annotated[float, Field(ge=0)]


class LoraOptions(Options):
    """Low-rank adapters (Hu et al. 2022) on a group's linear layers, merged into the weights at the end."""

    rank: Annotated[int, Field(gt=0)] = 16
    """Width of the adapters. Default: our choice."""

    alpha: Annotated[float, Field(gt=0)] = 32.0
    """Their output is scaled by alpha / rank. Default: our choice, a scale of 2."""


class GroupOptions(Options):
    """One group: the parameters that it wins, and how fast they learn."""

    match: Annotated[str, Field(min_length=1)]
    """Pattern on a parameter's full name, with `*`, `?` and `[…]` as in file names (`fnmatch`, upper and
    lower case differ). A parameter goes to the first group whose pattern it matches."""

    lr: Rate | None = None
    """Peak learning rate, reached after the warm-up; needed unless the group is frozen."""

    weight_decay: Rate | None = None
    """Decoupled weight decay of this group; by default the section's."""

    frozen: bool = False
    """Whether these parameters stay as they are, which is proven when training ends."""

    lora: LoraOptions | None = None
    """Train adapters on the group's linear layers instead; everything else in it stays as it is. The output layer
    gets none."""

    @model_validator(mode="after")
    def _frozen_or_learning(self) -> GroupOptions:
        if self.frozen and (self.lr is not None or self.weight_decay is not None or self.lora is not None):
            raise ValueError("a frozen group has no lr, weight_decay or lora: nothing in it learns")
        if not self.frozen and self.lr is None:
            raise ValueError("needs lr, its peak learning rate; or frozen: true, where nothing in it is to learn")
        return self


class ScheduleOptions(Options):
    """What does not depend on the algorithm."""

    former_names: ClassVar[Mapping[str, str]] = {
        "decayed": "weight_decay_on",
        "schedule": "lr_schedule",
        "warmup": "warmup_ratio",
    }

    weight_decay: Rate = 0.1
    """Decoupled weight decay of groups that name none; 0.1 is what 2U1's finetune.sh passes."""

    weight_decay_on: Literal["matrices", "2u1", "all"] = "matrices"
    """Which parameters decay. `matrices`: those of more than one dimension, so that biases and the weights of norms do
    not (our choice). `2u1`: all but names with `bias` and the weights of LayerNorm, as the paper's trainer has it;
    RMSNorm's decay. `all`: every one."""

    lr_schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How rates fall after the warm-up: to zero along half a cosine (2U1's finetune.sh) or a line, or not."""

    warmup_ratio: Annotated[float, Field(ge=0, le=1)] = 0.03
    """Share of all optimizer steps over which rates rise from zero to their peak (2U1's finetune.sh)."""


class AdamWConstants(Options):
    """The constants of AdamW."""

    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay rates of the first and second moment (Kingma and Ba 2015; 2U1 keeps them)."""

    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of the second moment (Kingma and Ba 2015; 2U1 keeps it)."""


class AdamWOptions(AdamWConstants, ScheduleOptions):
    """AdamW (Loshchilov and Hutter 2019) with a learning rate for each group of parameters."""

    groups: Annotated[dict[str, GroupOptions], Field(min_length=1)]
    """Groups by name, in order: the first whose pattern matches wins a parameter. A pattern that wins nothing
    and a trainable parameter in no group are errors."""


class MuonGroupOptions(GroupOptions):
    """A group with its algorithm."""

    algorithm: Literal["adamw", "muon"] = "adamw"
    """`muon` takes matrices alone; embeddings and the head, though matrices, are better left to `adamw` (Jordan et
    al. 2024), and vectors and convolutions must be."""


class MuonOptions(AdamWConstants, ScheduleOptions):
    """Muon (Jordan et al. 2024), which orthogonalises the momentum of matrices, and AdamW for the rest."""

    groups: Annotated[dict[str, MuonGroupOptions], Field(min_length=1)]
    """Groups by name, in order: the first whose pattern matches wins a parameter. A pattern that wins nothing
    and a trainable parameter in no group are errors."""

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Nesterov momentum of Muon (Jordan et al. 2024)."""
