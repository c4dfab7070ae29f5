"""BLEU between summaries over a whole corpus, as NLTK counts it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, fsum, log

from plugins.metric.corpus_bleu_options import CorpusBleuOptions
from plugins.metric.nltk_alone import Fraction, SmoothingFunction, brevity_penalty, modified_precision
from runner.records import Answer

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
