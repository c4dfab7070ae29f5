"""ROUGE of the summaries, by rouge-score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from rouge_score.rouge_scorer import RougeScorer

from plugins.metric.rouge_options import RougeOptions
from runner.records import Answer


class Rouge:
    """Mean F-measure of ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004) over the samples."""

    names = ("rouge1", "rouge2", "rougeL")

    def __init__(self, options: RougeOptions) -> None:
        """Take the options."""
        self._scorer = RougeScorer(list(self.names), use_stemmer=options.stemmer)

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """The F-measures of one summary, between 0 and 1."""
        if reference.summary is None:
            return None
        scores = self._scorer.score(reference.summary, prediction.summary or "")
        return {name: float(scores[name].fmeasure) for name in self.names}

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """The means over the samples."""
        return {name: fmean(each[name] for each in counts) if counts else None for name in self.names}
