"""Memory and operations of a training step, computed from a module on the meta device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from plugins.trainer.loss import logit_chunk_size
from plugins.trainer.validation_split_and_batches import group_by_length, num_positions, patches_per_token
from runner.records import Memory

FLOAT32_BYTES = 4
"""Bytes of a float32 value: master weights, gradients, norms, and the residual stream between layers."""

PATCH_LAYERS = (nn.Conv2d, nn.Conv3d)
"""Layer types that take pixels."""


@dataclass(frozen=True)
class ModuleProfile:
    """Activation memory and weights of the language model or the vision tower.

    Attributes:
        layer_bytes: Bytes per position that each layer saves for the backward pass.
        layer_input_bytes: Bytes per position of each layer's input: all that gradient checkpointing saves.
        backward_bytes: Additional bytes per position during the backward pass of the largest layer.
        other_bytes: Bytes per position saved outside of the layers.
        input_bytes: Bytes per position of the inputs, which exist only in the forward pass.
        matrix_parameters: Number of weights with more than one dimension; autocast copies them, and they do the work.
        largest_layer: Number of weights of the largest layer.
        num_parameters: Number of all weights.
        num_trainable: Number of trainable weights.
    """

    layer_bytes: tuple[int, ...]
    layer_input_bytes: tuple[int, ...]
    backward_bytes: int
    other_bytes: float
    input_bytes: int
    matrix_parameters: int
    largest_layer: int
    num_parameters: int
    num_trainable: int

    def saved_bytes(self, *, recompute: bool) -> float:
        """Return the bytes per position at the end of the forward pass; `recompute` with gradient checkpointing."""
        return sum(self.layer_input_bytes if recompute else self.layer_bytes) + self.other_bytes

    def peak_backward_bytes(self, *, recompute: bool) -> float:
        """Return the bytes per position during the backward pass of the last layer."""
        largest = max(self.layer_bytes, default=0)
        return self.saved_bytes(recompute=recompute) + self.backward_bytes + (largest if recompute else 0)


@dataclass(frozen=True)
class ModelProfile:
    """Activation memory and weights of a model's parts.

    Attributes:
        language: The language model; positions are tokens.
        vision: The vision tower; positions are patches. If nothing in it is trainable, it saves no activations.
        head: Number of weights of the output layer; the embeddings' weights if `tied`.
        embeddings: Number of weights of the input embeddings.
        tied: Whether output layer and embeddings share their weights.
        head_is_trainable: Whether the output layer is trained.
        embeddings_are_trainable: Whether the input embeddings are trained.
        hidden_size: Size of a hidden state.
        vocab_size: Rows of the output layer.
        patches_per_token: Patches that are merged into one image token.
        patch_bytes: Bytes of the pixels of one patch in an encoded sample.
        image_feature_size: Number of values that the vision tower computes for one image token.
    """

    language: ModuleProfile
    vision: ModuleProfile
    head: int
    embeddings: int
    tied: bool
    head_is_trainable: bool
    embeddings_are_trainable: bool
    hidden_size: int
    vocab_size: int
    patches_per_token: int
    patch_bytes: int
    image_feature_size: int


def profile_model(module: PreTrainedModel, value_bytes: int, *, raw_pixels: bool = False) -> ModelProfile:
    """Profile a model as it is about to be trained.

    Args:
        module: The model, possibly on the meta device; frozen weights are frozen, and adapters are added.
        value_bytes: Bytes of a value in the compute precision: 2 beside float32 master weights, or 4.
        raw_pixels: Whether encoded samples hold pixels as bytes, without the copies of a frame.
    """
    decoder: nn.Module = module.get_decoder()  # type: ignore[no-untyped-call]
    head, embeddings = module.get_output_embeddings(), module.get_input_embeddings()  # type: ignore[no-untyped-call]
    assert isinstance(embeddings, nn.Embedding)
    language_ids = {id(part) for part in decoder.modules()} | {id(head), id(embeddings)}
    vision = [part for part in module.modules() if id(part) not in language_ids]
    patches = patches_per_token(module)
    return ModelProfile(
        language=_profile_modules([part for part in decoder.modules() if part is not embeddings], 1, value_bytes),
        vision=_profile_modules(vision, patches, value_bytes),
        head=head.weight.numel(),
        embeddings=embeddings.weight.numel(),
        tied=head.weight is embeddings.weight,
        head_is_trainable=head.weight.requires_grad,
        embeddings_are_trainable=embeddings.weight.requires_grad,
        hidden_size=head.in_features,
        vocab_size=head.out_features,
        patches_per_token=patches,
        patch_bytes=_raw_patch_bytes(vision) if raw_pixels else _patch_bytes(vision),
        image_feature_size=head.in_features * (1 + len(getattr(module.config.vision_config, INNER_FEATURES, ()))),
    )


INNER_FEATURES = "deepstack_visual_indexes"
"""The entry of a vision configuration that lists the inner layers whose features the language model gets as well."""


def _patch_bytes(modules: Sequence[nn.Module]) -> int:
    return sum(FLOAT32_BYTES * part.weight[0].numel() for part in modules if isinstance(part, PATCH_LAYERS))


def _raw_patch_bytes(modules: Sequence[nn.Module]) -> int:
    return sum(part.weight[0, :, 0].numel() for part in modules if isinstance(part, nn.Conv3d))


def _profile_modules(modules: Sequence[nn.Module], patches: int, value_bytes: int) -> ModuleProfile:
    layers = [part for part in modules if isinstance(part, GradientCheckpointingLayer)]
    inner_ids = {id(part) for layer in layers for part in layer.modules()}
    outer = [part for part in modules if id(part) not in inner_ids]
    weights = {id(weight): weight for part in modules for weight in part.parameters(recurse=False)}.values()
    is_trained = any(weight.requires_grad for weight in weights)
    return ModuleProfile(
        layer_bytes=tuple(_layer_bytes(layer, value_bytes) for layer in layers) if is_trained else (),
        layer_input_bytes=tuple(FLOAT32_BYTES * _width(layer) for layer in layers) if is_trained else (),
        backward_bytes=max((_backward_bytes(layer, value_bytes) for layer in layers), default=0) if is_trained else 0,
        other_bytes=sum(_other_bytes(part, value_bytes, patches) for part in outer) if is_trained else 0,
        # In float32 the backward pass needs the pixels themselves, and `other_bytes` counts them.
        input_bytes=0 if is_trained and value_bytes == FLOAT32_BYTES else _patch_bytes(outer),
        matrix_parameters=sum(weight.numel() for weight in weights if weight.dim() > 1),
        largest_layer=max((sum(weight.numel() for weight in layer.parameters()) for layer in layers), default=0),
        num_parameters=sum(weight.numel() for weight in weights),
        num_trainable=sum(weight.numel() for weight in weights if weight.requires_grad),
    )


def _layer_bytes(layer: nn.Module, value_bytes: int) -> int:
    blocks = [part for part in layer.modules() if _is_attention(part) or _is_feed_forward(part)]
    return sum(_norm_bytes(part) for part in layer.modules()) + sum(
        _attention_bytes(block, value_bytes) if _is_attention(block) else _feed_forward_bytes(block, value_bytes)
        for block in blocks
    )


def _is_attention(part: nn.Module) -> bool:
    return "Attention" in type(part).__name__ and bool(_linear_layers(part))


def _is_feed_forward(part: nn.Module) -> bool:
    return "MLP" in type(part).__name__


def _linear_layers(block: nn.Module) -> list[nn.Linear]:
    """Return the linear layers of a block, without adapters, in order; the last one is the output projection."""
    return [part for name, part in block.named_modules() if isinstance(part, nn.Linear) and "lora_" not in name]


def _block_input_bytes(block: nn.Module, width: int, value_bytes: int) -> int:
    """Return the bytes of a block's input, as its linear layers save it.

    Autocast makes a copy for each linear layer; in float32 they share one.
    """
    output = _linear_layers(block)[-1]
    trainable = [
        part
        for part in block.modules()
        if isinstance(part, nn.Linear)
        and part is not output
        and part.in_features == width
        and part.weight.requires_grad
    ]
    return width * value_bytes * (len(trainable) if value_bytes < FLOAT32_BYTES else min(1, len(trainable)))


def _attention_bytes(block: nn.Module, value_bytes: int) -> int:
    """Count queries, keys, values, the result with its normalisers, and the block's input."""
    *projections, output = _linear_layers(block)
    width = sum(linear.out_features for linear in projections) + output.in_features
    return width * value_bytes + _block_input_bytes(block, projections[0].in_features, value_bytes)


