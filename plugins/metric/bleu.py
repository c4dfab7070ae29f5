"""BLEU of the summaries, by NLTK."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from plugins.metric.bleu_options import BleuOptions
from runner.records import Answer


class Bleu:
    """Mean sentence BLEU over white-space tokens, with smoothing method 1 of Chen and Cherry (2014)."""

    names = ("bleu",)

    def __init__(self, options: BleuOptions) -> None:
        """Take the options."""
        self._weights = (1 / options.order,) * options.order
        self._smoothing = SmoothingFunction().method1

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """The BLEU of one summary, between 0 and 1; 0 where nothing was predicted."""
        if reference.summary is None:
            return None
        words = (prediction.summary or "").split()
        if not words:
            return {"bleu": 0.0}
        value = sentence_bleu(
            [reference.summary.split()], words, weights=self._weights, smoothing_function=self._smoothing
        )
        return {"bleu": float(value)}

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """The mean over the samples."""
        return {"bleu": fmean(each["bleu"] for each in counts) if counts else None}
