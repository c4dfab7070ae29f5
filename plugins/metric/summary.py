"""Metrics of summaries: ROUGE, sentence BLEU and corpus BLEU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import exp, fsum, log
from statistics import fmean

from plugins.metric.nltk_import import (
    Fraction,
    PorterStemmer,
    RougeScorer,
    SmoothingFunction,
    brevity_penalty,
    fmeasure,
    modified_precision,
    sentence_bleu,
    tokenize,
)
from plugins.metric.summary_options import BleuOptions, CorpusBleuOptions, RougeOptions
from runner.records import Answer

ROUGE_CACHE_SIZE = 50_000
"""Pairs of summaries whose figures are kept, more than the test split of any data set that we know."""


class Rouge:
    """The mean F-measure of ROUGE-1, ROUGE-2 and ROUGE-L with Porter's stemmer (Lin 2004)."""

    names = RougeOptions.figures

    def __init__(self, options: RougeOptions) -> None:
        """Prepare the scorer, with a memory: all ways of reading an answer find the same summary."""
        self._tokens = _StemmedTokens()
        self._overlaps = RougeScorer(["rouge1", "rouge2"], tokenizer=self._tokens)
        self._measure = lru_cache(maxsize=ROUGE_CACHE_SIZE)(self._measured)

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
        self.stem = lru_cache(maxsize=ROUGE_CACHE_SIZE)(self._stemmer.stem)
        self.tokenize = lru_cache(maxsize=ROUGE_CACHE_SIZE)(lambda text: tokenize(text, self))


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


BLEU_CACHE_SIZE = 50_000
"""As of ROUGE."""


class Bleu:
    """The mean sentence BLEU-4 over white-space tokens (Papineni et al. 2002).

    Smoothed by method 1 of Chen and Cherry (2014): an n-gram order without a match counts 0.1 matches.
    """

    names = BleuOptions.figures

    def __init__(self, options: BleuOptions) -> None:
        """Prepare the smoothing, and a memory: all ways of reading an answer find the same summary."""
        self._smoothing = SmoothingFunction().method1
        self._measure = lru_cache(maxsize=BLEU_CACHE_SIZE)(self._measured)

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


ORDERS = (1, 2, 3, 4)


class CorpusBleu:
    """BLEU-4 over white-space tokens, n-grams and lengths added up over the corpus (Papineni et al. 2002).

    What NLTK's `corpus_bleu` gives with smoothing method 1, which does nothing where every order has a match; it is
    made of the counts that are kept for each sample, so that samples can be drawn anew without their texts.
    """

    names = CorpusBleuOptions.figures

    def __init__(self, options: CorpusBleuOptions) -> None:
        """Prepare the smoothing."""
        self._smoothing = SmoothingFunction().method1

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """Count the words, and the n-grams of each order, all and those that match."""
        if reference.summary is None:
            return None
        tokens, right = (prediction.summary or "").split(), reference.summary.split()
        precisions = {order: modified_precision([right], tokens, order) for order in ORDERS}
        return {
            "predicted": len(tokens),
            "reference": len(right),
            **{f"matched_{order}": precision.numerator for order, precision in precisions.items()},
            **{f"ngrams_{order}": precision.denominator for order, precision in precisions.items()},
        }

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """Add up the counts of all samples; then their geometric mean, less for brevity."""
        if not counts:
            return {"corpus_bleu": None}
        total = {name: int(sum(each[name] for each in counts)) for name in counts[0]}
        if not total["matched_1"]:
            return {"corpus_bleu": 0.0}
        # NLTK's fractions stay as they are counted: the smoothing of 0/5 is not that of 0/1.
        precisions = [Fraction(total[f"matched_{order}"], total[f"ngrams_{order}"]) for order in ORDERS]
        smoothed = self._smoothing(precisions, references=None, hypothesis=None, hyp_len=total["predicted"])
        mean = exp(fsum(log(precision) for precision in smoothed) / len(ORDERS))
        return {"corpus_bleu": float(brevity_penalty(total["reference"], total["predicted"]) * mean)}
