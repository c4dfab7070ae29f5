"""Greedy answers where a row of the batch goes to the next prompt as soon as its answer ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers.cache_utils import DynamicLayer

from plugins.generator.greedy import Asked, GreedyDecoder, Written
from plugins.generator.slots import Slots, can_be_given_away
from runner.records import Rendered
from runner.stages import StopRequestedError


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
    slots = _filled(decoder, asked, told.past_key_values.layers, range(len(prompts)), None)
    with torch.inference_mode():
        ours = slots.step(decoder.module, told.sequences[:, asked.width]).float()
    theirs = told.logits[1].float()
    tolerance = torch.finfo(decoder.module.dtype).eps ** 0.5
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
    waiting = deque(prompts)
    rows: list[_Answer | None] = [None] * min(num_rows, len(prompts))
    slots: Slots | None = None
    while waiting or any(rows):
        if stop_requested():
            raise StopRequestedError
        free = [row for row, answer in enumerate(rows) if answer is None]
        if free and waiting:
            batch = [waiting.popleft() for _ in free[: len(waiting)]]
            asked = decoder.ask(batch)
            told = decoder.generate(asked, 1)
            slots = _filled(decoder, asked, told.past_key_values.layers, free[: len(batch)], slots)
            first = told.sequences[:, asked.width :].tolist()
            for row, prompt, limit, tokens in zip(free, batch, asked.limits, first, strict=False):
                rows[row] = _Answer(prompt, limit, tokens)
        else:
            assert slots is not None
            _close_gaps(rows, slots)
            _step(decoder, slots, rows)
        yield from _ended(decoder, rows)


def _filled(
    decoder: GreedyDecoder, asked: Asked, layers: Sequence[DynamicLayer], rows: Sequence[int], slots: Slots | None
) -> Slots:
    """Write prompts that were just computed into rows, and say where they are; without `slots`, new ones."""
    if slots is None:
        slots = Slots(len(rows), len(layers), decoder.device)
    # Families that give an image fewer positions than tokens keep here how many fewer, a prompt a row.
    deltas = getattr(decoder.module.base_model, "rope_deltas", None)
    offsets = [0] * len(rows) if deltas is None else deltas.flatten().tolist()
    for place, row in enumerate(rows):
        slots.fill(row, layers, place, asked.lengths[place], offsets[place])
    return slots


def _step(decoder: GreedyDecoder, slots: Slots, rows: list[_Answer | None]) -> None:
    answers = [answer for answer in rows if answer is not None]
    last = torch.tensor([answer.tokens[-1] for answer in answers], device=decoder.device)
    with torch.inference_mode():
        following = slots.step(decoder.module, last).argmax(dim=-1).tolist()
    for answer, token in zip(answers, following, strict=True):
        answer.tokens.append(token)


def _ended(decoder: GreedyDecoder, rows: list[_Answer | None]) -> Iterator[Written]:
    """Yield the answers that are at their end, and free their rows."""
    for row, answer in enumerate(rows):
        if answer and (answer.tokens[-1] in decoder.stops or len(answer.tokens) >= answer.limit):
            rows[row] = None
            yield decoder.written(answer.prompt, answer.tokens, answer.limit)


def _close_gaps(rows: list[_Answer | None], slots: Slots) -> None:
    """Move the last rows into those that nobody is waiting for, so that no free row is computed."""
    while None in rows:
        last = rows.pop()
        if last is not None:
            row = rows.index(None)
            slots.move(len(rows), row)
            rows[row] = last
