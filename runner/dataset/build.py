"""Builds a data set: import from a published corpus, crop, split, publish."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from runner.dataset.crop import Cropped, crop_tweet, store_images
from runner.dataset.publish import UnfinishedDataset, alone, publishing, write_rows
from runner.dataset.split import divide_by, find_leaks, leak_message
from runner.errors import DataError
from runner.fingerprint import identity
from runner.plan import implement
from runner.records import Sample
from runner.spec.dataset_spec import DatasetSpec, Ratios
from runner.stages import LeftOut, Reporter, SourceTweet

SHOWN_IMAGES = 5


@dataclass(frozen=True)
class Built:
    """A data set that was built.

    Attributes:
        path: Its folder.
        fingerprint: Over its content.
        num_samples: By split.
        statistics: As in its `dataset.json`.
        left_out: Reason to how many entries were left out for it; each is listed in `left_out.jsonl`.
    """

    path: Path
    fingerprint: str
    num_samples: Mapping[str, int]
    statistics: Mapping[str, Any]
    left_out: Mapping[str, int]

    def as_json(self) -> dict[str, Any]:
        """The result as docs/interface.md's `build --json` holds it."""
        return {
            "path": str(self.path),
            "fingerprint": self.fingerprint,
            "num_samples": dict(self.num_samples),
            "statistics": dict(self.statistics),
            "left_out": dict(self.left_out),
        }


def build_dataset(spec: DatasetSpec, reporter: Reporter) -> Built:
    """Build the data set of a spec, whole or not at all.

    Raises:
        DataError: The corpus or its images cannot be used, or the splits leak.
    """
    source = implement(spec.source)
    entries = list(source.read())
    tweets = [entry for entry in entries if isinstance(entry, SourceTweet)]
    left_out = [entry for entry in entries if isinstance(entry, LeftOut)]
    with alone(spec.output), publishing(spec.output) as unfinished:
        cropped = _crop(tweets, unfinished, spec.crop.min_side, reporter)
        left_out += [entry for each in cropped for entry in each.left_out]
        if spec.crop.unusable_images == "refuse":
            _refuse_unusable(cropped)
        splits = _split(spec, tweets, cropped)
        _check_leaks(spec, splits, reporter)
        provenance = {"source": source.name, "spec": _provenance(spec)}
        description = unfinished.describe(spec.name, source.labels, splits, provenance)
        write_rows(unfinished.path / "left_out.jsonl", ({"id": each.id, "reason": each.reason} for each in left_out))
    reasons = Counter(_kind(entry.reason) for entry in left_out)
    return Built(
        spec.output,
        description["fingerprint"],
        description["num_samples"],
        description["statistics"],
        dict(reasons.most_common()),
    )


def _crop(
    tweets: Sequence[SourceTweet], unfinished: UnfinishedDataset, min_side: int, reporter: Reporter
) -> list[Cropped]:
    """Cut all segments, on all cores: Pillow lets go of Python's lock while it decodes and encodes."""
    cropped = []
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # Of damaged metadata, say: what matters is whether there is a picture.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for done, each in enumerate(pool.map(lambda tweet: crop_tweet(tweet, unfinished, min_side), tweets), start=1):
            cropped.append(each)
            reporter.progress(done, len(tweets))
        pairs = [
            (tweet.sample.image, each.sample.image)
            for tweet, each in zip(tweets, cropped, strict=True)
            if each.sample is not None and tweet.sample.image is not None and each.sample.image is not None
        ]
        store_images(pairs)
    return cropped


def _refuse_unusable(cropped: Sequence[Cropped]) -> None:
    unusable = [each.left_out[-1] for each in cropped if each.unusable]
    if unusable:
        shown = "; ".join(f"{each.id}: {each.reason}" for each in unusable[:SHOWN_IMAGES])
        more = f"; and {len(unusable) - SHOWN_IMAGES} more" if len(unusable) > SHOWN_IMAGES else ""
        raise DataError(
            f"the images of {len(unusable)} tweet(s) cannot be used: {shown}{more}. Mend them, or leave their tweets "
            "out, all listed in left_out.jsonl, with crop.unusable_images: skip"
        )


def _split(
    spec: DatasetSpec, tweets: Sequence[SourceTweet], cropped: Sequence[Cropped]
) -> Mapping[str, Sequence[Sample]]:
    kept = [(tweet.split, each.sample) for tweet, each in zip(tweets, cropped, strict=True) if each.sample is not None]
    if not kept:
        raise DataError("no sample is left; look at the source's paths and at crop.unusable_images")
    if isinstance(spec.split, Ratios):
        samples = [sample for _, sample in kept]
        return divide_by(spec.split, samples, spec.near_images)
    splits: dict[str, list[Sample]] = {}
    for split, sample in kept:
        splits.setdefault(split, []).append(sample)
    return splits


def _check_leaks(spec: DatasetSpec, splits: Mapping[str, Sequence[Sample]], reporter: Reporter) -> None:
    leaks = find_leaks(splits, spec.near_images)
    if leaks and spec.leaks == "warn":
        reporter.warn(leak_message(leaks))
    elif leaks:
        raise DataError(
            f"{leak_message(leaks)}. Divide by ratios, which keeps what is shared together, or accept them with "
            "leaks: warn"
        )


def _provenance(spec: DatasetSpec) -> dict[str, Any]:
    """The spec as written out, less the places on this machine."""
    told = {key: value for key, value in spec.as_json().items() if key != "output"}
    return {**told, "source": {"type": spec.source.type, **identity(spec.source.options)}}


def _kind(reason: str) -> str:
    """A reason without the particulars that follow its colon."""
    return reason.partition(":")[0]
