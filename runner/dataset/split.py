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
from runner.spec.dataset_spec import Ratios

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


Feature = Literal["segments", "labels"]
Stratum = tuple[str, str]

LEAST_GAIN = 1e-9
"""Of a move, so that rounding never makes a group go back and forth."""


def strata(sample: Sample, features: Sequence[Feature]) -> set[Stratum]:
    """List what a sample counts for: itself, its number of segments, each label of its entities."""
    found = {("sample", "")}
    if "segments" in features:
        found.add(("segments", str(len(sample.segments))))
    if "labels" in features:
        found |= {("label", entity.label) for entity in sample.entities}
    return found


def imbalance(
    groups: Sequence[Counter[Stratum]], places: Sequence[int], shares: Sequence[float]
) -> dict[Stratum, list[float]]:
    """Count by how much each split has too many of each stratum; negative where it has too few.

    Args:
        groups: What each group counts for.
        places: The split of each, as an index of `shares`.
        shares: Of the splits, summing to one.
    """
    excess: dict[Stratum, list[float]] = {}
    for group, place in zip(groups, places, strict=True):
        for stratum, number in group.items():
            row = excess.setdefault(stratum, [0.0] * len(shares))
            row[place] += number
            for split, share in enumerate(shares):
                row[split] -= number * share
    return excess


def evened(groups: Sequence[Counter[Stratum]], places: Sequence[int], shares: Sequence[float]) -> list[int]:
    """Move groups between splits as long as that makes splits more alike.

    What falls is the sum, over strata and splits, of the squared excess over the stratum's size. As it falls with
    every move, the result is never less even than the division it began with.

    Args:
        groups: What each group counts for.
        places: Where each is to begin with.
        shares: Of the splits, summing to one.

    Returns:
        Where each is in the end.
    """
    excess, totals = imbalance(groups, places, shares), sum(groups, Counter[Stratum]())
    settled = list(places)
    moved = True
    while moved:
        moved = False
        for index, group in enumerate(groups):
            here = settled[index]
            costs = [_cost(group, excess, totals, here, there) for there in range(len(shares))]
            there = min(range(len(shares)), key=costs.__getitem__)
            if costs[there] < -LEAST_GAIN:
                for stratum, number in group.items():
                    excess[stratum][here] -= number
                    excess[stratum][there] += number
                settled[index], moved = there, True
    return settled


def _cost(
    group: Counter[Stratum], excess: dict[Stratum, list[float]], totals: Counter[Stratum], here: int, there: int
) -> float:
    """By how much the sum grows when a group moves."""
    if here == there:
        return 0.0
    return sum(
        2 * number * (excess[stratum][there] - excess[stratum][here] + number) / totals[stratum]
        for stratum, number in group.items()
    )


SHOWN_LEAKS = 3
NEAR = "near"
"""The kind of a leak of images that look alike and are not the same."""


@dataclass(frozen=True)
class Leak:
    """Something that stands in more than one split.

    Attributes:
        kind: `id`, `text`, `image`, or `near` for images that look alike.
        places: Split and sample id of each that shares it.
    """

    kind: str
    places: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        """Such as `the same text: train/12 and test/7`."""
        what = "nearly the same image" if self.kind == NEAR else f"the same {self.kind}"
        return f"{what}: " + " and ".join(f"{split}/{each}" for split, each in self.places)


