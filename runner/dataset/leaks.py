"""Defines when two samples are the same (equal ids, texts or images), groups such samples and finds leaks.

The build, the splits of a data set, the validation split and the few-shot examples all use this definition.
"""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import imagehash
import numpy as np
from numpy.typing import NDArray

from runner.dataset.folder_reader import image_digest
from runner.errors import DataError
from runner.images import open_image
from runner.records import Sample, can_be_normalized

MIN_DECODED_SIDE = 128
"""A JPEG may be reduced to this size in pixels while it is decoded; the perceptual hash uses 32 by 32 pixels."""


CHUNK_SIZE = 512
"""Number of images that are compared with all others at once."""


Hashes = NDArray[np.uint64]


def group_near_duplicates(paths: Iterable[Path], max_distance: int) -> dict[Path, int]:
    """Group near-duplicate images; any two images of a group are near-duplicates.

    Groups of images that are linked only through others would grow with the data set: unrelated images of text on a
    plain background then form one group, because each of them resembles some other.

    Args:
        paths: Images.
        max_distance: The largest Hamming distance, of 64 bits, between perceptual hashes (`imagehash.phash`) of
            near-duplicates.

    Returns:
        The group number of each image; most groups have one image.

    Raises:
        DataError: An image cannot be read.
    """
    images = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow releases the GIL while it decodes.
        hashes = np.array(list(pool.map(_cached_hash, images, map(image_digest, images))), dtype=np.uint64)
    return dict(zip(images, group_hashes(hashes, max_distance).tolist(), strict=True))


def perceptual_hash(path: Path) -> int:
    """Compute the 64-bit perceptual hash of an image.

    Raises:
        DataError: The image cannot be read.
    """
    try:
        with open_image(path) as image:
            image.draft("L", (MIN_DECODED_SIDE, MIN_DECODED_SIDE))
            bits = imagehash.phash(image).hash
    except Exception as error:  # Damaged files make Pillow's decoders raise many types, including struct.error.
        raise DataError(f"{path}: cannot be compared with other images: {error}") from error
    return int.from_bytes(np.packbits(bits).tobytes())


@cache
def _cached_hash(path: Path, _digest: str | None) -> int:
    """Compute the perceptual hash of an image once for each content: splits, validation and examples all need it."""
    return perceptual_hash(path)


def group_hashes(hashes: Hashes, max_distance: int) -> NDArray[np.int64]:
    """Group hashes by complete linkage: any two hashes of a group are within `max_distance` bits.

    Pairs are merged in the order of their distance, so that the closest hashes are together. The groups do not depend
    on the order of the hashes. The time is quadratic in their number, with numpy counting bits: one second for 10,000.

    Args:
        hashes: Shape (n,).
        max_distance: Hamming distance in bits.

    Returns:
        Shape (n,): for each hash, the index of the first hash in its group.
    """
    distinct, first_indices, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    group_of = list(range(len(distinct)))
    members = {index: [index] for index in group_of}
    for _, one, other in sorted(_near_pairs(distinct, max_distance)):
        kept, merged = group_of[one], group_of[other]
        if kept == merged:
            continue
        distances = np.bitwise_count(distinct[members[kept], None] ^ distinct[None, members[merged]])
        if distances.max() <= max_distance:
            for index in members[merged]:
                group_of[index] = kept
            members[kept] += members.pop(merged)
    first_of_group = {group: min(first_indices[indices]) for group, indices in members.items()}
    return np.array([first_of_group[group_of[index]] for index in inverse], dtype=np.int64)


def _near_pairs(hashes: Hashes, max_distance: int) -> Iterator[tuple[int, int, int]]:
    """Yield the distance and the indices, the smaller one first, of each pair within `max_distance` bits."""
    for start in range(0, len(hashes), CHUNK_SIZE):
        distances = np.bitwise_count(hashes[start : start + CHUNK_SIZE, None] ^ hashes[None, start:])
        rows, columns = np.nonzero(np.triu(distances <= max_distance, k=1))
        yield from zip(
            distances[rows, columns].tolist(), (rows + start).tolist(), (columns + start).tolist(), strict=True
        )


MAX_LISTED_LEAKS = 3
MAX_LISTED_OCCURRENCES = 4


NEAR_DUPLICATE = "near"
"""The kind of a leak between images that are similar but not identical."""


@dataclass(frozen=True)
class Leak:
    """An item that occurs in more than one split.

    Attributes:
        kind: `id`, `text`, `image`, or `near` for near-duplicate images.
        occurrences: The split and the sample id of every occurrence.
    """

    kind: str
    occurrences: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        """Format the leak, for example `the same text: train/12 and test/7`."""
        item = "nearly the same image" if self.kind == NEAR_DUPLICATE else f"the same {self.kind}"
        places = [f"{split}/{sample_id}" for split, sample_id in self.occurrences[:MAX_LISTED_OCCURRENCES]]
        num_others = len(self.occurrences) - len(places)
        return f"{item}: " + " and ".join([*places, *([f"{num_others} more"] if num_others else [])])


def content_keys(sample: Sample) -> dict[str, str]:
    """Return what splits must not share, by kind: id, text, and the digest of the image.

    Samples without text do not share a text, and samples without an image do not share an image.
    """
    keys = {"id": sample.id, "text": text_key(sample.text), "image": _image_key(sample.image)}
    return {kind: key for kind, key in keys.items() if key or kind == "id"}


def text_key(text: str) -> str:
    """Normalize a text for comparison: without case and spacing, in Unicode's compatibility form (NFKC).

    A text for which `can_be_normalized` is false stays in its form.
    """
    if not can_be_normalized(text):
        return " ".join(text.casefold().split())
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split())


