"""Greedy decoding with continuous batching: a finished row of the batch takes the next prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from plugins.generator.decoding.encoded_prompts import EncodedPrompts
from plugins.generator.decoding.greedy import GenerationBatch, GenerationOutput, GreedyDecoder
from runner.records import Rendered
from runner.stages import StopRequestedError

CACHE_GROWTH = 128
"""Number of columns by which a full cache grows; growing copies it."""


class KVCacheSlots:
    """A cache of keys and values with one row per answer, each filled from column 0 on.

    A row can be reused without moving the others. The model gets explicit positions, and a mask hides unwritten
    columns; the order of columns does not matter to attention.

    Attributes:
        num_rows: Number of rows.
        lengths: Number of tokens in each row.
        columns: (rows,) the same on the device: the column of each row's next token.
        offsets: (rows,) difference between the position of a row's next token and its length. It is not 0 for families
            that give an image fewer positions than tokens.
        width: Columns up to the end of the longest row, including the token that is being written; or `static_width`.
    """

    def __init__(self, num_rows: int, num_layers: int, device: torch.device, static_width: int | None = None) -> None:
        """Create empty rows for a decoder with `num_layers` layers.

        Args:
            num_rows: Number of rows.
            num_layers: Number of layers.
            device: The device of the model.
            static_width: If not None, every step computes all rows, with this number of columns. The shapes of all
                steps are then equal, and no row may become longer.
        """
        self.num_rows, self._static_width = num_rows, static_width
        self.lengths = [0] * num_rows
        self.columns = torch.zeros(num_rows, dtype=torch.long, device=device)
        self.offsets = torch.zeros(num_rows, dtype=torch.long, device=device)
        self.width = static_width or 0
        self.layers = [SlotLayer(self, static_width) for _ in range(num_layers)]
        self.cache = Cache(layers=list(self.layers))

    @torch.inference_mode()
    def fill(self, row: int, cache: DynamicCache, index: int, length: int, offset: int) -> None:
        """Copy a prompt's keys and values into a row.

        Args:
            row: The row; its previous content is discarded.
            cache: Transformers' cache after a batch of prompts, padded on the left.
            index: The prompt's index in that batch.
            length: The prompt's tokens, without padding.
            offset: See `offsets`.
        """
        for layer, computed in zip(self.layers, cache.layers, strict=True):
            assert isinstance(computed, DynamicLayer)
            keys, values = computed.keys, computed.values
            assert keys is not None
            assert values is not None
            layer.fill(row, keys[index, :, -length:], values[index, :, -length:])
        self.lengths[row] = length
        self.columns[row], self.offsets[row] = length, offset

    @torch.inference_mode()
    def move(self, source: int, target: int) -> None:
        """Copy one row to another."""
        length = self.lengths[source]
        for layer in self.layers:
            layer.fill(target, layer.keys[source, :, :length], layer.values[source, :, :length])
        self.lengths[target] = length
        self.columns[target], self.offsets[target] = self.columns[source], self.offsets[source]

    @torch.inference_mode()
    def step(self, forward: Callable[..., Any], tokens: Sequence[int], *, whole_mask: bool) -> torch.Tensor:
        """Write one token into each of the first rows.

        Args:
            forward: The transformers model, possibly compiled.
            tokens: One token for each row in use.
            whole_mask: Whether the model gets the mask of each query. From a mask of columns it would make the same
                one, but wait for the device.

        Returns:
            (rows, vocabulary) logits of the next tokens.
        """
        num_used = len(tokens)
        num_rows = num_used if self._static_width is None else self.num_rows
        unused = [0] * (num_rows - num_used)
        columns = self.columns[:num_rows]
        self.width = self._static_width or max(self.lengths[:num_used]) + 1
        mask = torch.arange(self.width, device=columns.device) <= columns[:, None]
        logits: torch.Tensor = forward(
            input_ids=torch.tensor([*tokens, *unused], device=columns.device)[:, None],
            attention_mask=mask[:, None, None] if whole_mask else mask.long(),
            position_ids=(columns + self.offsets[:num_rows])[:, None],
            past_key_values=self.cache,
            use_cache=True,
        ).logits
        self.columns[:num_used] += 1
        for row in range(num_used):
            self.lengths[row] += 1
        return logits[:num_used, -1]


class SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]  # by its base's __init_subclass__
    """The keys and values of one decoder layer: (rows, heads, columns, head size), written in place."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, slots: KVCacheSlots, static_width: int | None) -> None:
        """Take the rows that all layers share; see `KVCacheSlots`."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._slots, self._static_width = slots, static_width

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate the rows; heads, head size and dtype are those of the first states."""
        num_rows, width = self._slots.num_rows, self._static_width or 0
        self.keys = key_states.new_zeros(num_rows, key_states.shape[-3], width, key_states.shape[-1])
        self.values = value_states.new_zeros(num_rows, value_states.shape[-3], width, value_states.shape[-1])
        if self._static_width is not None:
            # CUDA graphs write to the addresses that they have recorded.
            torch._dynamo.mark_static_address(self.keys)
            torch._dynamo.mark_static_address(self.values)
        self.is_initialized = True

    def fill(self, row: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Write a row's keys and values, (heads, length, head size), from its first column on."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        length = keys.shape[-2]
        self._reserve(length)
        self.keys[row, :, :length], self.values[row, :, :length] = keys, values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one column per row, and return the keys and values for attention; called by the model."""
        num_rows, width = len(key_states), self._slots.width
        self._reserve(width)
        rows, columns = torch.arange(num_rows, device=key_states.device), self._slots.columns[:num_rows]
        # Within autocast, transformers' own cache keeps both in the precision of the keys.
        self.keys[rows, :, columns] = key_states[:, :, 0].to(self.keys.dtype)
        self.values[rows, :, columns] = value_states[:, :, 0].to(self.values.dtype)
        return self.keys[:num_rows, :, :width], self.values[:num_rows, :, :width]

    def _reserve(self, width: int) -> None:
        num_missing = width - self.keys.shape[-2]
        if num_missing > 0:
            padding = (0, 0, 0, num_missing + CACHE_GROWTH)
            # Unwritten columns are masked, but must be finite: 0 × infinity is not 0.
            self.keys = torch.nn.functional.pad(self.keys, padding)
            self.values = torch.nn.functional.pad(self.values, padding)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of columns that the mask covers and the first one; called by the model."""
        return self._slots.width, 0

    def get_seq_length(self) -> int:
        """Return the number of columns before the token that is being written; called by the model."""
        return self._slots.width - 1

    def get_max_length(self) -> int:
        """Return -1: there is no limit."""
        return -1


def supports_cache_slots(cache: object, width: int) -> bool:
    """Return whether rows of the model's cache can be reused for other prompts.

    Every layer must keep the keys and values of every token and nothing else. Layers with a sliding window, a running
    state, or separate storage for images do not qualify.

    Args:
        cache: The cache after transformers' `generate`.
        width: Tokens of the batch, with padding.
    """
    return type(cache) is DynamicCache and all(
        type(layer) is DynamicLayer and layer.get_seq_length() == width for layer in cache.layers
    )


REFILL_DIVISOR = 8
"""Rows are refilled when 1/8 of them is free: computing several prompts at once costs less than one at a time."""


@dataclass
class _ActiveAnswer:
    """An answer that is being generated."""

    prompt: Rendered
    limit: int
    tokens: list[int]


def supports_continuous_batching(decoder: GreedyDecoder, prompts: Sequence[Rendered]) -> bool:
    """Test whether the model supports continuous batching, by decoding two tokens.

    The cache's rows must be reusable, and the logits of the second token must agree with those of transformers'
    `generate`. They differ for families that need more than a token and its position.

    Args:
        decoder: The decoder of the model.
        prompts: Two prompts of very different length.
    """
    batch = decoder.make_batch([(prompt, decoder.model.encode(prompt)) for prompt in prompts])
    reference = decoder.generate(batch, 2, min_new_tokens=2, output_logits=True)
    cache = reference.past_key_values
    if not supports_cache_slots(cache, batch.width + 1):
        return False
    for layer in cache.layers:
        layer.crop(-1)
    slots = KVCacheSlots(len(prompts), len(cache.layers), decoder.device)
    _fill_rows(decoder, slots, batch, cache, 0)
    first_tokens = reference.sequences[:, batch.width].tolist()
    logits = slots.step(decoder.module, first_tokens, whole_mask=decoder.takes_whole_masks)
    expected = reference.logits[1].float()
    # The tolerance follows the compute precision, which may differ from that of the weights.
    tolerance = torch.finfo(logits.dtype).eps ** 0.5
    return bool(((logits - expected).norm(dim=-1) <= tolerance * expected.norm(dim=-1)).all())


def generate_continuously(
    decoder: GreedyDecoder,
    prompts: EncodedPrompts,
    num_rows: int,
    stop_requested: Callable[[], bool],
    *,
    compiled: bool = False,
) -> Iterator[GenerationOutput]:
    """Yield answers as they are completed.

    Args:
        decoder: The decoder of a model that `supports_continuous_batching`.
        prompts: Prompts in the order in which they get a row, the longest first.
        num_rows: Number of answers generated at once.
        stop_requested: Called before each token.
        compiled: Whether torch compiles the step that decodes a token; all steps then have the same shapes.

    Raises:
        StopRequestedError: The user asked to stop; unfinished answers are discarded.
    """
    answers = list[_ActiveAnswer]()
    num_rows = min(num_rows, len(prompts))
    min_refill = max(1, num_rows // REFILL_DIVISOR)
    forward: Callable[..., Any] = compile_step(decoder.module) if compiled else decoder.module
    slots: KVCacheSlots | None = None
    while prompts or answers:
        if stop_requested():
            raise StopRequestedError
        num_free = num_rows - len(answers)
        if prompts and num_free >= min(min_refill, len(prompts)):
            batch = decoder.make_batch(prompts.take(num_free))
            output = decoder.generate(batch, 1)
            cache = output.past_key_values
            if slots is None:
                slots = KVCacheSlots(
                    num_rows, len(cache.layers), decoder.device, static_width(batch) if compiled else None
                )
            _fill_rows(decoder, slots, batch, cache, len(answers))
            first_tokens = output.sequences[:, batch.width :].tolist()
            answers += [
                _ActiveAnswer(prompt, limit, tokens)
                for prompt, limit, tokens in zip(batch.prompts, batch.limits, first_tokens, strict=True)
            ]
        else:
            assert slots is not None
            last_tokens = [answer.tokens[-1] for answer in answers]
            logits = slots.step(forward, last_tokens, whole_mask=decoder.takes_whole_masks)
            for answer, token in zip(answers, logits.argmax(dim=-1).tolist(), strict=True):
                answer.tokens.append(token)
        yield from _remove_finished(decoder, slots, answers)


def compile_step(module: torch.nn.Module) -> Callable[..., Any]:
    """Let torch compile a forward pass of one token per row; on a GPU, torch records it as a CUDA graph."""
    return torch.compile(module.forward, dynamic=False, mode="reduce-overhead")


def static_width(batch: GenerationBatch) -> int:
    """Return a number of columns that is enough for the answers to a batch of the longest prompts."""
    longest = max(length + limit for length, limit in zip(batch.lengths, batch.limits, strict=True))
    return -(-longest // CACHE_GROWTH) * CACHE_GROWTH


def _fill_rows(
    decoder: GreedyDecoder, slots: KVCacheSlots, batch: GenerationBatch, cache: DynamicCache, first_row: int
) -> None:
    """Copy a batch of computed prompts into rows, with the positions of their next tokens."""
    # Families that give an image fewer positions than tokens store the difference here, one row per prompt.
    deltas = getattr(decoder.module.base_model, "rope_deltas", None)
    offsets = [0] * len(batch.prompts) if deltas is None else deltas.flatten().tolist()
    for index, (length, offset) in enumerate(zip(batch.lengths, offsets, strict=True)):
        slots.fill(first_row + index, cache, index, length, offset)


def _remove_finished(
    decoder: GreedyDecoder, slots: KVCacheSlots, answers: list[_ActiveAnswer]
) -> Iterator[GenerationOutput]:
    """Yield and remove finished answers; the last rows move to their places, so that used rows stay contiguous."""
    for row in reversed(range(len(answers))):
        answer = answers[row]
        if answer.tokens[-1] in decoder.stop_token_ids or len(answer.tokens) >= answer.limit:
            last = answers.pop()
            if row < len(answers):
                answers[row] = last
                slots.move(len(answers), row)
            yield decoder.make_output(answer.prompt, answer.tokens, answer.limit)
