"""Estimates what a training takes: steps, trained tokens, memory in several set-ups, disk, operations."""

from __future__ import annotations

import copy
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from statistics import fmean
from typing import cast

import torch
from transformers import PreTrainedModel

from plugins.trainer.host_memory import estimate_host_memory
from plugins.trainer.model_profile import FLOAT32_BYTES, ModelProfile, count_parameters, count_trainable, profile_model
from plugins.trainer.sft_options import SequencePart, SftOptions
from plugins.trainer.step_memory import (
    SampleLength,
    Strategy,
    TrainingSetup,
    exchanged_bytes,
    flops,
    micro_batch_lengths,
    peak_memory,
)
from plugins.trainer.validation_split_and_batches import (
    CPU_POSITIONS,
    MICRO_BATCH_POSITIONS,
    num_validation,
)
from runner.records import TrainingEstimate, TrainingVariant
from runner.stages import ModelSpec, Optimizer, TokenCounts

BYTES_PER_VALUE = {"fp32": 4, "bf16": 2}
"""Bytes of a value in each precision."""

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
    """Estimate memory, disk space and operations of a training; see `Trainer.estimate_training`.

    Memory is that of a worker that gets the longest samples in one step. A checkpoint holds the trainable weights in
    float32 and the optimizer state; a new one is written before the oldest is deleted.
    """
    value_bytes, module = BYTES_PER_VALUE[options.precision], model.module
    profiles = {
        sharded: profile_model(
            cast(PreTrainedModel, module), value_bytes, raw_pixels=model.stores_raw_pixels, sharded=sharded
        )
        for sharded in (False, True)
    }
    profile = profiles[False]
    state = optimizer_state_bytes(optimizer, module)
    lengths = sorted((_length(count) for count in counts), key=lambda length: length.total, reverse=True)
    longest = lengths[: max(1, options.global_batch_size // workers)]
    caches_features = model.replaces_pixels and profile.vision.num_trainable == 0
    setup = replace(
        _setup(options, value_bytes, supports_packing=model.supports_packing, gpus=gpus),
        caches_features=caches_features,
    )
    variants: list[TrainingVariant] = []
    for change, changed, lora in _changes(options, workers, setup, only_adapters=trains_only_adapters(module)):
        trained_profile, trained_state = profiles[changed.shards(workers)], state
        if lora:
            trained_profile, trained_state = with_adapters_only(trained_profile, value_bytes), 0.0
        memory = peak_memory(trained_profile, longest, changed, workers, trained_state)
        if not variants or memory.total < variants[-1].memory.total:
            variants.append(TrainingVariant(change, changed.strategy, memory))
    # Cached features of a frozen tower need one pass over an image in all epochs.
    vision_passes = 1 / max(1.0, _epochs(options, counts)) if caches_features else 1.0
    mean = [
        SampleLength(*(round(fmean(getattr(each, part) for each in lengths)) for part in ("total", "image", "target")))
    ]

    def variant(changed: TrainingSetup) -> TrainingVariant:
        """Estimate memory with the longest samples, and operations and exchange with average samples."""
        step_flops = options.global_batch_size * fmean(
            flops(profile, each, recompute=changed.recompute, vision_passes=vision_passes) for each in lengths
        )
        num_micro_batches = len(micro_batch_lengths(mean * len(longest), changed))
        return TrainingVariant(
            _describe_change(setup, changed, lora=False),
            changed.strategy,
            peak_memory(profiles[changed.shards(workers)], longest, changed, workers, state),
            step_flops,
            exchanged_bytes(profile, changed, workers, num_micro_batches),
        )

    current = variant(setup)
    checkpoint = round(FLOAT32_BYTES * count_trainable(profile) + state)
    return TrainingEstimate(
        variants=tuple(variants),
        flops_per_step=current.flops_per_step,
        exchanged_per_step=current.exchanged_per_step,
        faster=tuple(variant(changed) for changed in _faster(setup, workers)),
        checkpoint=checkpoint,
        num_checkpoints=options.save_total_limit + 1 + options.load_best_model_at_end,
        model=value_bytes * count_parameters(profile),
        encoded=round(_encoded_ratio(options, counts) * sum(encoded_bytes(profile, setup, count) for count in counts)),
        schedule=options.checkpoint_schedule(steps_per_epoch(options, len(counts))),
        host=estimate_host_memory(
            profiles[setup.shards(workers)],
            setup,
            variants[0].memory,
            checkpoint * options.save_async,
            workers,
            gpus=gpus,
        ),
    )


def steps_per_epoch(options: SftOptions, num_samples: int) -> int:
    """Count the optimizer steps of an epoch of a training split."""
    num_trained = num_samples - num_validation(num_samples, options.validation_ratio)
    return math.ceil(num_trained / options.global_batch_size)


TOKEN_BYTES = 24
"""Bytes that the file of an encoded sample has for each token: its id, its label and its type, as int64."""

HEADER_BYTES = 500
"""Bytes of the description of the tensors and of their digest in the file of an encoded sample, about."""


def encoded_bytes(profile: ModelProfile, setup: TrainingSetup, count: TokenCounts) -> int:
    """Estimate the size of the files of an encoded sample, without images that another sample shares.

    The pixels are those of the patches from which the image tokens are made. A processor that removes the padding of an
    image, or reduces its tokens, needs more.
    """
    pixels = profile.patch_bytes * profile.patches_per_token
    features = profile.image_feature_size * setup.value_bytes
    tokens = count.text + count.image + count.target
    images = 0 if count.shares_images else count.image * (features if setup.caches_features else pixels)
    return HEADER_BYTES + TOKEN_BYTES * tokens + images


def _encoded_ratio(options: SftOptions, counts: Sequence[TokenCounts]) -> float:
    """Estimate the fraction of the samples that the training encodes: those of its steps, and for validation."""
    trained = _epochs(options, counts)
    if options.max_steps is not None:
        trained = min(trained, options.max_steps * options.global_batch_size / len(counts))
    return min(1.0, trained + options.validation_ratio)


def _epochs(options: SftOptions, counts: Sequence[TokenCounts]) -> float:
    """Return about how often each sample is trained on; in a sequence, as if all tasks had equally many."""
    if options.sequence is None:
        return _passes(options, options.global_batch_size, counts)
    tasks = {task for part in options.sequence for task in part.tasks}
    shares = {part: len(part.tasks) / len(tasks) if part.epochs else 1.0 for part in options.sequence}
    return sum(_passes(part, options.global_batch_size, counts) * share for part, share in shares.items())


def _passes(length: SftOptions | SequencePart, batch_size: int, counts: Sequence[TokenCounts]) -> float:
    if length.epochs is not None:
        return length.epochs
    if length.steps is not None:
        return length.steps * batch_size / len(counts)
    return (length.tokens or 0) / max(1, sum(count.target for count in counts))


def _length(count: TokenCounts) -> SampleLength:
    return SampleLength(count.text + count.image + count.target, count.image, count.target)


def _setup(options: SftOptions, value_bytes: int, *, supports_packing: bool, gpus: bool) -> TrainingSetup:
    """Return the set-up that the options describe."""
    return TrainingSetup(
        strategy=options.strategy,
        recompute=options.gradient_checkpointing,
        micro_batch_size=options.micro_batch_size,
        value_bytes=value_bytes,
        max_positions=MICRO_BATCH_POSITIONS if gpus else CPU_POSITIONS,
        packed=supports_packing and options.packing == "auto",
        reshards=options.reshard_after_forward,
        generates_validation=options.generates_validation,
    )


def _changes(
    options: SftOptions, workers: int, setup: TrainingSetup, *, only_adapters: bool
) -> Iterator[tuple[str, TrainingSetup, bool]]:
    """Yield possible changes as text, the changed set-up, and whether adapters are trained instead of the weights.

    The cheapest changes come first: sharding the weights, smaller micro-batches, gradient checkpointing, adapters
    (unless only adapters are trained already).
    """
    strategies: tuple[Strategy, ...] = ("fsdp",) if workers > 1 else ()
    lora_choices = (False,) if only_adapters else (False, True)
    for lora, recompute in product(lora_choices, dict.fromkeys((setup.recompute, True))):
        for strategy, micro_batch_size in product(
            dict.fromkeys((setup.strategy, *strategies)), dict.fromkeys((setup.micro_batch_size, 1))
        ):
            changed = replace(setup, strategy=strategy, recompute=recompute, micro_batch_size=micro_batch_size)
            yield _describe_change(setup, changed, lora=lora), changed, lora


def _faster(setup: TrainingSetup, workers: int) -> Iterator[TrainingSetup]:
    """Yield set-ups that need less time and more memory: larger micro-batches, storing instead of repeating work."""
    keeps_gathered = setup.shards(workers)
    for micro_batch_size, recompute, reshards in product(
        dict.fromkeys((None, setup.micro_batch_size)),
        dict.fromkeys((False, setup.recompute)),
        dict.fromkeys((setup.reshards and not keeps_gathered, setup.reshards)),
    ):
        changed = replace(setup, micro_batch_size=micro_batch_size, recompute=recompute, reshards=reshards)
        if changed != setup:
            yield changed


def _describe_change(before: TrainingSetup, after: TrainingSetup, *, lora: bool) -> str:
    options = {
        "strategy": after.strategy if after.strategy != before.strategy else None,
        "gradient_checkpointing": _yaml(after.recompute) if after.recompute != before.recompute else None,
        "micro_batch_size": _yaml(after.micro_batch_size)
        if after.micro_batch_size != before.micro_batch_size
        else None,
        "reshard_after_forward": _yaml(after.reshards) if after.reshards != before.reshards else None,
    }
    changes = [f"trainer.{name}={value}" for name, value in options.items() if value is not None]
    return " ".join([*changes, *([f"and {ADAPTERS}" if changes else ADAPTERS] if lora else [])])


def _yaml(value: bool | int | None) -> str:
    return json.dumps(value)


def trains_only_adapters(module: torch.nn.Module) -> bool:
    """Return whether only low-rank adapters are trainable, judged by the names that peft gives them."""
    trainable = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    return bool(trainable) and all(".lora_" in name for name in trainable)


def with_adapters_only(profile: ModelProfile, value_bytes: int) -> ModelProfile:
    """Return the profile if only adapters were trained, which are too small to count; see `profile_model`."""
    parts = {
        name: replace(part, num_trainable=0, outer_trainable=0, num_half=part.matrix_parameters * (value_bytes < 4))
        for name, part in (("language", profile.language), ("vision", profile.vision))
    }
    return replace(
        profile,
        language=parts["language"],
        vision=parts["vision"],
        num_half=sum(part.num_half for part in parts.values()),
        head_is_trainable=False,
        embeddings_are_trainable=False,
    )


def optimizer_state_bytes(optimizer: Optimizer, module: torch.nn.Module) -> float:
    """Measure the bytes of the optimizer state by a step of each group with a small parameter in place of its own.

    Args:
        optimizer: The optimizer, which has prepared the module.
        module: The model, possibly on the meta device.
    """
    return sum(
        _state_bytes(scheduled.optimizer, group, num_dimensions) * num_weights
        for scheduled in optimizer.build(module, 2)
        for group in scheduled.optimizer.param_groups
        for num_dimensions, num_weights in _weights_by_dimensions(group["params"]).items()
    )


def _weights_by_dimensions(parameters: Sequence[torch.nn.Parameter]) -> dict[int, int]:
    """Count the weights of parameters by their number of dimensions."""
    counts: dict[int, int] = defaultdict(int)
    for parameter in parameters:
        counts[parameter.dim()] += parameter.numel()
    return counts


MEASURED_ROWS = 4096
"""Rows of the parameter by which optimizer state is measured: adamw_8bit keeps smaller ones in 32 bits."""


def _state_bytes(optimizer: torch.optim.Optimizer, group: dict[str, object], num_dimensions: int) -> int:
    """Measure the bytes of the state that the optimizer keeps for a weight, in tensors of the parameter's shape."""
    small = torch.nn.Parameter(torch.ones((MEASURED_ROWS, *(1,) * (num_dimensions - 1))[:num_dimensions]))
    small.grad = torch.ones_like(small)
    twin = copy.copy(optimizer)
    # Torch's optimizers copy only their groups and state. A schedule has replaced `step` by one of the original.
    vars(twin).update({name: value for name, value in vars(optimizer).items() if name != "step"})
    twin.param_groups = [{**group, "params": [small]}]
    twin.state = defaultdict(dict)
    twin.step()
    entries = (entry for entry in twin.state[small].values() if isinstance(entry, torch.Tensor))
    return sum(entry.element_size() for entry in entries if entry.shape == small.shape)
