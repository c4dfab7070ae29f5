"""Reads images and cuts them into the patches of the vision tower."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageOps
from transformers import Qwen2VLImageProcessorPil

from runner.errors import DataError
from runner.records import Rendered


def pixel_features(processor: Qwen2VLImageProcessorPil, rendered: Rendered) -> dict[str, torch.Tensor]:
    """Process the images of a sample.

    Returns:
        `pixel_values` (patches, values of a patch) and `image_grid_thw` (images, 3); nothing without images.

    Raises:
        DataError: An image cannot be read, or is more than 200 times as long as wide.
    """
    if not rendered.images:
        return {}
    images = [_read(path, rendered.id) for path in rendered.images]
    for path, image in zip(rendered.images, images, strict=True):
        _num_patches(processor, path, image.size, rendered.id)
    processed = processor(images=images, return_tensors="pt")
    return {"pixel_values": processed["pixel_values"], "image_grid_thw": processed["image_grid_thw"]}


def num_image_tokens(processor: Qwen2VLImageProcessorPil, rendered: Rendered) -> list[int]:
    """Count the places that each image takes among the tokens, from the size in its header.

    Raises:
        DataError: As `pixel_features`.
    """
    counts = []
    for path in rendered.images:
        try:
            with Image.open(path) as image:
                size = image.size
        except _UNREADABLE as error:
            raise _unreadable(path, rendered.id, error) from error
        counts.append(_num_patches(processor, path, size, rendered.id) // processor.merge_size**2)
    return counts


def _num_patches(processor: Qwen2VLImageProcessorPil, path: Path, size: tuple[int, int], sample: str) -> int:
    width, height = size
    try:
        return int(processor.get_number_of_image_patches(height, width))
    except ValueError as error:
        raise _unreadable(path, sample, error) from error


def _read(path: Path, sample: str) -> Image.Image:
    try:
        with Image.open(path) as image:
            # Cameras store a turned image upright in a tag; the model should see what a person sees.
            return ImageOps.exif_transpose(image).convert("RGB")
    except _UNREADABLE as error:
        raise _unreadable(path, sample, error) from error


_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises for files that are missing, broken or too large."""


def _unreadable(path: Path, sample: str, error: BaseException) -> DataError:
    return DataError(f"sample {sample}: image {path} cannot be used: {error}")
