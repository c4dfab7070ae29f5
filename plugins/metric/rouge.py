"""ROUGE between summaries, as Google's rouge-score counts it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from statistics import fmean

from rouge_score.rouge_scorer import RougeScorer

from plugins.metric.rouge_options import RougeOptions
from runner.records import Answer

REMEMBERED = 50_000
"""Pairs of summaries whose figures are kept, more than the test split of any data set that we know."""


class Rouge:
    """The mean F-measure of ROUGE-1, ROUGE-2 and ROUGE-L with Porter's stemmer (Lin 2004)."""

    names = RougeOptions.figures

    def __init__(self, options: RougeOptions) -> None:
        """Prepare the scorer, with a memory: all ways of reading an answer find the same summary."""
        scorer = RougeScorer(list(self.names), use_stemmer=True)
        self._measure = lru_cache(maxsize=REMEMBERED)(scorer.score)

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """Give the F-measures of one summary, 0 to 1; an empty one has 0."""
        if reference.summary is None:
            return None
        measured = self._measure(reference.summary, prediction.summary or "")
        return {name: float(measured[name].fmeasure) for name in self.names}

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """Average over the samples."""
        return {name: fmean(each[name] for each in counts) if counts else None for name in self.names}
