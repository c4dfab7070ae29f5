"""BLEU between summaries, as NLTK counts it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from statistics import fmean

from plugins.metric.bleu_options import BleuOptions
from plugins.metric.nltk_alone import SmoothingFunction, sentence_bleu
from runner.records import Answer

REMEMBERED = 50_000
"""As of ROUGE."""


class Bleu:
    """The mean sentence BLEU-4 over white-space tokens (Papineni et al. 2002).

    Smoothed by method 1 of Chen and Cherry (2014): an n-gram order without a match counts 0.1 matches.
    """

    names = BleuOptions.figures

    def __init__(self, options: BleuOptions) -> None:
        """Prepare the smoothing, and a memory: all ways of reading an answer find the same summary."""
        self._smoothing = SmoothingFunction().method1
        self._measure = lru_cache(maxsize=REMEMBERED)(self._measured)

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """Give the BLEU of one summary, 0 to 1; an empty one has 0."""
        if reference.summary is None:
            return None
        return {"bleu": self._measure(reference.summary, prediction.summary or "")}

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """Average over the samples."""
        return {"bleu": fmean(each["bleu"] for each in counts) if counts else None}

    def _measured(self, reference: str, prediction: str) -> float:
        tokens = prediction.split()
        return float(sentence_bleu([reference.split()], tokens, smoothing_function=self._smoothing)) if tokens else 0.0
