"""Reads images upright, and image sizes without decoding pixels."""

from __future__ import annotations

import re
from functools import lru_cache
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps

from runner.errors import DataError

Dimensions = tuple[int, int]
"""Height and width of a picture in pixels, upright, in the order of transformers' image processors."""

_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises for files that are missing, broken or too large."""

_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
"""The last chunk of a PNG that is whole: empty, its type, its checksum (PNG specification, 11.2.5)."""

_PNG_NOTES = re.compile(rb"eXIf|Raw profile type |XML:com\.adobe\.xmp")
"""Where a PNG may say how its camera was held: a chunk, or a keyword of a text, which is never compressed."""

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
        content = path.read_bytes()
        with Image.open(BytesIO(content)) as image:
            width, height = image.size
            # Of a PNG, whose notes may stand behind its pixels, Pillow would decode the pixels first.
            noteless = content.endswith(_PNG_END) and not _PNG_NOTES.search(content)
            # By a quarter, one way or the other.
            turned = not noteless and image.getexif().get(_ORIENTATION, 1) > 4
    except _UNREADABLE as error:
        raise unusable(path, sample, error) from error
    return (width, height) if turned else (height, width)


def dimensions(path: Path, sample: str) -> Dimensions:
    """Know an image's size, which is read once as long as its file does not change.

    Raises:
        DataError: It cannot be read.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise unusable(path, sample, error) from error
    return _dimensions(path, (state.st_ino, state.st_size, state.st_mtime_ns), sample)


@lru_cache(maxsize=256)
def _dimensions(path: Path, state: tuple[int, int, int], sample: str) -> Dimensions:
    return read_dimensions(path, sample)


def unusable(path: Path, sample: str, error: BaseException) -> DataError:
    """Make the error for an image that cannot be used."""
    return DataError(f"sample {sample}: image {path} cannot be used: {error}")
