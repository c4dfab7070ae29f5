"""Opens image files, which others may have made: only regular files, and only formats of pictures."""

from __future__ import annotations

import io
import re
import stat
from functools import lru_cache
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


_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
"""The last chunk of a complete PNG: length zero, type and checksum (PNG specification, 11.2.5)."""

_PNG_EXIF = re.compile(rb"eXIf|Raw profile type |XML:com\.adobe\.xmp")
"""Marks of orientation data in a PNG: a chunk, or the keyword of a text, which is never compressed."""

ORIENTATION = 0x0112
"""EXIF tag of the camera orientation."""


def read_upright_size(path: Path) -> tuple[int, int]:
    """Read width and height of an image in pixels from its header, after correction of the orientation.

    Raises:
        OSError: The file cannot be read, is not a regular file, is too large, or has another format.
        Exception: What Pillow raises for a damaged image.
    """
    content = read_image_file(path)
    with open_image(content) as image:
        width, height = image.size
        # The EXIF data of a PNG may follow its pixels, and Pillow would decode the pixels first.
        has_no_exif = content.endswith(_PNG_END) and not _PNG_EXIF.search(content)
        # Values above 4 are rotations by 90 degrees, which swap width and height.
        is_rotated = not has_no_exif and image.getexif().get(ORIENTATION, 1) > 4
    return (height, width) if is_rotated else (width, height)


UPRIGHT_SIZE_CACHE_SIZE = 16_384
"""Number of cached image sizes, about 8 MB: an adapter needs the size of an image each time it renders or scores it."""


def upright_size(path: Path) -> tuple[int, int]:
    """Return what `read_upright_size` reads, cached until the file changes; raises like it."""
    state = path.stat()
    return _cached_upright_size(path, (state.st_ino, state.st_size, state.st_mtime_ns))


@lru_cache(UPRIGHT_SIZE_CACHE_SIZE)
def _cached_upright_size(path: Path, state: tuple[int, int, int]) -> tuple[int, int]:
    return read_upright_size(path)


def _check_file(path: Path) -> None:
    """Refuse a pipe, at which the reader would wait forever, and a device, which has no end."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path}: is not a regular file")
    if status.st_size > MAX_BYTES:
        raise OSError(f"{path}: has {status.st_size:,} bytes; an image may have {MAX_BYTES:,}")
