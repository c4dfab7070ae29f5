"""Precision, recall and F1 of label-entity pairs, over the corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runner.records import Answer
from runner.stages import Options


class NerF1Options(Options):
    """Micro-averaged precision, recall and F1 of (label, entity) pairs, which must agree to the letter."""


class NerF1:
    """Micro-averages of exact pairs, sets a sample (contract.md, "Scores")."""

    names = ("ner_precision", "ner_recall", "ner_f1")

    def __init__(self, options: NerF1Options) -> None:
        """Nothing is to be set."""

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """Count pairs: those that are right, those predicted, those in the reference."""
        if reference.pairs is None:
            return None
        predicted = prediction.pairs or frozenset()
        return {
            "right": len(predicted & reference.pairs),
            "predicted": len(predicted),
            "reference": len(reference.pairs),
        }

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """F1 = 2PR / (P + R); 1 where no pair stands on either side, 0 where on one side only."""
        if not counts:
            return dict.fromkeys(self.names)
        right, predicted, reference = (
            sum(each[name] for each in counts) for name in ("right", "predicted", "reference")
        )
        if not predicted and not reference:
            return dict.fromkeys(self.names, 1.0)
        return {
            "ner_precision": right / predicted if predicted else 0.0,
            "ner_recall": right / reference if reference else 0.0,
            "ner_f1": 2 * right / (predicted + reference),
        }
