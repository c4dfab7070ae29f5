"""What a model on the meta device says about memory: activations of each layer, and numbers of weights."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from plugins.trainer.accelerator_and_sharding import autocast_weight_ids, kept_when_sharded
from plugins.trainer.validation_split_and_batches import patches_per_token

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
        outer_parameters: Number of weights outside of the layers.
        outer_trainable: Number of trainable weights outside of the layers.
        num_parameters: Number of all weights.
        num_trainable: Number of trainable weights.
        num_half: Number of frozen weights that keep the compute precision; see `autocast_weight_ids`, and with FSDP
            `kept_when_sharded`.
    """

    layer_bytes: tuple[int, ...]
    layer_input_bytes: tuple[int, ...]
    backward_bytes: int
    other_bytes: float
    input_bytes: int
    matrix_parameters: int
    largest_layer: int
    outer_parameters: int
    outer_trainable: int
    num_parameters: int
    num_trainable: int
    num_half: int

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
        num_half: The same as in the parts, for the whole model.
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
    num_half: int
    head_is_trainable: bool
    embeddings_are_trainable: bool
    hidden_size: int
    vocab_size: int
    patches_per_token: int
    patch_bytes: int
    image_feature_size: int


def profile_model(
    module: PreTrainedModel, value_bytes: int, *, raw_pixels: bool = False, sharded: bool = False
) -> ModelProfile:
    """Profile a model as it is about to be trained.

    Args:
        module: The model, possibly on the meta device; frozen weights are frozen, and adapters are added.
        value_bytes: Bytes of a value in the compute precision: 2 beside float32 master weights, or 4.
        raw_pixels: Whether encoded samples hold pixels as bytes, without the copies of a frame.
        sharded: Whether FSDP gathers all weights in the compute precision, so that hidden states have this precision as
            well. Otherwise the embeddings are float32, and so are the hidden states between the layers.
    """
    bytes_per = _Bytes(value_bytes, value_bytes if sharded else FLOAT32_BYTES)
    find_kept = kept_when_sharded if sharded else autocast_weight_ids
    half = find_kept(module) if value_bytes < FLOAT32_BYTES else frozenset()
    decoder: nn.Module = module.get_decoder()  # type: ignore[no-untyped-call]
    head, embeddings = module.get_output_embeddings(), module.get_input_embeddings()  # type: ignore[no-untyped-call]
    assert isinstance(embeddings, nn.Embedding)
    language_ids = {id(part) for part in decoder.modules()} | {id(head), id(embeddings)}
    vision = [part for part in module.modules() if id(part) not in language_ids]
    patches = patches_per_token(module)
    return ModelProfile(
        language=_profile_modules([part for part in decoder.modules() if part is not embeddings], 1, bytes_per, half),
        vision=_profile_modules(vision, patches, bytes_per, half),
        head=head.weight.numel(),
        embeddings=embeddings.weight.numel(),
        tied=head.weight is embeddings.weight,
        num_half=sum(weight.numel() for weight in module.parameters() if id(weight) in half),
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


@dataclass(frozen=True)
class _Bytes:
    """Bytes of a value: in the compute precision, and in the residual stream between the layers."""

    computed: int
    residual: int


def _profile_modules(
    modules: Sequence[nn.Module], patches: int, bytes_per: _Bytes, half: Collection[int]
) -> ModuleProfile:
    value_bytes = bytes_per.computed
    layers = [part for part in modules if isinstance(part, GradientCheckpointingLayer)]
    inner_ids = {id(part) for layer in layers for part in layer.modules()}
    outer = [part for part in modules if id(part) not in inner_ids]
    weights = {id(weight): weight for part in modules for weight in part.parameters(recurse=False)}.values()
    outer_weights = {id(weight): weight for part in outer for weight in part.parameters(recurse=False)}.values()
    is_trained = any(weight.requires_grad for weight in weights)
    return ModuleProfile(
        layer_bytes=tuple(_layer_bytes(layer, bytes_per) for layer in layers) if is_trained else (),
        layer_input_bytes=tuple(bytes_per.residual * _width(layer) for layer in layers) if is_trained else (),
        backward_bytes=max((_backward_bytes(layer, value_bytes) for layer in layers), default=0) if is_trained else 0,
        other_bytes=sum(_other_bytes(part, bytes_per, patches) for part in outer) if is_trained else 0,
        # In float32 the backward pass needs the pixels themselves, and `other_bytes` counts them.
        input_bytes=0 if is_trained and value_bytes == FLOAT32_BYTES else _patch_bytes(outer),
        matrix_parameters=sum(weight.numel() for weight in weights if weight.dim() > 1),
        largest_layer=max((sum(weight.numel() for weight in layer.parameters()) for layer in layers), default=0),
        outer_parameters=sum(weight.numel() for weight in outer_weights),
        outer_trainable=sum(weight.numel() for weight in outer_weights if weight.requires_grad),
        num_parameters=sum(weight.numel() for weight in weights),
        num_trainable=sum(weight.numel() for weight in weights if weight.requires_grad),
        num_half=sum(weight.numel() for weight in weights if id(weight) in half),
    )


def _layer_bytes(layer: nn.Module, bytes_per: _Bytes) -> int:
    value_bytes = bytes_per.computed
    blocks = [part for part in layer.modules() if _is_attention(part) or _is_feed_forward(part)]
    return sum(_norm_bytes(part, bytes_per) for part in layer.modules()) + sum(
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


def _norm_bytes(part: nn.Module, bytes_per: _Bytes) -> int:
    """Count the input in float32; if the norm is written in single operations (RMSNorm), also its normalised input."""
    weight = _norm_weight(part)
    if weight is None:
        return 0
    saves_product = not isinstance(part, nn.LayerNorm) and weight.requires_grad
    return weight.numel() * (FLOAT32_BYTES + (bytes_per.residual if saves_product else 0))


def _norm_weight(part: nn.Module) -> nn.Parameter | None:
    return getattr(part, "weight", None) if "Norm" in type(part).__name__ else None


def _other_bytes(part: nn.Module, bytes_per: _Bytes, patches: int) -> float:
    """Count what modules before and after the layers save; those after the vision tower see merged patches."""
    if isinstance(part, PATCH_LAYERS):
        return part.weight[0].numel() * bytes_per.computed
    if isinstance(part, nn.Linear):
        return (part.in_features + part.out_features) * bytes_per.computed / patches
    return _norm_bytes(part, bytes_per)


def _width(layer: nn.Module) -> int:
    weights = (_norm_weight(part) for part in layer.modules())
    return max(weight.numel() for weight in weights if weight is not None)


def _backward_bytes(layer: nn.Module, value_bytes: int) -> int:
    """Count the gradients around the activation of a feed-forward block, and those of the residual stream."""
    feed_forward = (part for part in layer.modules() if _is_feed_forward(part))
    widest = max((_linear_layers(part)[-1].in_features for part in feed_forward), default=0)
    return 3 * widest * value_bytes + 2 * FLOAT32_BYTES * _width(layer)


def count_parameters(profile: ModelProfile) -> int:
    """Count all weights of a model."""
    ends = profile.embeddings if profile.tied else profile.embeddings + profile.head
    return profile.language.num_parameters + profile.vision.num_parameters + ends


def count_trainable(profile: ModelProfile) -> int:
    """Count the trainable weights of a model."""
    head = 0 if profile.tied else profile.head * profile.head_is_trainable
    ends = profile.embeddings * profile.embeddings_are_trainable + head
    return profile.language.num_trainable + profile.vision.num_trainable + ends
