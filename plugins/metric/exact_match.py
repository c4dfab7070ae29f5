"""How many samples are right in whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from runner.records import Answer
from runner.stages import Options


class ExactMatchOptions(Options):
    """Share of samples that are right in whole; nothing to choose, so that results compare."""


class ExactMatch:
    """The share of samples with all pairs and all segments right and nothing besides, of what was asked for.

    A summary has many right wordings, so it does not count.
    """

    names: Sequence[str] = ("exact_match",)

    def __init__(self, options: ExactMatchOptions) -> None:
        """Nothing to prepare."""

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """Give 1 to a sample that is right in whole, else 0."""
        if reference.pairs is None and reference.mapping is None:
            return None
        pairs = reference.pairs is None or (prediction.pairs or frozenset()) == reference.pairs
        mapping = reference.mapping is None or dict(prediction.mapping or {}) == dict(reference.mapping)
        return {"exact": float(pairs and mapping)}

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """Average over the samples."""
        return {"exact_match": fmean(each["exact"] for each in counts) if counts else None}