def _image_key(path: Path | None) -> str:
    """Return the digest of an image; the path of a missing file, whose reader raises the error; "" for no image."""
    try:
        return image_digest(path) or ""
    except FileNotFoundError:
        return str(path)


def without_shared_content(
    samples: Sequence[Sample], others: Sequence[Sample], max_hash_distance: int | None = None
) -> list[Sample]:
    """Select the samples that share no content with any of the others.

    In addition to `leak_keys`, the images of segments are compared, because an example is cheap to replace. They do not
    decide whether samples belong to one split: unrelated images can have equal crops of a few pixels.

    Args:
        samples: The samples to select from.
        others: The samples that nothing may be shared with.
        max_hash_distance: As in `leak_keys`.
    """
    keys = [
        {*keys.items(), *(("image", _image_key(segment.image)) for segment in sample.segments if segment.image)}
        for sample, keys in zip([*samples, *others], leak_keys([*samples, *others], max_hash_distance), strict=True)
    ]
    excluded = set[tuple[str, str]]().union(*keys[len(samples) :])
    return [sample for sample, own in zip(samples, keys, strict=False) if excluded.isdisjoint(own)]


def group_by_content(samples: Sequence[Sample], max_hash_distance: int | None = None) -> list[int]:
    """Return for each sample the index of the first sample of its group.

    Samples that share content (`leak_keys`) are in one group, also if they are linked only through others.
    """
    parent = list(range(len(samples)))

    def find_root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first_index: dict[tuple[str, str], int] = {}
    for index, keys in enumerate(leak_keys(samples, max_hash_distance)):
        for key in keys.items():
            one, other = sorted((find_root(index), find_root(first_index.setdefault(key, index))))
            parent[other] = one
    return [find_root(index) for index in range(len(samples))]


def groups_by_kind(samples: Sequence[Sample], max_hash_distance: int | None = None) -> list[dict[str, int]]:
    """Number the groups of samples that share an image, a text, or either of them.

    Args:
        samples: The samples of one split.
        max_hash_distance: As in `leak_keys`; near-duplicate images then count as the same image.

    Returns:
        For each sample the index of the first sample of its group, by kind: `image`, `text`, and `content` (see
        `group_by_content`). A sample without an image or a text is a group of its own for this kind.

    Raises:
        DataError: An image cannot be read.
    """
    keys = leak_keys(samples, max_hash_distance)
    images = [sample_keys.get(NEAR_DUPLICATE, sample_keys.get("image")) for sample_keys in keys]
    by_kind = {
        "image": _first_indices(images),
        "text": _first_indices([sample_keys.get("text") for sample_keys in keys]),
        "content": group_by_content(samples, max_hash_distance),
    }
    return [dict(zip(by_kind, indices, strict=True)) for indices in zip(*by_kind.values(), strict=True)]


def _first_indices(keys: Sequence[str | None]) -> list[int]:
    """Return for each key the index of the first equal one; None equals no other key."""
    first_index: dict[str, int] = {}
    return [index if key is None else first_index.setdefault(key, index) for index, key in enumerate(keys)]


def leak_keys(samples: Sequence[Sample], max_hash_distance: int | None) -> list[dict[str, str]]:
    """Return for each sample its `content_keys`, and the group of near-duplicates of its image if requested.

    Args:
        samples: All samples of a data set.
        max_hash_distance: The largest Hamming distance, of 64 bits, between perceptual hashes of near-duplicates.
            None compares exact copies only.

    Raises:
        DataError: An image cannot be read.
    """
    keys_of_samples = [content_keys(sample) for sample in samples]
    if max_hash_distance is None:
        return keys_of_samples
    # Identical files share a digest: only the first of them is hashed.
    path_of_digest: dict[str, Path] = {}
    for sample, keys in zip(samples, keys_of_samples, strict=True):
        if sample.image is not None and sample.image.exists():
            path_of_digest.setdefault(keys["image"], sample.image)
    groups = group_near_duplicates(path_of_digest.values(), max_hash_distance)
    return [
        keys
        | ({NEAR_DUPLICATE: str(groups[path_of_digest[keys["image"]]])} if keys.get("image") in path_of_digest else {})
        for keys in keys_of_samples
    ]


def find_leaks(splits: Mapping[str, Sequence[Sample]], max_hash_distance: int | None = None) -> list[Leak]:
    """List the items that occur in more than one split; `max_hash_distance` as in `leak_keys`."""
    members = [(split, sample) for split, samples in splits.items() for sample in samples]
    keys_of_members = leak_keys([sample for _, sample in members], max_hash_distance)
    # Occurrences are collected for leaking keys only: those of all keys would take more memory than the samples.
    first_split: dict[tuple[str, str], str] = {}
    leaking = {
        key
        for (split, _), keys in zip(members, keys_of_members, strict=True)
        for key in keys.items()
        if first_split.setdefault(key, split) != split
    }
    occurrences: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    images: dict[tuple[str, str], set[str]] = defaultdict(set)
    for (split, sample), keys in zip(members, keys_of_members, strict=True):
        for key in (key for key in keys.items() if key in leaking):
            occurrences[key].append((split, sample.id))
            images[key].add(keys.get("image", ""))
    return [
        Leak(kind, tuple(places))
        for (kind, key), places in occurrences.items()
        if not (kind == NEAR_DUPLICATE and len(images[kind, key]) == 1)
    ]


def leak_message(leaks: Sequence[Leak]) -> str:
    """Format the number of leaks and the first few of them."""
    listed = "; ".join(str(leak) for leak in leaks[:MAX_LISTED_LEAKS])
    more = f"; and {len(leaks) - MAX_LISTED_LEAKS} more" if len(leaks) > MAX_LISTED_LEAKS else ""
    return f"{len(leaks)} leak(s) between splits: {listed}{more}"
