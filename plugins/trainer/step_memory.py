"""Memory and operations of a training step, computed from the profile of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from plugins.trainer.loss import logit_chunk_size
from plugins.trainer.model_profile import (
    FLOAT32_BYTES,
    ModelProfile,
    ModuleProfile,
    count_parameters,
    count_trainable,
)
from plugins.trainer.validation_split_and_batches import group_by_length, num_positions
from runner.records import Memory

Strategy = Literal["ddp", "fsdp"]


GATHERED_LAYERS = 2
"""Layers whose weights FSDP gathers at one time: one computes while the next one is fetched."""


@dataclass(frozen=True)
class TrainingSetup:
    """The settings of a training step that determine its memory.

    Attributes:
        strategy: `ddp`: every worker has all weights; `fsdp`: weights, gradients and optimizer state are sharded.
        recompute: Whether layers are computed again in the backward pass (gradient checkpointing).
        micro_batch_size: Samples computed at once; None for as many as stay within `max_positions`.
        value_bytes: Bytes of a value in the compute precision.
        max_positions: Maximum positions of a micro-batch if `micro_batch_size` is None.
        reshards: Whether `fsdp` frees gathered weights after the forward pass of a layer (`reshard_after_forward`).
        packed: Whether the samples of a micro-batch are concatenated, without padding.
        generates_validation: Whether answers to validation samples are generated during training.
        caches_features: Whether a frozen vision tower, whole on each worker, encodes images outside of the steps.
    """

    strategy: Strategy
    recompute: bool
    micro_batch_size: int | None
    value_bytes: int
    max_positions: int
    packed: bool
    reshards: bool = True
    generates_validation: bool = False
    caches_features: bool = False

    def shards(self, workers: int) -> bool:
        """Return whether this number of workers share the weights; a single worker shards nothing."""
        return self.strategy == "fsdp" and workers > 1


@dataclass(frozen=True)
class SampleLength:
    """Tokens of one or several samples: all, image tokens, and target tokens (with loss)."""

    total: int
    image: int
    target: int


def micro_batch_lengths(samples: Sequence[SampleLength], setup: TrainingSetup) -> list[SampleLength]:
    """Return the lengths of the micro-batches of a worker's samples, in order, with their padding."""
    lengths = [sample.total for sample in samples]
    groups = group_by_length(lengths, setup.micro_batch_size, setup.max_positions, packed=setup.packed)
    return [
        SampleLength(
            total=num_positions([lengths[index] for index in indices], packed=setup.packed),
            image=sum(samples[index].image for index in indices),
            target=sum(samples[index].target for index in indices),
        )
        for indices in groups
    ]


def peak_memory(
    profile: ModelProfile, samples: Sequence[SampleLength], setup: TrainingSetup, workers: int, state: float
) -> Memory:
    """Estimate the peak memory of a training step.

    Args:
        profile: The model's profile.
        samples: The samples of a step on one worker.
        setup: The settings of the training step.
        workers: Number of workers.
        state: Bytes of the optimizer state of all weights.
    """
    candidates = (
        memory
        for index, micro_batch in enumerate(micro_batch_lengths(samples, setup))
        for memory in _memory_by_phase(profile, micro_batch, setup, workers, state, has_gradients=index > 0)
    )
    return max(candidates, key=lambda memory: memory.total)


def _memory_by_phase(
    profile: ModelProfile,
    batch: SampleLength,
    setup: TrainingSetup,
    workers: int,
    state: float,
    *,
    has_gradients: bool,
) -> Sequence[Memory]:
    """Estimate the memory in each phase of a micro-batch; `has_gradients` after an earlier micro-batch."""
    language, vision, recompute = profile.language, profile.vision, setup.recompute
    patches = batch.image * profile.patches_per_token
    text = language.saved_bytes(recompute=recompute) * batch.total
    image = vision.saved_bytes(recompute=recompute) * patches
    activations = _Activations(
        loss=text + image + vision.input_bytes * patches,
        text_backward=language.peak_backward_bytes(recompute=recompute) * batch.total + image,
        image_backward=vision.peak_backward_bytes(recompute=recompute) * patches,
        logits=loss_bytes(profile, batch.target, setup.value_bytes),
    )
    if setup.shards(workers):
        return _sharded_phases(profile, activations, setup, workers, state, has_gradients=has_gradients)
    return _whole_phases(profile, activations, setup, workers, state, has_gradients=has_gradients)


@dataclass(frozen=True)
class _Activations:
    """Bytes of activations after the forward pass and in two phases of the backward pass, and those of the loss."""

    loss: float
    text_backward: float
    image_backward: float
    logits: float


