"""Estimates what a training takes: steps, trained tokens, memory in several set-ups, disk, operations."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import cast

import torch
from transformers import PreTrainedModel

from plugins.trainer.activation_memory import (
    FULL,
    ModelProfile,
    SampleLength,
    Strategy,
    TrainingSetup,
    flops,
    learning_in,
    numbers_in,
    peak,
    profile_model,
)
from plugins.trainer.batches import CPU_POSITIONS, MICRO_BATCH_POSITIONS, EpochSampler
from plugins.trainer.encoded_samples import Overlong
from plugins.trainer.sft_options import SftOptions
from runner.errors import SpecError
from runner.records import TrainingBudget, TrainingEstimate, TrainingWay
from runner.stages import ModelSpec, Optimizer, TokenCounts

SIZES = {"fp32": 4, "bf16": 2}
"""Bytes of a number of each precision."""

ADAPTERS = "low-rank adapters (lora: {}) in every group of optimizer.groups"


def estimate_training(
    options: SftOptions,
    model: ModelSpec,
    optimizer: Optimizer,
    counts: Sequence[TokenCounts],
    workers: int,
    *,
    gpus: bool,
) -> TrainingEstimate:
    """Work out what a training takes; see `Trainer.estimate_training`.

    Memory is that of a worker whose share of a step has the longest samples. A checkpoint holds the weights that
    learn in float32 and the optimizer's state; a new one is written before the oldest goes.
    """
    size, module = SIZES[options.precision], model.module
    profile = profile_model(cast(PreTrainedModel, module), size)
    state = state_bytes(optimizer, module)
    longest = sorted((_length(count) for count in counts), key=lambda each: each.total, reverse=True)
    share = longest[: max(1, options.global_batch_size // workers)]
    ways: list[TrainingWay] = []
    features = model.replaces_pixels and profile.vision.num_learning == 0
    as_written = replace(_written(options, size, supports_packing=model.supports_packing, gpus=gpus), features=features)
    adapted = adapters_alone(module)
    for change, way, lora in _ways(options, workers, as_written, adapted=adapted):
        trained, kept = (bare(profile), 0.0) if lora else (profile, state)
        memory = peak(trained, share, way, workers, kept)
        if not ways or memory.total < ways[-1].memory.total:
            ways.append(TrainingWay(change, way.strategy, memory))
    # Features of frozen vision are kept, so that an image is looked at once in all epochs.
    looks = 1 / max(1.0, _epochs(options, counts)) if features else 1.0
    again = options.gradient_checkpointing
    mean = sum(flops(profile, _length(count), again=again, looks=looks) for count in counts) / len(counts)
    return TrainingEstimate(
        ways=tuple(ways),
        flops_per_step=mean * options.global_batch_size,
        checkpoint=round(FULL * learning_in(profile) + state),
        num_checkpoints=options.save_total_limit + 1 + (options.load_best_model_at_end),
        model=size * numbers_in(profile),
    )


def _epochs(options: SftOptions, counts: Sequence[TokenCounts]) -> float:
    """How often a sample is trained on, about."""
    return options.epochs or (options.tokens or 0) / max(1, sum(count.target for count in counts))


def _length(count: TokenCounts) -> SampleLength:
    return SampleLength(count.text + count.image + count.target, count.image, count.target)


def _written(options: SftOptions, size: int, *, supports_packing: bool, gpus: bool) -> TrainingSetup:
    """The way that the options ask for."""
    return TrainingSetup(
        strategy=options.strategy,
        again=options.gradient_checkpointing,
        micro_batch_size=options.micro_batch_size,
        size=size,
        limit=MICRO_BATCH_POSITIONS if gpus else CPU_POSITIONS,
        packed=supports_packing and options.packing == "auto",
        answers=options.generates_validation,
    )


def _ways(
    options: SftOptions, workers: int, written: TrainingSetup, *, adapted: bool
) -> Iterator[tuple[str, TrainingSetup, bool]]:
    """Yield what can be changed, what it amounts to, and whether adapters learn in place of the weights.

    What costs least comes first: dividing the weights, smaller micro-batches, computing layers again, adapters
    (where not they alone learn already).
    """
    divided: tuple[Strategy, ...] = ("fsdp",) if workers > 1 else ()
    for lora, again in product((False,) if adapted else (False, True), dict.fromkeys((written.again, True))):
        for chosen, micro in product(
            dict.fromkeys((written.strategy, *divided)), dict.fromkeys((written.micro_batch_size, 1))
        ):
            way = replace(written, strategy=chosen, again=again, micro_batch_size=micro)
            yield _change(written, way, lora=lora), way, lora


def _change(before: TrainingSetup, after: TrainingSetup, *, lora: bool) -> str:
    told = {
        "strategy": after.strategy if after.strategy != before.strategy else None,
        "gradient_checkpointing": "true" if after.again != before.again else None,
        "micro_batch_size": after.micro_batch_size if after.micro_batch_size != before.micro_batch_size else None,
    }
    changes = [f"trainer.{name}={value}" for name, value in told.items() if value is not None]
    return " ".join([*changes, *([f"and {ADAPTERS}" if changes else ADAPTERS] if lora else [])])


def adapters_alone(module: torch.nn.Module) -> bool:
    """Whether nothing but low-rank adapters learns, by the names that peft gives them."""
    learning = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    return bool(learning) and all(".lora_" in name for name in learning)


def bare(profile: ModelProfile) -> ModelProfile:
    """The same model with nothing that learns but adapters, which are too small to count."""
    return replace(
        profile,
        language=replace(profile.language, num_learning=0),
        vision=replace(profile.vision, num_learning=0),
        head_learns=False,
        embeddings_learn=False,
    )


def state_bytes(optimizer: Optimizer, module: torch.nn.Module) -> float:
    """Find how much state an optimizer keeps, by a step of each group with a small parameter in the place of its own.

    Args:
        optimizer: Has prepared the module.
        module: Perhaps without memory for its weights.
    """
    return sum(
        _copies(built.optimizer, group, dimensions) * FULL * numbers
        for built in optimizer.build(module, 2)
        for group in built.optimizer.param_groups
        for dimensions, numbers in _numbers_by_dimensions(group["params"]).items()
    )


def _numbers_by_dimensions(parameters: Sequence[torch.nn.Parameter]) -> dict[int, int]:
    numbers: dict[int, int] = defaultdict(int)
    for parameter in parameters:
        numbers[parameter.dim()] += parameter.numel()
    return numbers


def _copies(optimizer: torch.optim.Optimizer, group: dict[str, object], dimensions: int) -> int:
    """Count the tensors of a parameter's shape that are kept for it."""
    small = torch.nn.Parameter(torch.ones((2,) * dimensions))
    small.grad = torch.ones_like(small)
    twin = copy.copy(optimizer)
    twin.param_groups = [{**group, "params": [small]}]
    twin.state = defaultdict(dict)
    twin.step()
    return sum(isinstance(each, torch.Tensor) and each.shape == small.shape for each in twin.state[small].values())


