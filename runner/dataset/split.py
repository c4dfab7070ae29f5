"""Splits samples so that no image or text occurs in two splits, and finds leaks between splits."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runner.dataset.folder import image_digest
from runner.errors import DataError
from runner.records import Sample
from runner.stages import Ratios

MIN_DECODED_SIDE = 128
"""A JPEG may be reduced to this size in pixels while it is decoded; the perceptual hash uses 32 by 32 pixels."""
CHUNK_SIZE = 512
"""Number of images that are compared with all others at once."""

Hashes = NDArray[np.uint64]


def group_near_duplicates(paths: Iterable[Path], max_distance: int) -> dict[Path, int]:
    """Group near-duplicate images, including images that are linked only through others.

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
        hashes = np.array(list(pool.map(perceptual_hash, images)), dtype=np.uint64)
    return dict(zip(images, connected_components(hashes, max_distance).tolist(), strict=True))


def perceptual_hash(path: Path) -> int:
    """Compute the 64-bit perceptual hash of an image.

    Raises:
        DataError: The image cannot be read.
    """
    try:
        with Image.open(path) as image:
            image.draft("L", (MIN_DECODED_SIDE, MIN_DECODED_SIDE))
            bits = imagehash.phash(image).hash
    except Exception as error:  # Damaged files make Pillow's decoders raise many types, including struct.error.
        raise DataError(f"{path}: cannot be compared with other images: {error}") from error
    return int.from_bytes(np.packbits(bits).tobytes())


def connected_components(hashes: Hashes, max_distance: int) -> NDArray[np.int64]:
    """Find the connected components of hashes, where hashes within `max_distance` bits are connected.

    The time is quadratic in the number of hashes, with numpy counting bits: one second for 10,000 hashes.

    Args:
        hashes: Shape (n,).
        max_distance: Hamming distance in bits.

    Returns:
        Shape (n,): for each hash, the index of the first hash in its component.
    """
    components = np.arange(len(hashes))
    for start in range(0, len(hashes), CHUNK_SIZE):
        chunk = hashes[start : start + CHUNK_SIZE, None]
        is_near = np.bitwise_count(chunk ^ hashes[None, start:]) <= max_distance
        # Every hash is near itself: only rows with another near hash can merge components.
        for row in np.flatnonzero(is_near.sum(axis=1) > 1):
            merged = np.unique(components[start:][is_near[row]])
            if len(merged) > 1:
                components[np.isin(components, merged)] = merged[0]
    return components


Feature = Literal["segments", "labels"]
Stratum = tuple[str, str]

MIN_GAIN = 1e-9
"""The smallest improvement that justifies a move, so that rounding never moves a group back and forth."""


def sample_strata(sample: Sample, features: Sequence[Feature]) -> set[Stratum]:
    """List the strata of a sample: the sample itself, its number of segments, and each label of its entities."""
    strata = {("sample", "")}
    if "segments" in features:
        strata.add(("segments", str(len(sample.segments))))
    if "labels" in features:
        strata |= {("label", entity.label) for entity in sample.entities}
    return strata


def imbalance(
    groups: Sequence[Counter[Stratum]], assignment: Sequence[int], ratios: Sequence[float]
) -> dict[Stratum, list[float]]:
    """Compute the excess of each stratum in each split; a negative value means too few.

    Args:
        groups: The stratum counts of each group.
        assignment: The split of each group, as an index of `ratios`.
        ratios: The fraction of each split; they sum to one.
    """
    excess: dict[Stratum, list[float]] = {}
    for group, assigned_split in zip(groups, assignment, strict=True):
        for stratum, count in group.items():
            row = excess.setdefault(stratum, [0.0] * len(ratios))
            row[assigned_split] += count
            for split, ratio in enumerate(ratios):
                row[split] -= count * ratio
    return excess


def rebalance(groups: Sequence[Counter[Stratum]], assignment: Sequence[int], ratios: Sequence[float]) -> list[int]:
    """Move groups between splits as long as a move makes the splits more similar.

    The objective is the sum, over strata and splits, of the squared excess divided by the size of the stratum. Every
    move lowers it, so the result is never less balanced than the initial assignment.

    Args:
        groups: The stratum counts of each group.
        assignment: The initial split of each group, as an index of `ratios`.
        ratios: The fraction of each split; they sum to one.

    Returns:
        The final split of each group.
    """
    excess, totals = imbalance(groups, assignment, ratios), sum(groups, Counter[Stratum]())
    balanced = list(assignment)
    has_moved = True
    while has_moved:
        has_moved = False
        for index, group in enumerate(groups):
            source = balanced[index]
            costs = [_move_cost(group, excess, totals, source, split) for split in range(len(ratios))]
            target = min(range(len(ratios)), key=costs.__getitem__)
            if costs[target] < -MIN_GAIN:
                for stratum, count in group.items():
                    excess[stratum][source] -= count
                    excess[stratum][target] += count
                balanced[index], has_moved = target, True
    return balanced


