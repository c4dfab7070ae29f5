"""Statistics of a data set: the paper's Table 1, and spreads of texts, entities and segments."""

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

SPREAD = ("max", "min", "median", "mean")
"""The figures of a spread, in the paper's order."""

PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "Twitter GMNER": {
        "counts": {"samples": 5533},
        "spreads": {
            "summary_characters": {"max": 573, "min": 40, "median": 317, "mean": 318},
            "summary_words": {"max": 97, "min": 10, "median": 54, "mean": 53},
        },
    }
}
"""By the source that a data set's provenance names: what M-MRE's paper (arXiv 2504.17353) says of its data set."""


def spread(values: Sequence[int]) -> dict[str, float] | None:
    """The figures of a spread, by the names of `SPREAD`; None of no values."""
    if not values:
        return None
    figures = (max(values), min(values), median(values), round(fmean(values), 2))
    return dict(zip(SPREAD, figures, strict=True))


def values_of(samples: Iterable[Sample]) -> dict[str, list[int]]:
    """List what can be measured without pictures, a value a sample; of summaries where there is one.

    Words stand between white space.
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


def entities_by_label(samples: Iterable[Sample]) -> dict[str, int]:
    """Count the entities that texts name, by label; a pair that stands twice counts twice."""
    return dict(sorted(Counter(each.label for sample in samples for each in sample.entities).items()))


def statistics(*splits: Sequence[Sample]) -> dict[str, Any]:
    """The figures that stand in `dataset.json`, of all splits together; samples are read twice, one at a time."""
    values = values_of(chain.from_iterable(splits))
    spreads = {name: spread(each) for name, each in values.items()}
    written = {
        name: {"characters": spreads[f"{name}_characters"], "words": spreads[f"{name}_words"]}
        for name in ("summary", "text")
    }
    return {
        **{name: figures if figures["words"] else None for name, figures in written.items()},
        "entities": entities_by_label(chain.from_iterable(splits)),
        "entities_per_sample": spreads["entities"],
        "segments": sum(values["segments"]),
        "segments_per_sample": spreads["segments"],
    }


@dataclass(frozen=True)
class DatasetStatistics:
    """A data set in figures.

    Attributes:
        name: The data set's.
        path: Its folder.
        fingerprint: As its `dataset.json` says.
        labels: In their order.
        counts: By split: what is counted to how many there are.
        total: The same of the whole data set; an image that splits share counts once.
        values: What is measured to a value a sample, a picture or a segment, in no order.
        published: What the paper says of this data set; None of any other.
        model: Whose tokens are counted; None where none was named.
        estimated: Whether tokens of text are worked out from characters, for want of the tokenizer.
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
        """What is measured to `max`, `min`, `median` and `mean`; without what there is nothing of."""
        found = {name: spread(values) for name, values in self.values.items()}
        return {name: each for name, each in found.items() if each is not None}

    def as_json(self) -> dict[str, Any]:
        """The figures as docs/interface.md's `stats --json` holds them."""
        return {
            "name": self.name,
            "path": str(self.path),
            "fingerprint": self.fingerprint,
            "labels": list(self.labels),
            "counts": {split: dict(each) for split, each in self.counts.items()},
            "total": dict(self.total),
            "spreads": self.spreads,
            "published": self.published,
            "model": self.model,
            "estimated": self.estimated,
        }
