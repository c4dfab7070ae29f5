"""Memory and operations of a training step, computed from a module on the meta device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from plugins.trainer.batches import micro_batches, num_positions
from plugins.trainer.loss import part_size
from runner.records import Memory

FULL = 4
"""Bytes of a float32 number: master weights, gradients, norms, and the stream of hidden states between layers."""

PIXELS = (nn.Conv2d, nn.Conv3d)
"""What pixels go into."""


@dataclass(frozen=True)
class LayerProfile:
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
class ModelProfile:
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

    language: LayerProfile
    vision: LayerProfile
    head: int
    embeddings: int
    tied: bool
    head_learns: bool
    embeddings_learn: bool
    width: int
    words: int
    patches: int


def profile_model(module: PreTrainedModel, size: int) -> ModelProfile:
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
    return ModelProfile(
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


def _part(modules: Sequence[nn.Module], patches: int, size: int) -> LayerProfile:
    layers = [part for part in modules if isinstance(part, GradientCheckpointingLayer)]
    inner = {id(part) for layer in layers for part in layer.modules()}
    outer = [part for part in modules if id(part) not in inner]
    owned = {id(weight): weight for part in modules for weight in part.parameters(recurse=False)}.values()
    learns = any(weight.requires_grad for weight in owned)
    pixels = sum(FULL * part.weight[0].numel() for part in outer if isinstance(part, PIXELS))
    return LayerProfile(
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


Strategy = Literal["ddp", "fsdp"]


GATHERED_LAYERS = 2
"""Layers whose weights are whole at a time where workers divide them: one computes while the next one comes."""


@dataclass(frozen=True)
class TrainingSetup:
    """How a step is computed, as far as memory goes.

    Attributes:
        strategy: `ddp`: every worker has all weights; `fsdp`: workers divide weights, gradients and optimizer state.
        again: Whether layers are computed again in the backward pass (gradient checkpointing).
        micro_batch_size: Samples computed at once; None for as many as stay within `limit`.
        size: Bytes of a number of the precision that is computed in.
        limit: Positions of a micro-batch of unspecified size.
        packed: Whether the samples of a micro-batch stand one after the other, without padding.
        answers: Whether samples are answered between steps.
        features: Whether a frozen vision part looks at images apart from the steps, whole on each worker.
    """

    strategy: Strategy
    again: bool
    micro_batch_size: int | None
    size: int
    limit: int
    packed: bool
    answers: bool = False
    features: bool = False


@dataclass(frozen=True)
class SampleLength:
    """Tokens of a sample, or of several: all, those at images, and those that carry loss."""

    total: int
    image: int
    target: int


def numbers_in(profile: ModelProfile) -> int:
    """Numbers in all weights of a model."""
    ends = profile.embeddings if profile.tied else profile.embeddings + profile.head
    return profile.language.num_parameters + profile.vision.num_parameters + ends


def learning_in(profile: ModelProfile) -> int:
    """Numbers in the weights that learn."""
    ends = profile.embeddings * profile.embeddings_learn + (0 if profile.tied else profile.head * profile.head_learns)
    return profile.language.num_learning + profile.vision.num_learning + ends


def batches_of(share: Sequence[SampleLength], way: TrainingSetup) -> list[SampleLength]:
    """The micro-batches of a worker's share in their order, their padding counted."""
    lengths = [each.total for each in share]
    cut = micro_batches(lengths, way.micro_batch_size, way.limit, packed=way.packed)
    return [
        SampleLength(
            total=num_positions([lengths[place] for place in places], packed=way.packed),
            image=sum(share[place].image for place in places),
            target=sum(share[place].target for place in places),
        )
        for places in cut
    ]


def peak(
    profile: ModelProfile, share: Sequence[SampleLength], way: TrainingSetup, workers: int, state: float
) -> Memory:
    """Estimate the most that a step needs.

    Args:
        profile: Of the model as it trains.
        share: The samples of a step on one worker.
        way: How they are computed.
        workers: Who train together.
        state: Bytes of the optimizer's state, of all weights.
    """
    moments = (
        memory
        for place, batch in enumerate(batches_of(share, way))
        for memory in _moments(profile, batch, way, workers, state, earlier=place > 0)
    )
    return max(moments, key=lambda memory: memory.total)