def content_keys(sample: Sample) -> dict[str, str]:
    """What must not be shared between splits, by kind: id, text, the image's bytes.

    Texts are the same but for case, spacing, and the form of characters that Unicode holds for compatible (NFKC).
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", sample.text).casefold())
    keys = {"id": sample.id, "text": " ".join(text.split())}
    digest = image_digest(sample.image)
    return keys | ({"image": digest} if digest else {})


def shared_keys(samples: Sequence[Sample], near: int | None) -> list[dict[str, str]]:
    """List for each sample what must not be shared, with the group of images that look alike if that is asked for.

    Args:
        samples: All of a data set.
        near: The most bits of 64 in which the perceptual hashes of such images differ; None: only exact copies count.

    Raises:
        DataError: An image cannot be read.
    """
    keys = [content_keys(sample) for sample in samples]
    if near is None:
        return keys
    # Copies of one file are the same image already: one of them is looked at.
    first: dict[str, Path] = {}
    for sample, each in zip(samples, keys, strict=True):
        if sample.image is not None:
            first.setdefault(each["image"], sample.image)
    groups = near_groups(first.values(), near)
    return [each | ({NEAR: str(groups[first[each["image"]]])} if "image" in each else {}) for each in keys]


def find_leaks(splits: Mapping[str, Sequence[Sample]], near: int | None = None) -> list[Leak]:
    """List what stands in more than one split; `near` as in `shared_keys`."""
    members = [(split, sample) for split, samples in splits.items() for sample in samples]
    keys = shared_keys([sample for _, sample in members], near)
    # Places are gathered of the few keys that leak alone: of all, they would take more room than the samples.
    first: dict[tuple[str, str], str] = {}
    leaking = {
        key
        for (split, _), each in zip(members, keys, strict=True)
        for key in each.items()
        if first.setdefault(key, split) != split
    }
    places: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    images: dict[tuple[str, str], set[str]] = defaultdict(set)
    for (split, sample), each in zip(members, keys, strict=True):
        for key in (key for key in each.items() if key in leaking):
            places[key].append((split, sample.id))
            images[key].add(each.get("image", ""))
    return [
        Leak(kind, tuple(at))
        for (kind, key), at in places.items()
        if not (kind == NEAR and len(images[kind, key]) == 1)
    ]


def leak_message(leaks: Sequence[Leak]) -> str:
    """Say how many leaks there are, and the first few."""
    shown = "; ".join(str(leak) for leak in leaks[:SHOWN_LEAKS])
    more = f"; and {len(leaks) - SHOWN_LEAKS} more" if len(leaks) > SHOWN_LEAKS else ""
    return f"{len(leaks)} leak(s) between splits: {shown}{more}"


def divide(
    samples: Sequence[Sample],
    ratios: Mapping[str, float],
    seed: int,
    *,
    keep_together: bool = True,
    near: int | None = None,
    stratify: Sequence[Feature] = (),
) -> dict[str, list[Sample]]:
    """Divide samples at random by ratios.

    The same samples give the same splits in whatever order they come: groups are ordered by a hash of the seed and
    their content. A group goes to the split in which its middle falls, so that sizes are off by at most half a group.
    With `stratify`, groups are then moved as long as that makes the splits more alike.

    Args:
        samples: Each with an id of its own.
        ratios: Split to share; they are scaled to sum to one.
        seed: Another seed is another division.
        keep_together: Whether samples that share an image or a text go to the same split.
        near: As in `shared_keys`, where samples are kept together.
        stratify: Of what each split is to have its share.

    Raises:
        DataError: Two samples have the same id, a split gets nothing, or an image cannot be read.
    """
    doubles = [each for each, times in Counter(sample.id for sample in samples).items() if times > 1]
    if doubles:
        raise DataError(f"{len(doubles)} id(s) stand twice, such as {doubles[0]!r}; give each sample its own")
    groups = _groups(samples, near) if keep_together else [[sample] for sample in samples]
    groups.sort(key=lambda group: _rank(seed, min(sample.id for sample in group)))
    total = sum(ratios.values())
    shares = [share / total for share in ratios.values()]
    places = _by_middle([len(group) for group in groups], shares)
    if stratify:
        counts = [Counter(each for sample in group for each in strata(sample, stratify)) for group in groups]
        places = evened(counts, places, shares)
    divided: dict[str, list[Sample]] = {split: [] for split in ratios}
    for group, place in zip(groups, places, strict=True):
        divided[list(ratios)[place]] += group
    empty = [split for split, members in divided.items() if not members]
    if empty:
        raise DataError(f"too few samples ({len(samples)}) for the split {', '.join(empty)}; change the ratios")
    return {split: sorted(members, key=lambda sample: _rank(seed, sample.id)) for split, members in divided.items()}


def divide_by(chosen: Ratios, samples: Sequence[Sample], near: int | None) -> dict[str, list[Sample]]:
    """Divide samples as a spec has it; see `divide`."""
    return divide(
        samples,
        chosen.ratios,
        chosen.seed,
        keep_together=chosen.group_by == "content",
        near=near,
        stratify=chosen.stratify,
    )


def _by_middle(sizes: Sequence[int], shares: Sequence[float]) -> list[int]:
    """The split of each group, as an index: that in which its middle falls when all stand in a row."""
    ends = [sum(shares[: index + 1]) * sum(sizes) for index in range(len(shares))]
    starts = accumulate(sizes, initial=0)
    middles = [start + size / 2 for start, size in zip(starts, sizes, strict=False)]
    return [next((at for at, end in enumerate(ends) if middle <= end), len(ends) - 1) for middle in middles]


def _rank(seed: int, key: str) -> str:
    return hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()


def _groups(samples: Sequence[Sample], near: int | None) -> list[list[Sample]]:
    """Gather samples that share a text or an image, directly or over others between them."""
    parent = list(range(len(samples)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[tuple[str, str], int] = {}
    for index, keys in enumerate(shared_keys(samples, near)):
        for key in keys.items():
            parent[root(index)] = root(first.setdefault(key, index))
    groups: dict[int, list[Sample]] = defaultdict(list)
    for index, sample in enumerate(samples):
        groups[root(index)].append(sample)
    return list(groups.values())