def _move_cost(
    group: Counter[Stratum], excess: dict[Stratum, list[float]], totals: Counter[Stratum], source: int, target: int
) -> float:
    """Compute the change of the objective of `rebalance` when a group moves from `source` to `target`."""
    if source == target:
        return 0.0
    return sum(
        2 * count * (excess[stratum][target] - excess[stratum][source] + count) / totals[stratum]
        for stratum, count in group.items()
    )


MAX_LISTED_LEAKS = 3
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
        return f"{item}: " + " and ".join(f"{split}/{sample_id}" for split, sample_id in self.occurrences)


def content_keys(sample: Sample) -> dict[str, str]:
    """Return what splits must not share, by kind: id, text, and the digest of the image.

    Texts are compared without case and spacing, after Unicode compatibility normalization (NFKC).
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", sample.text).casefold())
    keys = {"id": sample.id, "text": " ".join(text.split())}
    digest = image_digest(sample.image)
    return keys | ({"image": digest} if digest else {})


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
        if sample.image is not None:
            path_of_digest.setdefault(keys["image"], sample.image)
    groups = group_near_duplicates(path_of_digest.values(), max_hash_distance)
    return [
        keys | ({NEAR_DUPLICATE: str(groups[path_of_digest[keys["image"]]])} if "image" in keys else {})
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


def split_samples(
    samples: Sequence[Sample],
    ratios: Mapping[str, float],
    seed: int,
    *,
    keep_together: bool = True,
    max_hash_distance: int | None = None,
    stratify: Sequence[Feature] = (),
) -> dict[str, list[Sample]]:
    """Split samples at random by ratios.

    The result does not depend on the order of the samples: groups are ordered by a hash of the seed and their ids.
    A group goes to the split that contains its midpoint, so a split's size is off by at most half a group. With
    `stratify`, groups are then moved as long as that makes the splits more similar.

    Args:
        samples: Samples with unique ids.
        ratios: The fraction of each split; they are scaled to sum to one.
        seed: Seed of the random order.
        keep_together: Whether samples that share an image or a text go to the same split.
        max_hash_distance: As in `leak_keys`; used if `keep_together`.
        stratify: Features whose distribution should be the same in all splits.

    Raises:
        DataError: Two samples have the same id, a split is empty, or an image cannot be read.
    """
    duplicate_ids = [name for name, count in Counter(sample.id for sample in samples).items() if count > 1]
    if duplicate_ids:
        raise DataError(
            f"{len(duplicate_ids)} id(s) occur more than once, for example {duplicate_ids[0]!r}. Ids must be unique"
        )
    groups = _group_samples(samples, max_hash_distance) if keep_together else [[sample] for sample in samples]
    groups.sort(key=lambda group: _sort_key(seed, min(sample.id for sample in group)))
    total = sum(ratios.values())
    fractions = [ratio / total for ratio in ratios.values()]
    assignment = _assign_by_midpoint([len(group) for group in groups], fractions)
    if stratify:
        counts = [
            Counter(stratum for sample in group for stratum in sample_strata(sample, stratify)) for group in groups
        ]
        assignment = rebalance(counts, assignment, fractions)
    splits: dict[str, list[Sample]] = {split: [] for split in ratios}
    for group, index in zip(groups, assignment, strict=True):
        splits[list(ratios)[index]] += group
    empty = [split for split, members in splits.items() if not members]
    if empty:
        raise DataError(f"too few samples ({len(samples)}) for the split {', '.join(empty)}. Change the ratios")
    return {split: sorted(members, key=lambda sample: _sort_key(seed, sample.id)) for split, members in splits.items()}


def split_by_ratios(
    options: Ratios, samples: Sequence[Sample], max_hash_distance: int | None
) -> dict[str, list[Sample]]:
    """Split samples by the options of a spec; see `split_samples`."""
    return split_samples(
        samples,
        options.ratios,
        options.seed,
        keep_together=options.group_by == "content",
        max_hash_distance=max_hash_distance,
        stratify=options.stratify,
    )


def _assign_by_midpoint(sizes: Sequence[int], fractions: Sequence[float]) -> list[int]:
    """Return the split index of each group: the split that contains its midpoint when groups stand in a row."""
    split_ends = [sum(fractions[: index + 1]) * sum(sizes) for index in range(len(fractions))]
    group_starts = accumulate(sizes, initial=0)
    midpoints = [start + size / 2 for start, size in zip(group_starts, sizes, strict=False)]
    return [
        next((split for split, end in enumerate(split_ends) if midpoint <= end), len(split_ends) - 1)
        for midpoint in midpoints
    ]


def _sort_key(seed: int, sample_id: str) -> str:
    return hashlib.sha256(f"{seed}:{sample_id}".encode()).hexdigest()


def _group_samples(samples: Sequence[Sample], max_hash_distance: int | None) -> list[list[Sample]]:
    """Group samples that share a text or an image, including those linked only through others."""
    parent = list(range(len(samples)))

    def find_root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first_index: dict[tuple[str, str], int] = {}
    for index, keys in enumerate(leak_keys(samples, max_hash_distance)):
        for key in keys.items():
            parent[find_root(index)] = find_root(first_index.setdefault(key, index))
    groups: dict[int, list[Sample]] = defaultdict(list)
    for index, sample in enumerate(samples):
        groups[find_root(index)].append(sample)
    return list(groups.values())
