"""Batches of encoded samples: padded to one length, or packed into one row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from plugins.model.chat.precomputed_image_features import IMAGE_FEATURES, PIXEL_INPUTS, to_encoder_outputs
from plugins.model.chat.segment_attention import PACKED_ATTENTION
from runner.records import IGNORED
from runner.stages import Features


def collate(
    batch: Sequence[Features], fills: Mapping[str, int], padding_side: Literal["left", "right"], *, masked: bool
) -> Features:
    """Pad and stack encoded samples; see `VisionLanguageModel.collate`.

    Args:
        batch: Samples encoded by one model.
        fills: Padding value of each sequence by name, including `input_ids`; other entries belong to images.
        padding_side: Side of the padding.
        masked: Whether to add an `attention_mask`.
    """
    stacked = {
        name: pad_sequence(
            [sample[name] for sample in batch], batch_first=True, padding_value=fill, padding_side=padding_side
        )
        for name, fill in fills.items()
    }
    if masked:
        ones = [torch.ones_like(sample["input_ids"]) for sample in batch]
        stacked["attention_mask"] = pad_sequence(ones, batch_first=True, padding_side=padding_side)
    for name in dict.fromkeys(name for sample in batch for name in sample if name not in fills):
        stacked[name] = _concatenate([sample[name] for sample in batch if name in sample])
    return stacked


def _concatenate(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Concatenate along the first dimension; the other dimensions are zero-padded to the largest size."""
    shape = [max(lengths) for lengths in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    return torch.cat([tensor if list(tensor.shape[1:]) == shape else _pad_to(tensor, shape) for tensor in tensors])


def _pad_to(tensor: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    missing = [target - length for target, length in zip(shape, tensor.shape[1:], strict=True)]
    # `pad` expects the padding before and after each dimension, beginning with the last one.
    return functional.pad(tensor, [amount for after in reversed(missing) for amount in (0, after)])


def pack_samples(batch: Sequence[Features], module: Any) -> dict[str, Any]:
    """Pack encoded samples into one row without padding.

    Positions are those of each sample alone. Flash attention recognizes the samples by positions that restart with
    each sample, which are a fourth axis if positions have three, as defined by transformers; `packed_attention` by
    `sample_lengths`.

    Args:
        batch: Samples with `input_ids`, `labels` and `mm_token_type_ids` (length,), and optionally `image_grid_thw` and
            `pixel_values` or image features.
        module: The model; if its positions have three axes, its base model computes them (`get_rope_index`).
    """
    lengths = [len(sample["input_ids"]) for sample in batch]
    restarting = torch.cat([torch.arange(length) for length in lengths])
    has_axes = hasattr(module.base_model, "get_rope_index")
    positions = restarting[None]
    if has_axes:
        positions = torch.cat([_positions(sample, module.base_model) for sample in batch], dim=-1)
    row: dict[str, Any] = {
        "input_ids": torch.cat([sample["input_ids"] for sample in batch])[None],
        "labels": torch.cat([_labels(sample) for sample in batch])[None],
    }
    if module.config.get_text_config()._attn_implementation == PACKED_ATTENTION:
        row |= {"position_ids": positions, "sample_lengths": lengths}
    else:
        row["position_ids"] = torch.cat([restarting.expand(1, 1, -1), positions]) if has_axes else positions
    for name in (*PIXEL_INPUTS, IMAGE_FEATURES):
        if tensors := [sample[name] for sample in batch if name in sample]:
            row[name] = _concatenate(tensors)
    return to_encoder_outputs(row, module.config.get_text_config().hidden_size)


def compute_positions(rows: Mapping[str, torch.Tensor], base: Any) -> torch.Tensor:
    """Compute time, height and width positions of each token: (3, rows, length).

    Args:
        rows: `input_ids` and `mm_token_type_ids` (rows, length), with padding on the right only, and `image_grid_thw`
            of all images, if there are any.
        base: The base model; it computes the positions on the device of the rows.
    """
    ids, type_ids = rows["input_ids"], rows["mm_token_type_ids"]
    positions: torch.Tensor = base.get_rope_index(ids, type_ids, image_grid_thw=rows.get("image_grid_thw"))[0]
    return positions


def _positions(sample: Features, base: Any) -> torch.Tensor:
    """Compute the positions of one sample: (3, 1, length)."""
    rows = {name: sample[name][None] for name in ("input_ids", "mm_token_type_ids")}
    images = {"image_grid_thw": sample["image_grid_thw"]} if "image_grid_thw" in sample else {}
    return compute_positions({**rows, **images}, base)


def _labels(sample: Features) -> torch.Tensor:
    """Return the labels, except that of the first token, which only the previous sample could predict."""
    labels = sample["labels"].clone()
    labels[0] = IGNORED
    return labels
