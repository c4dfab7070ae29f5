"""BLEU between summaries, as NLTK counts it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from plugins.metric.bleu_options import BleuOptions
from runner.records import Answer


class Bleu:
    """The mean sentence BLEU-4 over white-space tokens (Papineni et al. 2002).

    Smoothed by method 1 of Chen and Cherry (2014): an n-gram order without a match counts 0.1 matches.
    """

    names = BleuOptions.figures

    def __init__(self, options: BleuOptions) -> None:
        """Prepare the smoothing."""
        self._smoothing = SmoothingFunction().method1

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """Give the BLEU of one summary, 0 to 1; an empty one has 0."""
        if reference.summary is None:
            return None
        tokens = (prediction.summary or "").split()
        if not tokens:
            return {"bleu": 0.0}
        right = [reference.summary.split()]
        return {"bleu": float(sentence_bleu(right, tokens, smoothing_function=self._smoothing))}

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """Average over the samples."""
        return {"bleu": fmean(each["bleu"] for each in counts) if counts else None}