def _phase(
    moment: Literal["loss", "backward", "step", "answer"],
    weights: float,
    gradients: float,
    state: float,
    activations: float = 0,
    logits: float = 0,
) -> Memory:
    return Memory(moment, round(weights), round(gradients), round(state), round(activations), round(logits))


def _whole_phases(
    profile: ModelProfile,
    activations: _Activations,
    setup: TrainingSetup,
    workers: int,
    state: float,
    *,
    has_gradients: bool,
) -> Sequence[Memory]:
    """Estimate the memory in each phase if the worker has all weights."""
    language, vision = profile.language, profile.vision
    weights = master_bytes(profile, setup)
    all_gradients = FLOAT32_BYTES * count_trainable(profile)
    # DDP keeps a second set of gradients, in the buckets that it sends.
    buckets = all_gradients if setup.strategy == "ddp" and workers > 1 else 0
    earlier_gradients = all_gradients if has_gradients else 0
    head_gradient = FLOAT32_BYTES * profile.head * profile.head_is_trainable
    first_gradients = head_gradient + FLOAT32_BYTES * _trainable_layer(language)
    language_gradients = all_gradients - FLOAT32_BYTES * vision.num_trainable
    copies = _weight_copies(profile, setup)
    # Without gradient checkpointing the copies are kept for the backward pass; with it, each layer is copied again.
    backward_copies = min(copies, setup.value_bytes * language.largest_layer) if setup.recompute else copies
    vision_copies = min(backward_copies, setup.value_bytes * vision.matrix_parameters)
    text_gradients, image_gradients = (max(earlier_gradients, each) for each in (first_gradients, language_gradients))
    return [
        _phase(
            "loss",
            weights + copies,
            earlier_gradients + buckets,
            state,
            activations.loss,
            activations.logits + head_gradient,
        ),
        _phase("backward", weights + backward_copies, text_gradients + buckets, state, activations.text_backward),
        _phase("backward", weights + vision_copies, image_gradients + buckets, state, activations.image_backward),
        _phase("step", weights, all_gradients + buckets, state),
    ]


def _sharded_phases(
    profile: ModelProfile,
    activations: _Activations,
    setup: TrainingSetup,
    workers: int,
    state: float,
    *,
    has_gradients: bool,
) -> Sequence[Memory]:
    """Estimate the memory in each phase if FSDP shards the weights in units: each layer, the embeddings, and the rest.

    The rest is the root unit: the output layer, and the weights outside of the layers. FSDP gathers its weights for the
    whole forward and backward pass, and reduces its gradients at the end. Gradients of a unit exist in the compute
    precision, and for their sum over the workers also in float32.
    """
    language, vision, value_bytes = profile.language, profile.vision, setup.value_bytes
    shards = _Shards(profile)
    tower = FLOAT32_BYTES * vision.num_parameters if setup.caches_features else 0
    weights = master_bytes(profile, setup) / workers + tower
    root, head = value_bytes * shards.root, value_bytes * profile.head * profile.head_is_trainable
    if setup.reshards:
        text_weights, image_weights = (
            root + value_bytes * GATHERED_LAYERS * part.largest_layer for part in (language, vision)
        )
    else:
        text_weights, image_weights = (
            value_bytes * (count_parameters(profile) - done) for done in (0, shards.language)
        )
    # The buffer in which a layer's gradients are summed is freed when the next layer is reduced.
    reduced = (value_bytes + FLOAT32_BYTES) * max(map(_trainable_layer, (language, vision)))
    text_gradients, layer_gradients, all_gradients = (
        FLOAT32_BYTES * number / workers
        for number in (shards.trained_language, shards.trained_layers, count_trainable(profile))
    )
    earlier = all_gradients if has_gradients else 0
    root_reduced = (
        value_bytes + FLOAT32_BYTES + FLOAT32_BYTES / workers
    ) * shards.trained_root + value_bytes * shards.trained_embeddings
    embeddings_reduced = (
        FLOAT32_BYTES / workers * shards.trained_root
        + (value_bytes + FLOAT32_BYTES + FLOAT32_BYTES / workers) * shards.trained_embeddings
    )
    end = max(earlier, layer_gradients) + max(root_reduced, embeddings_reduced)
    text, image = (max(earlier, number) + head + reduced for number in (0, text_gradients))
    logits, state = activations.logits + head, state / workers
    phases = [
        _phase("loss", weights + text_weights, earlier, state, activations.loss, logits),
        _phase("backward", weights + text_weights, text, state, activations.text_backward),
        _phase("backward", weights + image_weights, image, state, activations.image_backward),
        _phase("backward", weights, end, state),
        _phase("step", weights, all_gradients, state),
    ]
    if setup.generates_validation:
        phases.append(_phase("answer", weights + value_bytes * count_parameters(profile), 0, state))
    return phases


