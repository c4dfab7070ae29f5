"""ROUGE between summaries, as Google's rouge-score counts it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from statistics import fmean

from plugins.metric.nltk_alone import PorterStemmer, RougeScorer, fmeasure, tokenize
from plugins.metric.rouge_options import RougeOptions
from runner.records import Answer

REMEMBERED = 50_000
"""Pairs of summaries whose figures are kept, more than the test split of any data set that we know."""


class Rouge:
    """The mean F-measure of ROUGE-1, ROUGE-2 and ROUGE-L with Porter's stemmer (Lin 2004)."""

    names = RougeOptions.figures

    def __init__(self, options: RougeOptions) -> None:
        """Prepare the scorer, with a memory: all ways of reading an answer find the same summary."""
        self._tokens = _StemmedTokens()
        self._overlaps = RougeScorer(["rouge1", "rouge2"], tokenizer=self._tokens)
        self._measure = lru_cache(maxsize=REMEMBERED)(self._measured)

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """Give the F-measures of one summary, 0 to 1; an empty one has 0."""
        if reference.summary is None:
            return None
        return self._measure(reference.summary, prediction.summary or "")

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """Average over the samples."""
        return {name: fmean(each[name] for each in counts) if counts else None for name in self.names}

    def _measured(self, reference: str, prediction: str) -> dict[str, float]:
        overlaps = self._overlaps.score(reference, prediction)
        right, told = self._tokens.tokenize(reference), self._tokens.tokenize(prediction)
        # rouge-score fills a table in Python for the same length, which takes most of its time.
        common = common_subsequence(right, told)
        longest = fmeasure(common / len(told), common / len(right)) if common else 0.0
        return {
            "rouge1": float(overlaps["rouge1"].fmeasure),
            "rouge2": float(overlaps["rouge2"].fmeasure),
            "rougeL": float(longest),
        }


class _StemmedTokens:
    """rouge-score's tokens, each word stemmed once: a tokenizer as `RougeScorer` takes one."""

    def __init__(self) -> None:
        self._stemmer = PorterStemmer()
        self.stem = lru_cache(maxsize=REMEMBERED)(self._stemmer.stem)
        self.tokenize = lru_cache(maxsize=REMEMBERED)(lambda text: tokenize(text, self))


def common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the longest common subsequence of two sequences.

    A row of the usual table is a number of as many bits as `one` is long, 0 where the row grows (Hyyrö, "Bit-parallel
    LCS-length computation revisited", 2004).
    """
    places: dict[str, int] = {}
    for at, token in enumerate(one):
        places[token] = places.get(token, 0) | 1 << at
    every = (1 << len(one)) - 1
    row = every
    for token in other:
        matched = row & places.get(token, 0)
        row = (row + matched | row - matched) & every
    return len(one) - row.bit_count()