def _moments(
    profile: ModelProfile, batch: SampleLength, way: TrainingSetup, workers: int, state: float, *, earlier: bool
) -> Sequence[Memory]:
    language, vision = profile.language, profile.vision
    patches = batch.image * profile.patches
    divided = workers if way.strategy == "fsdp" else 1
    held = FULL * (numbers_in(profile) / divided + (vision.num_parameters if way.features and divided > 1 else 0))
    learning = FULL * learning_in(profile) / divided
    # Data parallelism keeps a second set of gradients, in the buckets that it sends.
    buckets = learning if way.strategy == "ddp" and workers > 1 else 0
    head = FULL * profile.head / divided if profile.head_learns else 0
    before = learning if earlier else 0
    behind = max(before, learning - FULL * vision.num_learning / divided)
    copied = _copied(profile, way, divided)
    text, image = language.kept(again=way.again) * batch.total, vision.kept(again=way.again) * patches
    text_again, image_again = language.backward(again=way.again), vision.backward(again=way.again)
    # Without gradient checkpointing the copies are kept for the backward pass; with it, layers are copied anew.
    anew = way.again and divided == 1
    copied_again = min(copied, way.size * language.largest_layer) if anew else copied
    seen = copied if divided > 1 else way.size * vision.matrices
    learning_share = language.num_learning / max(1, language.num_parameters)
    first = head + FULL * language.largest_layer * learning_share / divided

    def memory(
        moment: Literal["loss", "backward", "step", "answer"],
        copies: float,
        gradients: float,
        kept: float,
        logits: float,
    ) -> Memory:
        return Memory(
            moment, round(held + copies), round(gradients + buckets), round(state / divided), round(kept), round(logits)
        )

    return (
        memory(
            "loss", copied, before, text + image + vision.given * patches, loss_bytes(profile, batch.target, way.size)
        ),
        memory("backward", copied_again, max(before, first), text_again * batch.total + image, 0),
        memory("backward", min(copied_again, seen), behind, image_again * patches, 0),
        memory("step", 0, learning, 0, 0),
        *((memory("answer", way.size * numbers_in(profile), 0, 0, 0),) if way.answers and divided > 1 else ()),
    )


def _copied(profile: ModelProfile, way: TrainingSetup, divided: int) -> float:
    """Bytes of weights to compute with, beside the master weights."""
    language, vision = profile.language, profile.vision
    if divided > 1:
        largest = max(language.largest_layer, vision.largest_layer)
        ends = profile.head if profile.tied else profile.head + profile.embeddings
        # Gathered gradients are float32 until they are divided.
        return way.size * (ends + GATHERED_LAYERS * largest) + FULL * largest
    looking = 0 if way.features else vision.matrices
    return way.size * (language.matrices + looking + profile.head) if way.size < FULL else 0


def loss_bytes(profile: ModelProfile, num_labels: int, size: int) -> float:
    """What the output layer and the fused cross-entropy take.

    Of one part of the positions the logits and their logarithmic softmax, float32; of all of them the hidden states,
    as they come, to compute with, and their gradient; and the gradient of the layer's weights, which is there from the
    forward pass on.
    """
    part = min(num_labels, part_size(profile.words))
    weights = FULL * profile.head if profile.head_learns else 0
    return part * 2 * FULL * profile.words + num_labels * (2 * FULL + size) * profile.width + weights


def flops(profile: ModelProfile, length: SampleLength, *, again: bool, looks: float = 1.0) -> float:
    """Count the floating-point operations of a sample.

    Two a weight and position forward, two for the gradients of the hidden states, two for those of the weights
    (Kaplan et al. 2020), and with gradient checkpointing two to compute again. The scores of attention are left out:
    at 1,500 tokens they add 2 to 5 % to a 7B.

    Args:
        profile: Of the model as it trains.
        length: Of the sample.
        again: Whether layers are computed again in the backward pass.
        looks: How often its images are looked at, a step that takes the sample: less than one where a frozen vision
            part's features are kept.
    """
    parts = (
        (profile.language.matrices, length.total, True, profile.language.num_learning > 0),
        (profile.vision.matrices, looks * length.image * profile.patches, profile.vision.num_learning > 0, True),
        (profile.head, length.target, True, profile.head_learns),
    )
    return sum(
        2.0 * matrices * positions * (1 + (1 + again) * backward + (backward and learns))
        for matrices, positions, backward, learns in parts
    )
