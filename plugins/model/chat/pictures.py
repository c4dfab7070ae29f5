"""Reads pictures as a person sees them, and their sizes without their pixels."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps

from runner.errors import DataError

Dimensions = tuple[int, int]
"""Height and width of a picture in pixels, upright, in the order of transformers' image processors."""

_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises for files that are missing, broken or too large."""

_ORIENTATION = 0x0112
"""The tag in which cameras note how they were held."""


def read_picture(path: Path, sample: str) -> Image.Image:
    """Read an image upright and in three channels.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with Image.open(path) as image:
            # Cameras store a turned image upright in a tag; the model should see what a person sees.
            return ImageOps.exif_transpose(image).convert("RGB")
    except _UNREADABLE as error:
        raise unusable(path, sample, error) from error


def read_dimensions(path: Path, sample: str) -> Dimensions:
    """Read an image's size from its header.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION, 1) > 4  # by a quarter, one way or the other
    except _UNREADABLE as error:
        raise unusable(path, sample, error) from error
    return (width, height) if turned else (height, width)


def unusable(path: Path, sample: str, error: BaseException) -> DataError:
    """Make the error for an image that cannot be used."""
    return DataError(f"sample {sample}: image {path} cannot be used: {error}")
