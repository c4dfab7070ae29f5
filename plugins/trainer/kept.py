"""What a forward pass keeps for the backward pass, read off the layers of a model without weights.

Bytes are those that autograd keeps for transformers' layers as they are written: the inputs of linear layers whose
weights learn, queries, keys and values, the hidden states around an activation, and both sides of a norm. Attention is
taken to keep no matrix of scores, which holds for sdpa and flash attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

FULL = 4
"""Bytes of a float32 number: master weights, gradients, norms, and the stream of hidden states between layers."""

PIXELS = (nn.Conv2d, nn.Conv3d)
"""What pixels go into."""


@dataclass(frozen=True)
class Part:
    """The language model, or what looks at images.

    Attributes:
        layers: Bytes that each layer keeps, a position.
        streams: Bytes of each layer's input, a position: all that is kept where layers are computed again.
        passing: Bytes that exist besides while the largest layer is computed backwards, a position.
        outside: Bytes kept outside of the layers, a position.
        given: Bytes of what goes in that are there in the forward pass alone, a position.
        matrices: Numbers in the weights of more than one dimension, which autocast copies and which do the work.
        largest_layer: Numbers in the weights of the largest layer.
        num_parameters: Numbers in all weights.
        num_learning: Numbers in those that learn.
    """

    layers: tuple[int, ...]
    streams: tuple[int, ...]
    passing: int
    outside: float
    given: int
    matrices: int
    largest_layer: int
    num_parameters: int
    num_learning: int

    def kept(self, *, again: bool) -> float:
        """Bytes a position at the end of the forward pass; `again` where layers are computed again."""
        return sum(self.streams if again else self.layers) + self.outside

    def backward(self, *, again: bool) -> float:
        """Bytes a position while the last layer is computed backwards."""
        largest = max(self.layers, default=0)
        return self.kept(again=again) + self.passing + (largest if again else 0)


@dataclass(frozen=True)
class Anatomy:
    """A model's parts.

    Attributes:
        language: Positions are tokens.
        vision: Positions are patches; where nothing in it learns, nothing is kept of it.
        head: Numbers in the weights of the output layer; they are the embeddings' where `tied`.
        embeddings: Numbers in the weights of the embeddings.
        tied: Whether the two are one.
        head_learns: Whether the output layer learns.
        embeddings_learn: Whether the embeddings do.
        width: Of a hidden state.
        words: Rows of the output layer.
        patches: Patches of an image token.
    """

    language: Part
    vision: Part
    head: int
    embeddings: int
    tied: bool
    head_learns: bool
    embeddings_learn: bool
    width: int
    words: int
    patches: int


def dissect(module: PreTrainedModel, size: int) -> Anatomy:
    """Part a model as it is about to train.

    Args:
        module: Perhaps without memory for its weights; what does not learn is frozen, adapters are in place.
        size: Bytes of a number of the precision that is computed in: 2 beside float32 master weights, or 4.
    """
    decoder: nn.Module = module.get_decoder()  # type: ignore[no-untyped-call]
    head, embeddings = module.get_output_embeddings(), module.get_input_embeddings()  # type: ignore[no-untyped-call]
    assert isinstance(embeddings, nn.Embedding)
    within = {id(part) for part in decoder.modules()} | {id(head), id(embeddings)}
    vision = [part for part in module.modules() if id(part) not in within]
    return Anatomy(
        language=_part([part for part in decoder.modules() if part is not embeddings], 1, size),
        vision=_part(vision, patches := patches_per_token(module), size),
        head=head.weight.numel(),
        embeddings=embeddings.weight.numel(),
        tied=head.weight is embeddings.weight,
        head_learns=head.weight.requires_grad,
        embeddings_learn=embeddings.weight.requires_grad,
        width=head.in_features,
        words=head.out_features,
        patches=patches,
    )


def patches_per_token(module: PreTrainedModel) -> int:
    """Patches that the vision tower merges into one token's place."""
    config = module.config
    merge = getattr(config.vision_config, "spatial_merge_size", None)
    if merge is not None:
        return int(merge) ** 2
    return round(1 / getattr(config, "downsample_ratio", 1) ** 2)


