"""Options of the optimizers: parameter groups, weight decay, learning-rate schedule."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from runner.errors import RequirementError
from runner.stages import Options


def require_bitsandbytes(user: str, alternative: str) -> None:
    """Check that bitsandbytes is installed.

    Args:
        user: What needs the package, for the message.
        alternative: What needs no package.

    Raises:
        RequirementError: The package is missing.
    """
    if find_spec("bitsandbytes") is None:
        raise RequirementError(
            f"{user} needs the package bitsandbytes. Install it with pip install 'mmre-runner[bitsandbytes]', or "
            f"{alternative}"
        )


Rate = Annotated[float, Field(ge=0)]


class LoraOptions(Options):
    """Low-rank adapters (Hu et al. 2022) on a group's linear layers, merged into the weights after training."""

    rank: Annotated[int, Field(gt=0)] = 16
    """Rank of the adapters. Default: 16, our choice."""

    alpha: Annotated[float, Field(gt=0)] = 32.0
    """The output of the adapters is multiplied by alpha / rank. Default: 32, our choice. With the default rank, the
    factor is 2."""

    load_in_4bit: bool = False
    """QLoRA (Dettmers et al. 2023): during training, the adapted weights are stored in 4 bits (NF4, with quantized
    scales), an eighth of float32. The saved model has the dequantized weights plus the adapters, which is what was
    trained. Needs the package bitsandbytes and `strategy: ddp`. Default: the weights stay as they are."""


MODEL_PARTS = ("vision", "merger", "language")
"""Names of groups that need no pattern: parts that every family has."""


class GroupOptions(Options):
    """A parameter group: a pattern for parameter names, and how these parameters are trained."""

    match: Annotated[str, Field(min_length=1)] | None = None
    """Pattern for a parameter's full name, with `*`, `?` and `[…]` as in file names (`fnmatch`, case-sensitive). A
    parameter belongs to the first group whose pattern matches the parameter's name. Default: a group named `language`
    has the language model and the output layer, `merger` the layers between vision tower and language model, and
    `vision` all other parameters, whatever their names in a family."""

    optional: bool = False
    """Whether the model may have no parameter for the group, in a spec for several families. Default: a group without
    parameters is an error, because its pattern may be mistyped."""

    lr: Rate | None = None
    """Peak learning rate of the group, reached after the warm-up. Required unless the group is frozen."""

    weight_decay: Rate | None = None
    """Decoupled weight decay of this group. Default: `optimizer.weight_decay`."""

    frozen: bool = False
    """If true, the parameters of this group are not trained. After training, the runner verifies that these parameters
    are unchanged."""

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

    def takes(self, num_dimensions: int) -> bool:
        """Return whether the group can have a parameter with this number of dimensions."""
        return True


def _check_groups(groups: Mapping[str, GroupOptions]) -> Mapping[str, GroupOptions]:
    unknown = [name for name, options in groups.items() if options.match is None and name not in MODEL_PARTS]
    if unknown:
        near = get_close_matches(unknown[0], MODEL_PARTS, 1)
        raise ValueError(
            f"the group {unknown[0]!r} needs `match`, a pattern for parameter names; only groups named "
            f"{', '.join(MODEL_PARTS)} need none{f'. Did you mean {near[0]}?' if near else ''}"
        )
    return groups


LrSchedule = Literal["cosine", "linear", "constant"]


class ScheduleOptions(Options):
    """Options of all optimizers: weight decay and learning-rate schedule."""

    former_names: ClassVar[Mapping[str, str]] = {
        "decayed": "weight_decay_on",
        "schedule": "lr_schedule",
        "warmup": "warmup_ratio",
    }

    weight_decay: Rate = 0.1
    """Decoupled weight decay of groups that do not set their own `weight_decay`. Default: 0.1, as in 2U1's
    finetune.sh."""

    weight_decay_on: Literal["matrices", "2u1", "all"] = "matrices"
    """Parameters with weight decay. `matrices`: parameters with more than one dimension, so not biases and norm
    weights. `2u1`: as in the paper's trainer, all parameters except LayerNorm weights and parameters with `bias` in
    their name (RMSNorm weights also decay). `all`: every parameter. Default: `matrices`, our choice."""

    lr_schedule: LrSchedule = "cosine"
    """How learning rates change after the warm-up. `cosine`: they fall to zero along half a cosine. `linear`: they fall
    to zero along a line. `constant`: they stay the same. Default: `cosine`, as in 2U1's finetune.sh."""

    warmup_ratio: Annotated[float, Field(ge=0, le=1)] = 0.03
    """Fraction of all optimizer steps over which learning rates rise from zero to their peak. Default: 0.03, as in
    2U1's finetune.sh."""


class AdamWConstants(Options):
    """The constants of AdamW."""

    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay rates of the first and second moment. Default: 0.9 and 0.999, as in Kingma and Ba 2015 and in 2U1."""

    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Constant added to the root of the second moment. Default: 1e-8, as in Kingma and Ba 2015 and in 2U1."""


class AdamWOptions(AdamWConstants, ScheduleOptions):
    """AdamW (Loshchilov and Hutter 2019) with a learning rate for each parameter group."""

    groups: Annotated[dict[str, GroupOptions], Field(min_length=1), AfterValidator(_check_groups)]
    """Parameter groups by name. A parameter belongs to the first group whose pattern matches the parameter's name. A
    group without parameters is an error, unless it is `optional`, and so is a trainable parameter that is in no
    group."""


class AdamW8bitOptions(AdamWOptions):
    """AdamW with moments in 8 bits (Dettmers et al. 2022): 2 bytes for each trainable weight instead of 8.

    It needs the package bitsandbytes. Parameters of less than 4,096 weights keep moments in 32 bits. The results differ
    slightly from those of `adamw`. The weights must not be sharded (`strategy: ddp`).
    """


MATRIX = 2
"""Number of dimensions of a matrix."""


class MuonGroupOptions(GroupOptions):
    """A parameter group with its algorithm."""

    algorithm: Literal["adamw", "muon"] = "adamw"
    """Algorithm of the group. A group with `muon` takes only matrices. Vectors, convolutions and stacked experts that
    match its pattern need a later group with `adamw`. Embeddings and the output layer are matrices, but should be in an
    earlier group with `adamw` (Jordan et al. 2024)."""

    def takes(self, num_dimensions: int) -> bool:
        """Return whether the group can have a parameter with this number of dimensions: Muon trains only matrices."""
        return self.algorithm != "muon" or self.frozen or num_dimensions == MATRIX


class MuonOptions(AdamWConstants, ScheduleOptions):
    """Muon (Jordan et al. 2024) for groups with `algorithm: muon`, and AdamW for all other groups."""

    groups: Annotated[dict[str, MuonGroupOptions], Field(min_length=1), AfterValidator(_check_groups)]
    """Parameter groups by name. A parameter belongs to the first group whose pattern matches the parameter's name, and
    that takes parameters of its shape. A group without parameters is an error, unless it is `optional`, and so is a
    trainable parameter that is in no group."""

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Nesterov momentum of Muon. Default: 0.95, as in Jordan et al. 2024."""
