"""Finds samples with nearly the same image, for the messages of a build and for the review page."""

from __future__ import annotations

from collections import defaultdict

from runner.dataset.build.work_folder import WorkFolder
from runner.dataset.folder_reader import JsonlSamples
from runner.dataset.leaks import group_near_duplicates
from runner.files import stream_jsonl

MAX_LISTED = 3


def write_near_duplicates(work: WorkFolder, max_hash_distance: int | None) -> str | None:
    """Write `WorkFolder.near_duplicates`.

    Args:
        work: The work folder, with annotated samples.
        max_hash_distance: As in `runner.dataset.leaks.leak_keys`; None removes the file.

    Returns:
        How many groups there are, and the samples of the largest; None if there is no group.

    Raises:
        DataError: An image cannot be read.
    """
    if max_hash_distance is None:
        work.near_duplicates.unlink(missing_ok=True)
        return None
    image_of = {
        sample.id: sample.image for sample in JsonlSamples(work.annotated_samples, work.image_root) if sample.image
    }
    group_of = group_near_duplicates(image_of.values(), max_hash_distance)
    members: dict[int, list[str]] = defaultdict(list)
    for name, image in image_of.items():
        members[group_of[image]].append(name)
    groups = [names for names in members.values() if len({image_of[name] for name in names}) > 1]
    stream_jsonl(
        work.near_duplicates,
        (
            {"sample": name, "near": [other for other in names if image_of[other] != image_of[name]]}
            for names in groups
            for name in names
        ),
    )
    if not groups:
        return None
    largest = max(groups, key=len)
    more = f" and {len(largest) - MAX_LISTED:,} more" if len(largest) > MAX_LISTED else ""
    return (
        f"near duplicates: {len(groups):,} group(s) of {sum(map(len, groups)):,} samples; the largest has "
        f"{len(largest):,}: {', '.join(largest[:MAX_LISTED])}{more}. runner review shows the images"
    )