def _part(modules: Sequence[nn.Module], patches: int, size: int) -> Part:
    layers = [part for part in modules if isinstance(part, GradientCheckpointingLayer)]
    inner = {id(part) for layer in layers for part in layer.modules()}
    outer = [part for part in modules if id(part) not in inner]
    owned = {id(weight): weight for part in modules for weight in part.parameters(recurse=False)}.values()
    learns = any(weight.requires_grad for weight in owned)
    pixels = sum(FULL * part.weight[0].numel() for part in outer if isinstance(part, PIXELS))
    return Part(
        layers=tuple(_kept_by(layer, size) for layer in layers) if learns else (),
        streams=tuple(FULL * _width(layer) for layer in layers) if learns else (),
        passing=max((_passing(layer, size) for layer in layers), default=0) if learns else 0,
        outside=sum(_outside(part, size, patches) for part in outer) if learns else 0,
        # In float32 the backward pass needs the pixels themselves, and they are counted outside.
        given=0 if learns and size == FULL else pixels,
        matrices=sum(weight.numel() for weight in owned if weight.dim() > 1),
        largest_layer=max((sum(each.numel() for each in layer.parameters()) for layer in layers), default=0),
        num_parameters=sum(weight.numel() for weight in owned),
        num_learning=sum(weight.numel() for weight in owned if weight.requires_grad),
    )


def _kept_by(layer: nn.Module, size: int) -> int:
    blocks = [part for part in layer.modules() if _is_attention(part) or _is_feed_forward(part)]
    return sum(_norm(part) for part in layer.modules()) + sum(
        _attention(block, size) if _is_attention(block) else _feed_forward(block, size) for block in blocks
    )


def _is_attention(part: nn.Module) -> bool:
    return "Attention" in type(part).__name__ and bool(_linears(part))


def _is_feed_forward(part: nn.Module) -> bool:
    return "MLP" in type(part).__name__


def _linears(block: nn.Module) -> list[nn.Linear]:
    """The linear layers of a block, without adapters, in order; the last leads out of it."""
    return [part for name, part in block.named_modules() if isinstance(part, nn.Linear) and "lora_" not in name]


def _inputs(block: nn.Module, width: int, size: int) -> int:
    """Bytes of what goes into a block, as its linear layers keep it.

    Autocast makes a copy for each linear layer; in float32 they share one.
    """
    out = _linears(block)[-1]
    learning = [
        part
        for part in block.modules()
        if isinstance(part, nn.Linear) and part is not out and part.in_features == width and part.weight.requires_grad
    ]
    return width * size * (len(learning) if size < FULL else min(1, len(learning)))


def _attention(block: nn.Module, size: int) -> int:
    """Queries, keys, values, the result with its normalisers, and the block's input."""
    *into, out = _linears(block)
    made = sum(linear.out_features for linear in into) + out.in_features
    return made * size + _inputs(block, into[0].in_features, size)


def _feed_forward(block: nn.Module, size: int) -> int:
    """Both sides of the activation and, where it is a gate, what it lets through; and the block's input."""
    *into, out = _linears(block)
    learns = any(part.weight.requires_grad for part in block.modules() if isinstance(part, nn.Linear))
    made = (1 if len(into) == 1 else 3) + (1 if learns else 0)
    return made * out.in_features * size + _inputs(block, into[0].in_features, size)


def _norm(part: nn.Module) -> int:
    """The input, and where it is written out in single operations (RMSNorm) also what is scaled by its weight."""
    weight: nn.Parameter | None = getattr(part, "weight", None)
    if "Norm" not in type(part).__name__ or weight is None:
        return 0
    written_out = not isinstance(part, nn.LayerNorm) and weight.requires_grad
    return FULL * weight.numel() * (2 if written_out else 1)


def _outside(part: nn.Module, size: int, patches: int) -> float:
    """What the pieces before and after the layers keep; those behind the vision tower see merged patches."""
    if isinstance(part, PIXELS):
        return part.weight[0].numel() * size
    if isinstance(part, nn.Linear):
        return (part.in_features + part.out_features) * size / patches
    return _norm(part)


def _width(layer: nn.Module) -> int:
    weights = (part.get_parameter("weight") for part in layer.modules() if _norm(part))
    return max(weight.numel() for weight in weights)


def _passing(layer: nn.Module, size: int) -> int:
    """Gradients around the activation of a feed-forward block, and of the stream."""
    widest = max((_linears(part)[-1].in_features for part in layer.modules() if _is_feed_forward(part)), default=0)
    return 3 * widest * size + 2 * FULL * _width(layer)
