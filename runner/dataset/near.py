"""Finds images that look alike: copies in another size, format or quality."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runner.errors import DataError

SIDE = 128
"""To which a JPEG is reduced while it is decoded, at least; the hash looks at 32 by 32 pixels."""
CHUNK = 512
"""So many images are compared with all others at once."""

Hashes = NDArray[np.uint64]


def near_groups(paths: Iterable[Path], distance: int) -> dict[Path, int]:
    """Group images that look alike, directly or over others between them.

    Args:
        paths: Images.
        distance: The most bits, of 64, in which the perceptual hashes (`imagehash.phash`) of two may differ.

    Returns:
        The number of its group for each image; most are alone in theirs.

    Raises:
        DataError: An image cannot be read.
    """
    images = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow lets go of Python's lock while it decodes.
        hashes = np.array(list(pool.map(perceptual_hash, images)), dtype=np.uint64)
    return dict(zip(images, connected(hashes, distance).tolist(), strict=True))


def perceptual_hash(path: Path) -> int:
    """Hash what an image shows into 64 bits.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with Image.open(path) as opened:
            opened.draft("L", (SIDE, SIDE))
            bits = imagehash.phash(opened).hash
    except Exception as error:  # Pillow's decoders raise whatever damage leads them to, struct.error among it.
        raise DataError(f"{path}: cannot be compared with other images: {error}") from error
    return int.from_bytes(np.packbits(bits).tobytes())


def connected(hashes: Hashes, distance: int) -> NDArray[np.int64]:
    """Number the groups of hashes that are within a distance of one another, or connected over others.

    Takes time quadratic in the number of hashes, as numpy counts bits: a second for 10,000.

    Args:
        hashes: Shape (n,).
        distance: In bits.

    Returns:
        Shape (n,): for each the index of the first of its group.
    """
    groups = np.arange(len(hashes))
    for start in range(0, len(hashes), CHUNK):
        chunk = hashes[start : start + CHUNK, None]
        alike = np.bitwise_count(chunk ^ hashes[None, start:]) <= distance
        # Each is like itself: only what is like another, too, joins anything.
        for row in np.flatnonzero(alike.sum(axis=1) > 1):
            joined = np.unique(groups[start:][alike[row]])
            if len(joined) > 1:
                groups[np.isin(groups, joined)] = joined[0]
    return groups