def answer_tokens(counts: Sequence[TokenCounts], limit: int | None, overlong: Overlong) -> list[int]:
    """Count what is trained on of each sample's answer, its end token included and what trails it not.

    Args:
        counts: Lengths of the samples.
        limit: The most tokens of a sample; None for any number.
        overlong: What becomes of a longer one; one that will be refused counts whole.
    """
    return [_answer_tokens(count, limit, overlong) for count in counts]


def _answer_tokens(count: TokenCounts, limit: int | None, overlong: Overlong) -> int:
    prompt = count.text + count.image
    if limit is None or prompt + count.target <= limit or overlong == "refuse":
        return count.target
    return max(0, limit - prompt) if overlong == "truncate" else 0


def training_budget(options: SftOptions, order: EpochSampler, tokens: Sequence[int] | None) -> TrainingBudget:
    """Work out steps and tokens; see `Trainer.training_budget`.

    Args:
        options: The trainer's.
        order: Of the samples.
        tokens: Of each sample, by its place (`answer_tokens`); None where they are not known.

    Raises:
        SpecError: A number of tokens is asked for, and no sample that is trained on has any.
    """
    steps = _steps(options, order, tokens)
    if steps is not None and options.max_steps is not None:
        steps = min(steps, options.max_steps)
    return TrainingBudget(steps, None if steps is None or tokens is None else order.num_tokens(tokens, steps))


def _steps(options: SftOptions, order: EpochSampler, tokens: Sequence[int] | None) -> int | None:
    if options.epochs is not None:
        return options.epochs * order.steps_per_epoch
    assert options.tokens is not None
    if tokens is None:
        return None
    if not any(tokens[place] for place in order.training):
        raise SpecError(
            f"{options.tokens:,} tokens of answers can never be trained on, as no sample is left that has any; "
            "raise trainer.max_length, or show images with fewer pixels (model.max_pixels)",
            path=("trainer", "tokens"),
        )
    return order.steps_to(tokens, options.tokens)
