"""Loads images with corrected orientation, and reads image sizes without decoding pixels."""

from __future__ import annotations

import re
from functools import lru_cache
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps

from runner.errors import DataError

ImageSize = tuple[int, int]
"""Height and width in pixels after correction of the orientation, in the order of transformers' image processors."""

_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""Exceptions that Pillow raises for files that are missing, damaged or too large."""

_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
"""The last chunk of a complete PNG: length zero, type and checksum (PNG specification, 11.2.5)."""

_PNG_EXIF = re.compile(rb"eXIf|Raw profile type |XML:com\.adobe\.xmp")
"""Marks of orientation data in a PNG: a chunk, or the keyword of a text, which is never compressed."""

_ORIENTATION = 0x0112
"""EXIF tag of the camera orientation."""


def load_image(path: Path, sample: str) -> Image.Image:
    """Load an image as RGB, with corrected orientation.

    Raises:
        DataError: The image cannot be read.
    """
    try:
        with Image.open(path) as image:
            # Cameras store the rotation in an EXIF tag; the model should see the image as a person does.
            return ImageOps.exif_transpose(image).convert("RGB")
    except _UNREADABLE as error:
        raise unusable_image_error(path, sample, error) from error


def read_image_size(path: Path, sample: str) -> ImageSize:
    """Read an image's size from its header.

    Raises:
        DataError: The image cannot be read.
    """
    try:
        content = path.read_bytes()
        with Image.open(BytesIO(content)) as image:
            width, height = image.size
            # The EXIF data of a PNG may follow its pixels, and Pillow would decode the pixels first.
            has_no_exif = content.endswith(_PNG_END) and not _PNG_EXIF.search(content)
            # Values above 4 are rotations by 90 degrees, which swap width and height.
            is_rotated = not has_no_exif and image.getexif().get(_ORIENTATION, 1) > 4
    except _UNREADABLE as error:
        raise unusable_image_error(path, sample, error) from error
    return (width, height) if is_rotated else (height, width)


def cached_image_size(path: Path, sample: str) -> ImageSize:
    """Return an image's size, cached until its file changes.

    Raises:
        DataError: The image cannot be read.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise unusable_image_error(path, sample, error) from error
    return _cached_image_size(path, (state.st_ino, state.st_size, state.st_mtime_ns), sample)


@lru_cache(maxsize=256)
def _cached_image_size(path: Path, state: tuple[int, int, int], sample: str) -> ImageSize:
    return read_image_size(path, sample)


def unusable_image_error(path: Path, sample: str, error: BaseException) -> DataError:
    """Create the error for an image that cannot be used."""
    return DataError(f"sample {sample}: image {path} cannot be used: {error}")