class _Shards:
    """Numbers of weights in the units of FSDP: the root unit, the embeddings if they are not tied, and the layers."""

    def __init__(self, profile: ModelProfile) -> None:
        parts = (profile.language, profile.vision)
        self.language = profile.language.num_parameters - profile.language.outer_parameters
        self.root = profile.head + sum(part.outer_parameters for part in parts)
        self.trained_root = profile.head * profile.head_is_trainable + sum(part.outer_trainable for part in parts)
        self.trained_embeddings = 0 if profile.tied else profile.embeddings * profile.embeddings_are_trainable
        self.trained_language, trained_vision = (part.num_trainable - part.outer_trainable for part in parts)
        self.trained_layers = self.trained_language + trained_vision


def _trainable_layer(part: ModuleProfile) -> float:
    """Estimate the number of trainable weights in the largest layer."""
    return part.largest_layer * part.num_trainable / max(1, part.num_parameters)


def count_float32(profile: ModelProfile, setup: TrainingSetup) -> int:
    """Count the weights that are float32 in training; see `ModelProfile.num_half`.

    A frozen tower that encodes images outside of the steps is float32, too.
    """
    tower = profile.vision.num_half if setup.caches_features else 0
    return count_parameters(profile) - profile.num_half + tower


def master_bytes(profile: ModelProfile, setup: TrainingSetup) -> int:
    """Return the bytes of all weights in training, without copies."""
    number = count_float32(profile, setup)
    return FLOAT32_BYTES * number + setup.value_bytes * (count_parameters(profile) - number)


def _weight_copies(profile: ModelProfile, setup: TrainingSetup) -> int:
    """Return the bytes of weights that autocast copies to the compute precision."""
    if setup.value_bytes == FLOAT32_BYTES:
        return 0
    parts = (profile.language, *(() if setup.caches_features else (profile.vision,)))
    matrices: int = sum(part.matrix_parameters - part.num_half for part in parts)
    head = profile.head if profile.head_is_trainable or profile.tied else 0
    return setup.value_bytes * (matrices + head)


def loss_bytes(profile: ModelProfile, num_labels: int, value_bytes: int) -> float:
    """Return the bytes of the output layer's activations and the fused cross-entropy.

    For one chunk of positions: the logits and their log-softmax, float32. For all positions: the hidden states, their
    copy in the compute precision, and their gradient.
    """
    chunk = min(num_labels, logit_chunk_size(profile.vocab_size))
    logits = chunk * 2 * FLOAT32_BYTES * profile.vocab_size
    return logits + num_labels * (2 * FLOAT32_BYTES + value_bytes) * profile.hidden_size


def exchanged_bytes(profile: ModelProfile, setup: TrainingSetup, workers: int, num_micro_batches: int) -> float:
    """Count the bytes that each worker receives from the others in a step; it sends as many.

    DDP adds up float32 gradients once a step, in two passes over a ring. FSDP gathers the weights in each micro-batch
    for the forward pass, those of the layers again for the backward pass, and reduces float32 gradients.
    """
    others = (workers - 1) / workers
    gradients = FLOAT32_BYTES * count_trainable(profile)
    if setup.strategy == "ddp":
        return 2 * others * gradients
    outer = profile.language.outer_parameters + profile.vision.outer_parameters
    layers = profile.language.num_parameters + profile.vision.num_parameters - outer
    gathered = setup.value_bytes * (count_parameters(profile) + (layers if setup.reshards else 0))
    return num_micro_batches * others * (gathered + gradients)


def flops(profile: ModelProfile, length: SampleLength, *, recompute: bool, vision_passes: float = 1.0) -> float:
    """Count the floating-point operations of a sample.

    Two per weight and position in the forward pass, two for the gradients of the hidden states, two for those of the
    weights (Kaplan et al. 2020), and two to compute again with gradient checkpointing. Attention scores are left out:
    at 1,500 tokens they add 2 to 5 % to a 7B.

    Args:
        profile: The model's profile.
        length: The sample's length.
        recompute: Whether layers are computed again in the backward pass.
        vision_passes: Forward passes of the vision tower for each time that the sample is trained on; less than one if
            the features of a frozen tower are cached.
    """
    parts = (
        (profile.language.matrix_parameters, length.total, True, profile.language.num_trainable > 0),
        (
            profile.vision.matrix_parameters,
            vision_passes * length.image * profile.patches_per_token,
            profile.vision.num_trainable > 0,
            True,
        ),
        (profile.head, length.target, True, profile.head_is_trainable),
    )
    return sum(
        2.0 * matrices * positions * (1 + (1 + recompute) * has_backward + (has_backward and is_trained))
        for matrices, positions, has_backward, is_trained in parts
    )