def _feed_forward_bytes(block: nn.Module, value_bytes: int) -> int:
    """Count input and output of the activation, for a gated block also the product, and the block's input."""
    *projections, output = _linear_layers(block)
    is_trained = any(part.weight.requires_grad for part in block.modules() if isinstance(part, nn.Linear))
    num_tensors = (1 if len(projections) == 1 else 3) + (1 if is_trained else 0)
    input_bytes = _block_input_bytes(block, projections[0].in_features, value_bytes)
    return num_tensors * output.in_features * value_bytes + input_bytes


def _norm_bytes(part: nn.Module) -> int:
    """Count the input; if the norm is written in single operations (RMSNorm), also the product with its weight."""
    weight: nn.Parameter | None = getattr(part, "weight", None)
    if "Norm" not in type(part).__name__ or weight is None:
        return 0
    saves_product = not isinstance(part, nn.LayerNorm) and weight.requires_grad
    return FLOAT32_BYTES * weight.numel() * (2 if saves_product else 1)


def _other_bytes(part: nn.Module, value_bytes: int, patches: int) -> float:
    """Count what modules before and after the layers save; those after the vision tower see merged patches."""
    if isinstance(part, PATCH_LAYERS):
        return part.weight[0].numel() * value_bytes
    if isinstance(part, nn.Linear):
        return (part.in_features + part.out_features) * value_bytes / patches
    return _norm_bytes(part)


