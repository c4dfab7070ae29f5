"""Greedy decoding with continuous batching: a finished row of the batch takes the next prompt."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from plugins.generator.greedy import GenerationBatch, GenerationOutput, GreedyDecoder
from runner.records import Rendered
from runner.stages import StopRequestedError

GROWTH = 128
"""Columns that a full cache grows by: growing copies it."""


class KVCacheSlots:
    """Which columns of each row hold tokens.

    A row's tokens stand from column 0 on, whatever the other rows hold, so that a row is given away without moving
    any other. Positions are told to the model, and a mask hides what a row has not written; the order of columns
    means nothing to attention.

    Attributes:
        lengths: (rows,) tokens that each row holds.
        offsets: (rows,) what is added to a row's length for the position of its next token: not 0 for families
            that give an image fewer positions than tokens.
        width: Columns up to the end of the longest row, with the token that is being written.
    """

    def __init__(self, num_rows: int, num_layers: int, device: torch.device) -> None:
        """Make empty rows for a decoder of so many layers."""
        self.lengths = torch.zeros(num_rows, dtype=torch.long, device=device)
        self.offsets = torch.zeros(num_rows, dtype=torch.long, device=device)
        self.width = 0
        self.layers = [SlotLayer(self) for _ in range(num_layers)]
        self.cache = Cache(layers=list(self.layers))

    @torch.inference_mode()
    def fill(self, row: int, cache: DynamicCache, place: int, length: int, offset: int) -> None:
        """Give a row to a prompt.

        Args:
            row: The row; what it held is forgotten.
            cache: As transformers left it after a batch of prompts, padded on the left.
            place: The prompt's place in that batch.
            length: Its tokens, without padding.
            offset: See `offsets`.
        """
        for layer, computed in zip(self.layers, cache.layers, strict=True):
            assert isinstance(computed, DynamicLayer)
            keys, values = computed.keys, computed.values
            assert keys is not None
            assert values is not None
            layer.fill(row, keys[place, :, -length:], values[place, :, -length:])
        self.lengths[row], self.offsets[row] = length, offset

    @torch.inference_mode()
    def move(self, source: int, target: int) -> None:
        """Take a row's tokens to another row's place."""
        length = int(self.lengths[source])
        for layer in self.layers:
            layer.fill(target, layer.keys[source, :, :length], layer.values[source, :, :length])
        self.lengths[target], self.offsets[target] = self.lengths[source], self.offsets[source]

    @torch.inference_mode()
    def step(self, module: Any, tokens: torch.Tensor) -> torch.Tensor:
        """Write one token into each of the first rows.

        Args:
            module: The transformers model.
            tokens: (rows,) as many rows as are in use.

        Returns:
            (rows, words) logits of the tokens that follow.
        """
        used = len(tokens)
        lengths = self.lengths[:used]
        self.width = int(lengths.max()) + 1
        written = torch.arange(self.width, device=tokens.device) <= lengths[:, None]
        logits: torch.Tensor = module(
            input_ids=tokens[:, None],
            attention_mask=written.long(),
            position_ids=(lengths + self.offsets[:used])[:, None],
            past_key_values=self.cache,
            use_cache=True,
        ).logits
        self.lengths[:used] += 1
        return logits[:, -1]


class SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]  # by its base's __init_subclass__
    """The keys and values of one decoder layer: (rows, heads, columns, size of a head), written in place."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, slots: KVCacheSlots) -> None:
        """Take the rows that all layers share."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._slots = slots

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Make room for nothing yet; heads, size and precision are those of the first states."""
        rows = len(self._slots.lengths)
        self.keys = key_states.new_zeros(rows, key_states.shape[-3], 0, key_states.shape[-1])
        self.values = value_states.new_zeros(rows, value_states.shape[-3], 0, value_states.shape[-1])
        self.is_initialized = True

    def fill(self, row: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Write a row's keys and values, (heads, length, size), from its first column on."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        length = keys.shape[-2]
        self._reserve(length)
        self.keys[row, :, :length], self.values[row, :, :length] = keys, values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one column a row, and return what attention looks at; called by the model."""
        used, width = len(key_states), self._slots.width
        self._reserve(width)
        rows, columns = torch.arange(used, device=key_states.device), self._slots.lengths[:used]
        # Within autocast, transformers' own cache keeps both in the precision of the keys.
        self.keys[rows, :, columns] = key_states[:, :, 0].to(self.keys.dtype)
        self.values[rows, :, columns] = value_states[:, :, 0].to(self.values.dtype)
        return self.keys[:used, :, :width], self.values[:used, :, :width]

    def _reserve(self, width: int) -> None:
        missing = width - self.keys.shape[-2]
        if missing > 0:
            room = (0, 0, 0, missing + GROWTH)
            # What no row has written is masked, yet it must be finite: 0 × infinity is not 0.
            self.keys = torch.nn.functional.pad(self.keys, room)
            self.values = torch.nn.functional.pad(self.values, room)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that the mask covers, and where they begin; called by the model."""
        return self._slots.width, 0

    def get_seq_length(self) -> int:
        """Columns before the token that is being written; called by the model."""
        return self._slots.width - 1

    def get_max_length(self) -> int:
        """No limit, as transformers writes it."""
        return -1


def supports_slots(cache: object, width: int) -> bool:
    """Whether the rows of such a cache can be given from one prompt to another.

    So they can where each layer keeps the keys and values of every token and nothing else. Layers that attend over a
    window, keep a running state, or hold images apart from the text cannot.

    Args:
        cache: As transformers' `generate` left it.
        width: Tokens of the batch, with padding.
    """
    return type(cache) is DynamicCache and all(
        type(layer) is DynamicLayer and layer.get_seq_length() == width for layer in cache.layers
    )


FREE_SHARE = 8
"""Rows are given away once one in so many is free: prompts that are computed together cost less than one by one."""


@dataclass
class _Answer:
    """An answer that is being written."""

    prompt: Rendered
    limit: int
    tokens: list[int]


def supports_continuous_batching(decoder: GreedyDecoder, prompts: Sequence[Rendered]) -> bool:
    """Whether the model can be decoded row by row, found out by doing so.

    Its cache must be one whose rows can be given away, and the second token of two answers must come out as
    transformers' `generate` has it: a family that wants more than a token and its position would give others.

    Args:
        decoder: With the model.
        prompts: Two to try with, as unlike in length as there are.
    """
    asked = decoder.ask(prompts)
    told = decoder.generate(asked, 2, min_new_tokens=2, output_logits=True)
    if not supports_slots(told.past_key_values, asked.width + 1):
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


def generate_continuously(
    decoder: GreedyDecoder, prompts: Sequence[Rendered], num_rows: int, stop_requested: Callable[[], bool]
) -> Iterator[GenerationOutput]:
    """Yield answers as they end.

    Args:
        decoder: With a model that `supports_continuous_batching`.
        prompts: In the order in which they get a row.
        num_rows: Answers written at once.
        stop_requested: Asked before each token.

    Raises:
        StopRequestedError: The user asked to stop; answers that are half written are lost.
    """
    waiting, rows = deque(prompts), list[_Answer]()
    num_rows = min(num_rows, len(prompts))
    together = max(1, num_rows // FREE_SHARE)
    slots: KVCacheSlots | None = None
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


def _slots(decoder: GreedyDecoder, num_rows: int, cache: DynamicCache) -> KVCacheSlots:
    return KVCacheSlots(num_rows, len(cache.layers), decoder.device)


def _fill(
    decoder: GreedyDecoder, slots: KVCacheSlots, asked: GenerationBatch, cache: DynamicCache, first_row: int
) -> None:
    """Write prompts that were just computed into rows, and where their next tokens stand."""
    # Families that give an image fewer positions than tokens keep here how many fewer, a prompt a row.
    deltas = getattr(decoder.module.base_model, "rope_deltas", None)
    offsets = [0] * len(asked.prompts) if deltas is None else deltas.flatten().tolist()
    for place, (length, offset) in enumerate(zip(asked.lengths, offsets, strict=True)):
        slots.fill(first_row + place, cache, place, length, offset)


def _step(decoder: GreedyDecoder, slots: KVCacheSlots, rows: Sequence[_Answer]) -> None:
    last = torch.tensor([answer.tokens[-1] for answer in rows], device=decoder.device)
    following = slots.step(decoder.module, last).argmax(dim=-1).tolist()
    for answer, token in zip(rows, following, strict=True):
        answer.tokens.append(token)


def _ended(decoder: GreedyDecoder, slots: KVCacheSlots, rows: list[_Answer]) -> Iterator[GenerationOutput]:
    """Yield the answers that are at their end; the last rows take their places, so that no free row is computed."""
    for row in reversed(range(len(rows))):
        answer = rows[row]
        if answer.tokens[-1] in decoder.stops or len(answer.tokens) >= answer.limit:
            last = rows.pop()
            if row < len(rows):
                rows[row] = last
                slots.move(len(rows), row)
            yield decoder.written(answer.prompt, answer.tokens, answer.limit)
