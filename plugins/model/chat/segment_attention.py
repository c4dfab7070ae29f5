"""Attention within the segments of one row: samples of a packed row, or images and windows of a vision tower."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.flash_attention import flash_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils.generic import is_flash_attention_requested
from transformers.utils.import_utils import is_flash_attn_2_available

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # an older torch
    varlen_attn = None  # type: ignore[assignment]

PACKED_ATTENTION = "sdpa_within_samples"
"""Name of `packed_attention` in transformers' registry; without `sample_lengths` it equals `sdpa`."""

VISION_ATTENTION = "sdpa_within_images_as_flash"
"""Name of `vision_attention` in transformers' registry. Vision towers of transformers call an implementation once per
layer, with the boundaries of all segments, only if its name contains `flash`; they call others for each segment."""

NUM_CACHED_LAYOUTS = 32
"""The layers of a forward pass share two layouts; the next passes have others."""


@dataclass(frozen=True)
class _Layout:
    """How a row is divided into batches of segments of equal length.

    Attributes:
        batches: Number and length of the segments of each batch.
        order: Position in the row of each position of the batches; None if the batches are in the order of the row.
        restore: The inverse of `order`.
        boundaries: (segments + 1,) int32, first position of each segment, and the length of the row.
        longest: Length of the longest segment.
    """

    batches: tuple[tuple[int, int], ...]
    order: torch.Tensor | None
    restore: torch.Tensor | None
    boundaries: torch.Tensor
    longest: int


@lru_cache(NUM_CACHED_LAYOUTS)
def _layout(lengths: tuple[int, ...], device: torch.device) -> _Layout:
    starts = list(accumulate(lengths, initial=0))
    numbers = Counter(lengths)
    # Python's dictionaries keep the order of insertion, and a row of different lengths keeps its order.
    by_length = [index for length in numbers for index, each in enumerate(lengths) if each == length]
    # A layout outlives this pass: autograd refuses to save tensors that were made in inference mode.
    with torch.inference_mode(mode=False):
        order = restore = None
        if by_length != sorted(by_length):
            order = torch.cat([torch.arange(starts[index], starts[index + 1]) for index in by_length])
            restore = torch.argsort(order).to(device)
            order = order.to(device)
        boundaries = torch.tensor(starts, dtype=torch.int32).to(device)
    batches = tuple((number, length) for length, number in numbers.items())
    return _Layout(batches, order, restore, boundaries, max(lengths))


def use_packed_attention(module: PreTrainedModel) -> bool:
    """Let the language model of a model compute attention within the samples of a row, if it uses `sdpa`.

    Returns:
        Whether the attention implementation supports packing; eager attention does not.
    """
    language = module.config.get_text_config()
    if language._attn_implementation == "sdpa":
        module.set_attn_implementation({"text_config": PACKED_ATTENTION})
    return language._attn_implementation == PACKED_ATTENTION or is_flash_attention_requested(language)


def segment_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: Sequence[int],
    **settings: Any,
) -> torch.Tensor:
    """Compute attention within each segment of a row.

    In half precision on a GPU, one call of torch's attention for variable lengths covers all segments, or one of flash
    attention if torch has none and the package is installed. Otherwise segments of equal length are one batch of
    `sdpa`. On a CPU, output and gradients then have the same bits as with one call for each segment.

    Args:
        module: The attention layer, which defines whether it is causal unless `settings` do.
        query: (1, heads, length, head width); `key` and `value` likewise.
        key: May have fewer heads.
        value: Has as many heads as `key`.
        lengths: Lengths of the segments, none of them 0; their sum is the length of the row.
        settings: Further arguments from transformers.

    Returns:
        (1, length, heads, head width).
    """
    layout = _layout(tuple(lengths), query.device)
    dtype = _half_precision(value)
    if dtype is not None and not settings.get("dropout"):
        query, key, value = (tensor.to(dtype) for tensor in (query, key, value))
        if has_varlen_attention():
            return _varlen_attention(module, query, key, value, layout, settings)
        if is_flash_attn_2_available():
            return _flash_attention(module, query, key, value, layout, settings)
    if layout.order is not None:
        query, key, value = (tensor.index_select(2, layout.order) for tensor in (query, key, value))
    sizes = [number * length for number, length in layout.batches]
    parts = zip(*(torch.split(tensor, sizes, dim=2) for tensor in (query, key, value)), strict=True)
    outputs = []
    for (number, length), part in zip(layout.batches, parts, strict=True):
        q, k, v = (tensor[0].unflatten(1, (number, length)).transpose(0, 1) for tensor in part)
        outputs.append(sdpa_attention_forward(module, q, k, v, None, **settings)[0].flatten(0, 1))
    output = torch.cat(outputs)[None]
    return output if layout.restore is None else output.index_select(1, layout.restore)


