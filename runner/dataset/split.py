"""Divides samples among splits so that nothing of one is seen in another, and finds where something is."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runner.dataset.folder import image_digest
from runner.errors import DataError
from runner.records import Sample

SHOWN_LEAKS = 3


@dataclass(frozen=True)
class Leak:
    """Something that stands in more than one split.

    Attributes:
        kind: `id`, `text` or `image`.
        places: Split and sample id of each that shares it.
    """

    kind: str
    places: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        """Such as `the same text: train/12 and test/7`."""
        return f"the same {self.kind}: " + " and ".join(f"{split}/{each}" for split, each in self.places)


def content_keys(sample: Sample) -> dict[str, str]:
    """What must not be shared between splits, by kind: id, text without case and spacing, the image's bytes."""
    keys = {"id": sample.id, "text": " ".join(sample.text.casefold().split())}
    digest = image_digest(sample.image)
    return keys | ({"image": digest} if digest else {})


def find_leaks(splits: Mapping[str, Sequence[Sample]]) -> list[Leak]:
    """List what stands in more than one split."""
    places: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for split, samples in splits.items():
        for sample in samples:
            for key in content_keys(sample).items():
                places[key].append((split, sample.id))
    return [Leak(kind, tuple(at)) for (kind, _), at in places.items() if len({split for split, _ in at}) > 1]


def leak_message(leaks: Sequence[Leak]) -> str:
    """Say how many leaks there are, and the first few."""
    shown = "; ".join(str(leak) for leak in leaks[:SHOWN_LEAKS])
    more = f"; and {len(leaks) - SHOWN_LEAKS} more" if len(leaks) > SHOWN_LEAKS else ""
    return f"{len(leaks)} leak(s) between splits: {shown}{more}"


def divide(
    samples: Sequence[Sample], ratios: Mapping[str, float], seed: int, *, keep_together: bool = True
) -> dict[str, list[Sample]]:
    """Divide samples at random by ratios.

    The same samples give the same splits in whatever order they come: groups are ordered by a hash of the seed and
    their content. A group goes to the split in which its middle falls, so that sizes are off by at most half a group.

    Args:
        samples: Each with an id of its own.
        ratios: Split to share; they are scaled to sum to one.
        seed: Another seed is another division.
        keep_together: Whether samples that share an image or a text go to the same split.

    Raises:
        DataError: Two samples have the same id, or a split gets nothing.
    """
    doubles = [each for each, times in Counter(sample.id for sample in samples).items() if times > 1]
    if doubles:
        raise DataError(f"{len(doubles)} id(s) stand twice, such as {doubles[0]!r}; give each sample its own")
    groups = _groups(samples) if keep_together else [[sample] for sample in samples]
    groups.sort(key=lambda group: _rank(seed, min(sample.id for sample in group)))
    total = sum(ratios.values())
    ends = [sum(list(ratios.values())[: index + 1]) / total * len(samples) for index in range(len(ratios))]
    chosen: dict[str, set[str]] = {split: set() for split in ratios}
    names, placed = list(ratios), 0
    for group in groups:
        middle = placed + len(group) / 2
        split = next((name for name, end in zip(names, ends, strict=True) if middle <= end), names[-1])
        chosen[split] |= {sample.id for sample in group}
        placed += len(group)
    divided = {split: [sample for sample in samples if sample.id in ids] for split, ids in chosen.items()}
    empty = [split for split, members in divided.items() if not members]
    if empty:
        raise DataError(f"too few samples ({len(samples)}) for the split {', '.join(empty)}; change the ratios")
    return {split: sorted(members, key=lambda sample: _rank(seed, sample.id)) for split, members in divided.items()}


def _rank(seed: int, key: str) -> str:
    return hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()


def _groups(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Gather samples that share a text or an image, directly or over others between them."""
    parent = list(range(len(samples)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[tuple[str, str], int] = {}
    for index, sample in enumerate(samples):
        for key in content_keys(sample).items():
            parent[root(index)] = root(first.setdefault(key, index))
    groups: dict[int, list[Sample]] = defaultdict(list)
    for index, sample in enumerate(samples):
        groups[root(index)].append(sample)
    return list(groups.values())
