"""Opens image files, which others may have made: only regular files, and only formats of pictures."""

from __future__ import annotations

import io
import stat
from pathlib import Path

from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""The formats that are read. Pillow knows about forty more: some start other programs, such as Ghostscript for EPS, and
most are rarely used, so that faults in their decoders are found late."""


MAX_BYTES = 1_000_000_000
"""Maximum size of a file. Pillow opens no picture of more than 179 million pixels, which uncompressed are 540 MB."""


def open_image(source: Path | bytes) -> Image.Image:
    """Open an image; its pixels are decoded when they are first used.

    Args:
        source: A file, or its content.

    Raises:
        OSError: The file cannot be read, is not a regular file, is too large, or has another format.
        Exception: What Pillow raises for a damaged image.
    """
    if isinstance(source, Path):
        _check_file(source)
    try:
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    except UnidentifiedImageError as error:
        name = "" if isinstance(source, bytes) else f"{source}: "
        raise UnidentifiedImageError(f"{name}is not an image in one of the formats {', '.join(FORMATS)}") from error


def read_image_file(path: Path) -> bytes:
    """Read the bytes of an image file.

    Raises:
        OSError: The file cannot be read, is not a regular file, or is too large.
    """
    _check_file(path)
    return path.read_bytes()


def _check_file(path: Path) -> None:
    """Refuse a pipe, at which the reader would wait forever, and a device, which has no end."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path}: is not a regular file")
    if status.st_size > MAX_BYTES:
        raise OSError(f"{path}: has {status.st_size:,} bytes; an image may have {MAX_BYTES:,}")