def _half_precision(value: torch.Tensor) -> torch.dtype | None:
    """Return the precision of the attention on a GPU if it is half precision, the only one that flash kernels have."""
    if not value.is_cuda:
        return None
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else value.dtype
    return dtype if dtype in (torch.bfloat16, torch.float16) else None


def has_varlen_attention() -> bool:
    """Return whether torch has attention for variable lengths, with the arguments used here."""
    return varlen_attn is not None and {"window_size", "enable_gqa"} <= inspect.signature(varlen_attn).parameters.keys()


def _varlen_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: _Layout,
    settings: Mapping[str, Any],
) -> torch.Tensor:
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    output = varlen_attn(
        q,
        k,
        v,
        layout.boundaries,
        layout.boundaries,
        layout.longest,
        layout.longest,
        scale=settings.get("scaling"),
        window_size=(-1, 0) if _is_causal(module, settings) else (-1, -1),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(output, torch.Tensor)
    return output[None]


def _flash_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: _Layout,
    settings: Mapping[str, Any],
) -> torch.Tensor:
    return flash_attention_forward(
        module,
        query,
        key,
        value,
        None,
        scaling=settings.get("scaling"),
        is_causal=_is_causal(module, settings),
        cu_seq_lens_q=layout.boundaries,
        cu_seq_lens_k=layout.boundaries,
        max_length_q=layout.longest,
        max_length_k=layout.longest,
    )[0]


def _is_causal(module: Any, settings: Mapping[str, Any]) -> bool:
    is_causal = settings.get("is_causal")
    return bool(module.is_causal if is_causal is None else is_causal)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    sample_lengths: Sequence[int] | None = None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """Compute `sdpa` attention of a decoder, within each sample if a row contains several.

    Args:
        module: The attention layer.
        query: (rows, heads, length, head width); `key` and `value` likewise.
        key: May have fewer heads.
        value: Has as many heads as `key`.
        attention_mask: Mask of rows that contain one sample each.
        sample_lengths: Lengths of the samples in the only row; their sum is its length.
        settings: Further arguments from transformers.

    Returns:
        The output (rows, length, heads, head width), and None for the weights.
    """
    if sample_lengths is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    return segment_attention(module, query, key, value, sample_lengths, **settings), None


def vision_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor,
    segment_lengths: Mapping[int, Sequence[int]] | None = None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """Compute `sdpa` attention of a vision tower, within each image or window; called by transformers.

    Args:
        module: The attention layer.
        query: (1, heads, patches, head width); `key` and `value` likewise.
        key: See `query`.
        value: See `query`.
        attention_mask: None.
        cu_seq_lens_q: (segments + 1,), first patch of each segment, and the number of patches.
        segment_lengths: Lengths of the segments by their number, known without asking the device.
        settings: Further arguments from transformers.

    Returns:
        The output (1, patches, heads, head width), and None for the weights.
    """
    if segment_lengths is None:
        lengths: Sequence[int] = cu_seq_lens_q.diff().tolist()
    else:
        # A layer with windows has other segments than one that sees whole images; equal numbers are equal segments.
        lengths = segment_lengths[len(cu_seq_lens_q) - 1]
    return segment_attention(module, query, key, value, lengths, **settings), None


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
AttentionMaskInterface.register(PACKED_ATTENTION, sdpa_mask)
AttentionInterface.register(VISION_ATTENTION, vision_attention)
