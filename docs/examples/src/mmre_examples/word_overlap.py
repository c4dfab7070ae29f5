"""An example metric: the share of words that a caption and its reference have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runner.records import Answer
from runner.stages import Options


class WordOverlapOptions(Options):
    """Mean Jaccard index of the words in caption and reference."""

    ignore_case: bool = True
    """Whether `Cat` and `cat` count as the same word."""


class WordOverlap:
    """The plugin `word_overlap` of the stage `metric`."""

    metric_names = ("word_overlap",)

    def __init__(self, options: WordOverlapOptions) -> None:
        """Store the options of the section."""
        self._options = options

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """Compute the overlap of one caption; None if there is no reference."""
        if reference.summary is None:
            return None
        predicted, expected = self._words(prediction.summary or ""), self._words(reference.summary)
        union = predicted | expected
        return {"overlap": len(predicted & expected) / len(union) if union else 1.0}

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """Average over the samples; None without samples."""
        return {"word_overlap": sum(sample["overlap"] for sample in counts) / len(counts) if counts else None}

    def _words(self, text: str) -> set[str]:
        return set((text.lower() if self._options.ignore_case else text).split())
