"""Stacks encoded samples: their texts padded to one length, their images one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from runner.stages import Features


def collate(
    batch: Sequence[Features], fills: Mapping[str, int], padding_side: Literal["left", "right"], *, masked: bool
) -> Features:
    """Pad and stack encoded samples; see `VisionLanguageModel.collate`.

    Args:
        batch: Of one family's model.
        fills: What pads each sequence of a sample, by name, `input_ids` among them; all else is of images.
        padding_side: Where padding stands.
        masked: Whether an `attention_mask` says where the padding is.
    """
    stacked = {
        name: pad_sequence(
            [each[name] for each in batch], batch_first=True, padding_value=fill, padding_side=padding_side
        )
        for name, fill in fills.items()
    }
    if masked:
        ones = [torch.ones_like(each["input_ids"]) for each in batch]
        stacked["attention_mask"] = pad_sequence(ones, batch_first=True, padding_side=padding_side)
    for name in dict.fromkeys(name for each in batch for name in each if name not in fills):
        stacked[name] = _one_after_another([each[name] for each in batch if name in each])
    return stacked


def _one_after_another(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Join along the first dimension, the others filled up with zeros to the largest."""
    shape = [max(lengths) for lengths in zip(*(part.shape[1:] for part in parts), strict=True)]
    return torch.cat([part if list(part.shape[1:]) == shape else _filled_up(part, shape) for part in parts])


def _filled_up(part: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    lacking = [want - have for want, have in zip(shape, part.shape[1:], strict=True)]
    # `pad` takes what to add before and behind, the last dimension first.
    return functional.pad(part, [each for behind in reversed(lacking) for each in (0, behind)])
