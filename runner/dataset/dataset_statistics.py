"""Statistics of a data set: the paper's Table 1, and distributions of texts, entities and segments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from statistics import fmean, median
from typing import Any

from runner.records import Sample

STATISTIC_NAMES = ("max", "min", "median", "mean")
"""The statistics of a distribution, in the paper's order."""

PUBLISHED_STATISTICS: Mapping[str, Mapping[str, Any]] = {
    "Twitter GMNER": {
        "counts": {"samples": 5533},
        "spreads": {
            "summary_characters": {"max": 573, "min": 40, "median": 317, "mean": 318},
            "summary_words": {"max": 97, "min": 10, "median": 54, "mean": 53},
        },
    }
}
"""The statistics that M-MRE's paper (arXiv 2504.17353) reports, by the source named in a data set's provenance."""


def describe_values(values: Sequence[int]) -> dict[str, float] | None:
    """Compute the statistics of `STATISTIC_NAMES`; None if there are no values."""
    if not values:
        return None
    statistics = (max(values), min(values), median(values), round(fmean(values), 2))
    return dict(zip(STATISTIC_NAMES, statistics, strict=True))


def measure_samples(samples: Iterable[Sample]) -> dict[str, list[int]]:
    """Measure what needs no images: lengths of texts and summaries, and numbers of entities and segments.

    Words are separated by white space.

    Returns:
        One value per sample by quantity; samples without a summary have none of the summary's values.
    """
    values: dict[str, list[int]] = {
        name: []
        for name in ("summary_characters", "summary_words", "text_characters", "text_words", "entities", "segments")
    }
    for sample in samples:
        for name, text in (("summary", sample.summary), ("text", sample.text)):
            if text is not None:
                values[f"{name}_characters"].append(len(text))
                values[f"{name}_words"].append(len(text.split()))
        values["entities"].append(len(sample.entities))
        values["segments"].append(len(sample.segments))
    return values


def count_entities_by_label(samples: Iterable[Sample]) -> dict[str, int]:
    """Count the entities of the texts by label; repeated pairs of label and text are all counted."""
    return dict(sorted(Counter(entity.label for sample in samples for entity in sample.entities).items()))


def compute_statistics(*splits: Sequence[Sample]) -> dict[str, Any]:
    """Compute the statistics in `dataset.json`, over all splits together.

    Samples are read twice, one at a time.
    """
    values = measure_samples(chain.from_iterable(splits))
    spreads = {name: describe_values(measured) for name, measured in values.items()}
    lengths = {
        name: {"characters": spreads[f"{name}_characters"], "words": spreads[f"{name}_words"]}
        for name in ("summary", "text")
    }
    return {
        **{name: spread if spread["words"] else None for name, spread in lengths.items()},
        "entities": count_entities_by_label(chain.from_iterable(splits)),
        "entities_per_sample": spreads["entities"],
        "segments": sum(values["segments"]),
        "segments_per_sample": spreads["segments"],
    }


@dataclass(frozen=True)
class DatasetStatistics:
    """Statistics of a data set.

    Attributes:
        name: The name of the data set.
        path: Its folder.
        fingerprint: The fingerprint in its `dataset.json`.
        labels: The entity labels, in order.
        counts: By split: the number of items of each kind.
        total: The same for the whole data set; an image that splits share is counted once.
        values: By quantity: one value per sample, image or segment, in no particular order.
        published: The statistics that the paper reports for this data set; None for any other.
        model: The model whose tokens are counted; None if no model was named.
        estimated: Whether text tokens are estimated from characters because the tokenizer is not available.
    """

    name: str
    path: Path
    fingerprint: str | None
    labels: Sequence[str]
    counts: Mapping[str, Mapping[str, int]]
    total: Mapping[str, int]
    values: Mapping[str, Sequence[int]]
    published: Mapping[str, Any] | None
    model: str | None = None
    estimated: bool = False

    @cached_property
    def spreads(self) -> dict[str, dict[str, float]]:
        """By quantity: `max`, `min`, `median` and `mean`; quantities without values are omitted."""
        spreads = {name: describe_values(values) for name, values in self.values.items()}
        return {name: spread for name, spread in spreads.items() if spread is not None}

    def as_json(self) -> dict[str, Any]:
        """Return the JSON form of `stats --json`; see docs/interface.md."""
        return {
            "name": self.name,
            "path": str(self.path),
            "fingerprint": self.fingerprint,
            "labels": list(self.labels),
            "counts": {split: dict(counts) for split, counts in self.counts.items()},
            "total": dict(self.total),
            "spreads": self.spreads,
            "published": self.published,
            "model": self.model,
            "estimated": self.estimated,
        }
