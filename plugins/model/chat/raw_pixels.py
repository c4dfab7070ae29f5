"""Pixels of encoded samples as bytes, which the vision tower normalises on its device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
import torch
from PIL import Image
from transformers import Qwen2VLImageProcessorPil

from runner.stages import Features

LEVELS = 256
"""Values of a byte."""


class RawPixels:
    """Encodes images to bytes, and normalises them in front of a vision tower.

    Transformers' processor gives float32 values, each for two equal frames: 24 bytes for each pixel. Here a pixel has
    three bytes. A table with the processor's own result for each value of each channel makes the normalised pixels
    equal to those of the processor, bit for bit.
    """

    def __init__(self, image_processor: Qwen2VLImageProcessorPil) -> None:
        """Compute the table.

        Args:
            image_processor: The processor of a Qwen-VL model, which resizes images to bytes with Pillow.
        """
        self._processor: Any = image_processor
        self._frames = int(self._processor.temporal_patch_size)
        levels = numpy.tile(numpy.arange(LEVELS, dtype=numpy.uint8), len(self._processor.image_mean))
        image = levels.reshape(-1, 1, LEVELS)  # channels, height, width
        if self._processor.do_rescale:
            image = self._processor.rescale(image, self._processor.rescale_factor)
        if self._processor.do_normalize:
            image = self._processor.normalize(image, self._processor.image_mean, self._processor.image_std)
        self._table = torch.from_numpy(numpy.asarray(image, dtype=numpy.float32)).squeeze(1)

    def encode(self, images: Sequence[Image.Image]) -> Features:
        """Resize images and cut them into patches.

        Returns:
            `pixel_values` (patches, channels × height × width of a patch), uint8; and `image_grid_thw` (images, 3).
        """
        features = self._processor(images=list(images), do_rescale=False, do_normalize=False, return_tensors="pt")
        pixels = features["pixel_values"]
        frames = pixels.reshape(len(pixels), len(self._table), self._frames, -1)
        return {**features, "pixel_values": frames[:, :, 0].flatten(1).to(torch.uint8)}

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Compute the values that transformers' processor gives.

        Args:
            pixels: `pixel_values` of `encode`, as any type that holds the values of bytes.

        Returns:
            (patches, channels × frames × height × width of a patch), in the type of the argument, or float32 for bytes.
        """
        channels = len(self._table)
        table = self._table.to(pixels.device, non_blocking=True).flatten()
        offsets = LEVELS * torch.arange(channels, device=pixels.device)[:, None]
        values = table[pixels.reshape(len(pixels), channels, -1).long() + offsets]
        frames = values[:, :, None].expand(-1, -1, self._frames, -1).flatten(1)
        return frames.to(pixels.dtype) if pixels.is_floating_point() else frames

    def add_to(self, tower: Any) -> None:
        """Let a vision tower normalise bytes. It still takes pixels that transformers' processor has normalised."""
        tower.register_forward_pre_hook(self._before_tower)

    def _before_tower(self, tower: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        pixels, *others = args
        is_normalised = pixels.shape[1] == tower.patch_embed.proj.weight[0].numel()
        return (pixels if is_normalised else self.normalise(pixels), *others)
