"""A metric: how many words a caption shares with its reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runner.records import Answer
from runner.stages import Options


class WordOverlapOptions(Options):
    """The mean over samples of the words in both captions over the words in either (Jaccard)."""

    ignore_case: bool = True
    """Whether `Cat` and `cat` are one word."""


class WordOverlap:
    """The plugin `word_overlap` of the stage `metric`."""

    names = ("word_overlap",)

    def __init__(self, options: WordOverlapOptions) -> None:
        """Take the section's options."""
        self._options = options

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """Measure one caption; None where no caption was asked for."""
        if reference.summary is None:
            return None
        written, wanted = self._words(prediction.summary or ""), self._words(reference.summary)
        either = written | wanted
        return {"overlap": len(written & wanted) / len(either) if either else 1.0}

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """Take the mean; of no samples there is none."""
        return {"word_overlap": sum(each["overlap"] for each in counts) / len(counts) if counts else None}

    def _words(self, text: str) -> set[str]:
        return set((text.lower() if self._options.ignore_case else text).split())