def _width(layer: nn.Module) -> int:
    weights = (part.get_parameter("weight") for part in layer.modules() if _norm_bytes(part))
    return max(weight.numel() for weight in weights)


def _backward_bytes(layer: nn.Module, value_bytes: int) -> int:
    """Count the gradients around the activation of a feed-forward block, and those of the residual stream."""
    feed_forward = (part for part in layer.modules() if _is_feed_forward(part))
    widest = max((_linear_layers(part)[-1].in_features for part in feed_forward), default=0)
    return 3 * widest * value_bytes + 2 * FLOAT32_BYTES * _width(layer)


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
    generates_validation: bool = False
    caches_features: bool = False


@dataclass(frozen=True)
class SampleLength:
    """Tokens of one or several samples: all, image tokens, and target tokens (with loss)."""

    total: int
    image: int
    target: int


def count_parameters(profile: ModelProfile) -> int:
    """Count all weights of a model."""
    ends = profile.embeddings if profile.tied else profile.embeddings + profile.head
    return profile.language.num_parameters + profile.vision.num_parameters + ends


def count_trainable(profile: ModelProfile) -> int:
    """Count the trainable weights of a model."""
    head = 0 if profile.tied else profile.head * profile.head_is_trainable
    ends = profile.embeddings * profile.embeddings_are_trainable + head
    return profile.language.num_trainable + profile.vision.num_trainable + ends


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
    shards = workers if setup.strategy == "fsdp" else 1
    cached_tower = vision.num_parameters if setup.caches_features and shards > 1 else 0
    weights = FLOAT32_BYTES * (count_parameters(profile) / shards + cached_tower)
    all_gradients = FLOAT32_BYTES * count_trainable(profile) / shards
    # DDP keeps a second set of gradients, in the buckets that it sends.
    buckets = all_gradients if setup.strategy == "ddp" and workers > 1 else 0
    head_gradient = FLOAT32_BYTES * profile.head / shards if profile.head_is_trainable else 0
    earlier_gradients = all_gradients if has_gradients else 0
    language_gradients = max(earlier_gradients, all_gradients - FLOAT32_BYTES * vision.num_trainable / shards)
    copies = _weight_copies(profile, setup, shards)
    text = language.saved_bytes(recompute=recompute) * batch.total
    image = vision.saved_bytes(recompute=recompute) * patches
    text_backward = language.peak_backward_bytes(recompute=recompute) * batch.total
    image_backward = vision.peak_backward_bytes(recompute=recompute) * patches
    # Without gradient checkpointing the copies are kept for the backward pass; with it, each layer is copied again.
    copies_per_layer = recompute and shards == 1
    backward_copies = min(copies, setup.value_bytes * language.largest_layer) if copies_per_layer else copies
    vision_copies = copies if shards > 1 else setup.value_bytes * vision.matrix_parameters
    trainable_ratio = language.num_trainable / max(1, language.num_parameters)
    first_gradients = head_gradient + FLOAT32_BYTES * language.largest_layer * trainable_ratio / shards

    def memory(
        moment: Literal["loss", "backward", "step", "answer"],
        copies: float,
        gradients: float,
        activations: float,
        logits: float,
    ) -> Memory:
        return Memory(
            moment,
            round(weights + copies),
            round(gradients + buckets),
            round(state / shards),
            round(activations),
            round(logits),
        )

    loss = loss_bytes(profile, batch.target, setup.value_bytes)
    phases = [
        memory("loss", copies, earlier_gradients, text + image + vision.input_bytes * patches, loss),
        memory("backward", backward_copies, max(earlier_gradients, first_gradients), text_backward + image, 0),
        memory("backward", min(backward_copies, vision_copies), language_gradients, image_backward, 0),
        memory("step", 0, all_gradients, 0, 0),
    ]
    if setup.generates_validation and shards > 1:
        phases.append(memory("answer", setup.value_bytes * count_parameters(profile), 0, 0, 0))
    return phases


