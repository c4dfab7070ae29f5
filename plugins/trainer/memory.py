"""The memory of a training step on one worker, from a model's anatomy and the lengths of what it trains on.

A step has moments that can need most, and the largest counts: the loss, when everything is kept and gradients
are only there of earlier micro-batches; the backward pass, where layers are computed again and where it comes to the
vision tower, all the language model's gradients being there; and the optimizer's step, when nothing is kept any more.
Where workers that divide the weights answer samples between two steps, each has all of them then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from plugins.trainer.batches import micro_batches, num_positions
from plugins.trainer.cross_entropy import part_size
from plugins.trainer.kept import FULL, Anatomy
from runner.records import Memory

Strategy = Literal["ddp", "fsdp"]

GATHERED_LAYERS = 2
"""Layers whose weights are whole at a time where workers divide them: one computes while the next one comes."""


@dataclass(frozen=True)
class Way:
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
class Length:
    """Tokens of a sample, or of several: all, those at images, and those that carry loss."""

    total: int
    image: int
    target: int


def numbers_in(anatomy: Anatomy) -> int:
    """Numbers in all weights of a model."""
    ends = anatomy.embeddings if anatomy.tied else anatomy.embeddings + anatomy.head
    return anatomy.language.num_parameters + anatomy.vision.num_parameters + ends


def learning_in(anatomy: Anatomy) -> int:
    """Numbers in the weights that learn."""
    ends = anatomy.embeddings * anatomy.embeddings_learn + (0 if anatomy.tied else anatomy.head * anatomy.head_learns)
    return anatomy.language.num_learning + anatomy.vision.num_learning + ends


def batches_of(share: Sequence[Length], way: Way) -> list[Length]:
    """The micro-batches of a worker's share in their order, their padding counted."""
    lengths = [each.total for each in share]
    cut = micro_batches(lengths, way.micro_batch_size, way.limit, packed=way.packed)
    return [
        Length(
            total=num_positions([lengths[place] for place in places], packed=way.packed),
            image=sum(share[place].image for place in places),
            target=sum(share[place].target for place in places),
        )
        for places in cut
    ]


def peak(anatomy: Anatomy, share: Sequence[Length], way: Way, workers: int, state: float) -> Memory:
    """Estimate the most that a step needs.

    Args:
        anatomy: Of the model as it trains.
        share: The samples of a step on one worker.
        way: How they are computed.
        workers: Who train together.
        state: Bytes of the optimizer's state, of all weights.
    """
    moments = (
        memory
        for place, batch in enumerate(batches_of(share, way))
        for memory in _moments(anatomy, batch, way, workers, state, earlier=place > 0)
    )
    return max(moments, key=lambda memory: memory.total)


def _moments(
    anatomy: Anatomy, batch: Length, way: Way, workers: int, state: float, *, earlier: bool
) -> Sequence[Memory]:
    language, vision = anatomy.language, anatomy.vision
    patches = batch.image * anatomy.patches
    divided = workers if way.strategy == "fsdp" else 1
    held = FULL * (numbers_in(anatomy) / divided + (vision.num_parameters if way.features and divided > 1 else 0))
    learning = FULL * learning_in(anatomy) / divided
    # Data parallelism keeps a second set of gradients, in the buckets that it sends.
    buckets = learning if way.strategy == "ddp" and workers > 1 else 0
    head = FULL * anatomy.head / divided if anatomy.head_learns else 0
    before = learning if earlier else 0
    behind = max(before, learning - FULL * vision.num_learning / divided)
    copied = _copied(anatomy, way, divided)
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
            "loss", copied, before, text + image + vision.given * patches, loss_bytes(anatomy, batch.target, way.size)
        ),
        memory("backward", copied_again, max(before, first), text_again * batch.total + image, 0),
        memory("backward", min(copied_again, seen), behind, image_again * patches, 0),
        memory("step", 0, learning, 0, 0),
        *((memory("answer", way.size * numbers_in(anatomy), 0, 0, 0),) if way.answers and divided > 1 else ()),
    )


def _copied(anatomy: Anatomy, way: Way, divided: int) -> float:
    """Bytes of weights to compute with, beside the master weights."""
    language, vision = anatomy.language, anatomy.vision
    if divided > 1:
        largest = max(language.largest_layer, vision.largest_layer)
        ends = anatomy.head if anatomy.tied else anatomy.head + anatomy.embeddings
        # Gathered gradients are float32 until they are divided.
        return way.size * (ends + GATHERED_LAYERS * largest) + FULL * largest
    looking = 0 if way.features else vision.matrices
    return way.size * (language.matrices + looking + anatomy.head) if way.size < FULL else 0


def loss_bytes(anatomy: Anatomy, num_labels: int, size: int) -> float:
    """What the output layer and the fused cross-entropy take.

    Of one part of the positions the logits and their logarithmic softmax, float32; of all of them the hidden states,
    as they come, to compute with, and their gradient; and the gradient of the layer's weights, which is there from the
    forward pass on.
    """
    part = min(num_labels, part_size(anatomy.words))
    weights = FULL * anatomy.head if anatomy.head_learns else 0
    return part * 2 * FULL * anatomy.words + num_labels * (2 * FULL + size) * anatomy.width + weights
