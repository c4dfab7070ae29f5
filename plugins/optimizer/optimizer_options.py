"""Options of the optimizers: parameter groups, weight decay, learning-rate schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from runner.stages import Options

Rate = Annotated[float, Field(ge=0)]


class LoraOptions(Options):
    """Low-rank adapters (Hu et al. 2022) on a group's linear layers; they are merged into the weights at the end."""

    rank: Annotated[int, Field(gt=0)] = 16
    """Rank of the adapters. Default: our choice."""

    alpha: Annotated[float, Field(gt=0)] = 32.0
    """The output of the adapters is multiplied by alpha / rank. Default: our choice, a factor of 2 with the default
    rank."""


class GroupOptions(Options):
    """A parameter group: a pattern for parameter names, and how these parameters are trained."""

    match: Annotated[str, Field(min_length=1)]
    """Pattern for a parameter's full name, with `*`, `?` and `[…]` as in file names (`fnmatch`, case-sensitive). A
    parameter belongs to the first group whose pattern matches the parameter's name."""

    lr: Rate | None = None
    """Peak learning rate of the group, reached after the warm-up. Required unless the group is frozen."""

    weight_decay: Rate | None = None
    """Decoupled weight decay of this group. Default: the section's `weight_decay`."""

    frozen: bool = False
    """If true, the parameters of this group are not trained. After training, the runner verifies that they are
    unchanged."""

    lora: LoraOptions | None = None
    """Train low-rank adapters on the group's linear layers, except the output layer, and freeze the group's own
    parameters. Default: no adapters."""

    @model_validator(mode="after")
    def _frozen_or_trainable(self) -> GroupOptions:
        if self.frozen and (self.lr is not None or self.weight_decay is not None or self.lora is not None):
            raise ValueError("a frozen group is not trained; remove its lr, weight_decay and lora")
        if not self.frozen and self.lr is None:
            raise ValueError("needs lr, the peak learning rate; or frozen: true if the group is not to be trained")
        return self


class ScheduleOptions(Options):
    """Options of all optimizers: weight decay and learning-rate schedule."""

    former_names: ClassVar[Mapping[str, str]] = {
        "decayed": "weight_decay_on",
        "schedule": "lr_schedule",
        "warmup": "warmup_ratio",
    }

    weight_decay: Rate = 0.1
    """Decoupled weight decay of groups that do not set `weight_decay`. Default: the value in 2U1's finetune.sh."""

    weight_decay_on: Literal["matrices", "2u1", "all"] = "matrices"
    """Parameters with weight decay. `matrices`: parameters with more than one dimension, so not biases and norm
    weights. `2u1`: as in the paper's trainer, all parameters except LayerNorm weights and parameters with `bias` in
    their name (RMSNorm weights also decay). `all`: every parameter. Default: our choice."""

    lr_schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Learning rates after the warm-up. `cosine`, `linear`: fall to zero along half a cosine or along a line.
    `constant`: stay the same. Default: the schedule in 2U1's finetune.sh."""

    warmup_ratio: Annotated[float, Field(ge=0, le=1)] = 0.03
    """Fraction of all optimizer steps over which learning rates rise from zero to their peak. Default: the value in
    2U1's finetune.sh."""


class AdamWConstants(Options):
    """The constants of AdamW."""

    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay rates of the first and second moment. Default: Kingma and Ba 2015; 2U1 has the same values."""

    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Constant added to the root of the second moment. Default: Kingma and Ba 2015; 2U1 has the same value."""


class AdamWOptions(AdamWConstants, ScheduleOptions):
    """AdamW (Loshchilov and Hutter 2019) with a learning rate for each parameter group."""

    groups: Annotated[dict[str, GroupOptions], Field(min_length=1)]
    """Parameter groups by name. A parameter belongs to the first group whose pattern matches the parameter's name. Two
    things are errors: a group without parameters, and a trainable parameter that is in no group."""


class MuonGroupOptions(GroupOptions):
    """A parameter group with its algorithm."""

    algorithm: Literal["adamw", "muon"] = "adamw"
    """Algorithm of the group. `muon` trains only matrices. Vectors and convolutions need `adamw`. Embeddings and the
    output layer should also use `adamw`, although they are matrices (Jordan et al. 2024)."""


class MuonOptions(AdamWConstants, ScheduleOptions):
    """Muon (Jordan et al. 2024), which orthogonalises the momentum of matrices, and AdamW for the rest."""

    groups: Annotated[dict[str, MuonGroupOptions], Field(min_length=1)]
    """Parameter groups by name. A parameter belongs to the first group whose pattern matches the parameter's name. Two
    things are errors: a group without parameters, and a trainable parameter that is in no group."""

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Nesterov momentum of Muon. Default: Jordan et al. 2024."""