def _weight_copies(profile: ModelProfile, setup: TrainingSetup, shards: int) -> float:
    """Return the bytes of weights in the compute precision, beside the master weights."""
    language, vision = profile.language, profile.vision
    if shards > 1:
        largest = max(language.largest_layer, vision.largest_layer)
        ends = profile.head if profile.tied else profile.head + profile.embeddings
        # Gathered gradients are float32 until they are sharded.
        return setup.value_bytes * (ends + GATHERED_LAYERS * largest) + FLOAT32_BYTES * largest
    if setup.value_bytes == FLOAT32_BYTES:
        return 0
    vision_parameters = 0 if setup.caches_features else vision.matrix_parameters
    return setup.value_bytes * (language.matrix_parameters + vision_parameters + profile.head)


def loss_bytes(profile: ModelProfile, num_labels: int, value_bytes: int) -> float:
    """Return the bytes of the output layer's activations and the fused cross-entropy.

    For one chunk of positions: the logits and their log-softmax, float32. For all positions: the hidden states, their
    copy in the compute precision, and their gradient. Also the gradient of the layer's weights, which exists from the
    forward pass on.
    """
    chunk = min(num_labels, logit_chunk_size(profile.vocab_size))
    weight_gradient = FLOAT32_BYTES * profile.head if profile.head_is_trainable else 0
    logits = chunk * 2 * FLOAT32_BYTES * profile.vocab_size
    return logits + num_labels * (2 * FLOAT32_BYTES + value_bytes) * profile.hidden_size + weight_gradient


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
