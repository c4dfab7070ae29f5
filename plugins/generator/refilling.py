"""Greedy answers where a row of the batch goes to the next prompt as soon as its answer ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache

from plugins.generator.greedy import Asked, GreedyDecoder, Written
from plugins.generator.slots import Slots, can_be_given_away
from runner.records import Rendered
from runner.stages import StopRequestedError

FREE_SHARE = 8
"""Rows are given away once one in so many is free: prompts that are computed together cost less than one by one."""


@dataclass
class _Answer:
    """An answer that is being written."""

    prompt: Rendered
    limit: int
    tokens: list[int]


def can_refill(decoder: GreedyDecoder, prompts: Sequence[Rendered]) -> bool:
    """Whether the model can be decoded row by row, found out by doing so.

    Its cache must be one whose rows can be given away, and the second token of two answers must come out as
    transformers' `generate` has it: a family that wants more than a token and its position would give others.

    Args:
        decoder: With the model.
        prompts: Two to try with, as unlike in length as there are.
    """
    asked = decoder.ask(prompts)
    told = decoder.generate(asked, 2, min_new_tokens=2, output_logits=True)
    if not can_be_given_away(told.past_key_values, asked.width + 1):
        return False
    for layer in told.past_key_values.layers:
        layer.crop(-1)
    slots = _slots(decoder, len(prompts), told.past_key_values)
    _fill(decoder, slots, asked, told.past_key_values, 0)
    ours = slots.step(decoder.module, told.sequences[:, asked.width])
    theirs = told.logits[1].float()
    # In the precision that is computed in, which need not be that of the weights.
    tolerance = torch.finfo(ours.dtype).eps ** 0.5
    return bool(((ours - theirs).norm(dim=-1) <= tolerance * theirs.norm(dim=-1)).all())


def write_refilling(
    decoder: GreedyDecoder, prompts: Sequence[Rendered], num_rows: int, stop_requested: Callable[[], bool]
) -> Iterator[Written]:
    """Yield answers as they end.

    Args:
        decoder: With a model that `can_refill`.
        prompts: In the order in which they get a row.
        num_rows: Answers written at once.
        stop_requested: Asked before each token.

    Raises:
        StopRequestedError: The user asked to stop; answers that are half written are lost.
    """
    waiting, rows = deque(prompts), list[_Answer]()
    num_rows = min(num_rows, len(prompts))
    together = max(1, num_rows // FREE_SHARE)
    slots: Slots | None = None
    while waiting or rows:
        if stop_requested():
            raise StopRequestedError
        num_free = num_rows - len(rows)
        if waiting and num_free >= min(together, len(waiting)):
            batch = [waiting.popleft() for _ in range(min(num_free, len(waiting)))]
            asked = decoder.ask(batch)
            told = decoder.generate(asked, 1)
            slots = slots or _slots(decoder, num_rows, told.past_key_values)
            _fill(decoder, slots, asked, told.past_key_values, len(rows))
            first = told.sequences[:, asked.width :].tolist()
            rows += [_Answer(*each) for each in zip(batch, asked.limits, first, strict=True)]
        else:
            assert slots is not None
            _step(decoder, slots, rows)
        yield from _ended(decoder, slots, rows)


def _slots(decoder: GreedyDecoder, num_rows: int, cache: DynamicCache) -> Slots:
    return Slots(num_rows, len(cache.layers), decoder.device)


def _fill(decoder: GreedyDecoder, slots: Slots, asked: Asked, cache: DynamicCache, first_row: int) -> None:
    """Write prompts that were just computed into rows, and where their next tokens stand."""
    # Families that give an image fewer positions than tokens keep here how many fewer, a prompt a row.
    deltas = getattr(decoder.module.base_model, "rope_deltas", None)
    offsets = [0] * len(asked.prompts) if deltas is None else deltas.flatten().tolist()
    for place, (length, offset) in enumerate(zip(asked.lengths, offsets, strict=True)):
        slots.fill(first_row + place, cache, place, length, offset)


def _step(decoder: GreedyDecoder, slots: Slots, rows: Sequence[_Answer]) -> None:
    last = torch.tensor([answer.tokens[-1] for answer in rows], device=decoder.device)
    following = slots.step(decoder.module, last).argmax(dim=-1).tolist()
    for answer, token in zip(rows, following, strict=True):
        answer.tokens.append(token)


def _ended(decoder: GreedyDecoder, slots: Slots, rows: list[_Answer]) -> Iterator[Written]:
    """Yield the answers that are at their end; the last rows take their places, so that no free row is computed."""
    for row in reversed(range(len(rows))):
        answer = rows[row]
        if answer.tokens[-1] in decoder.stops or len(answer.tokens) >= answer.limit:
            last = rows.pop()
            if row < len(rows):
                rows[row] = last
                slots.move(len(rows), row)
            yield decoder.written(answer.prompt, answer.tokens, answer.limit)
