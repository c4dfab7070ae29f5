"""Precision, recall and F1 of label-entity pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runner.records import Answer
from runner.stages import Options


class NerF1Options(Options):
    """Micro-averaged scores of label-entity pairs; nothing to choose, so that results compare."""


class NerF1:
    """Precision, recall and F1 = 2PR/(P+R), micro over the corpus; a pair is right when label and text agree.

    With no pair on either side all three are 1, with none on one side 0.
    """

    names: Sequence[str] = ("ner_precision", "ner_recall", "ner_f1")

    def __init__(self, options: NerF1Options) -> None:
        """Nothing to prepare."""

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """Count the pairs that were predicted, that are right, and that are both."""
        if reference.pairs is None:
            return None
        predicted = prediction.pairs or frozenset()
        return {
            "predicted": len(predicted),
            "reference": len(reference.pairs),
            "matched": len(predicted & reference.pairs),
        }

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """Add up the counts of all samples, then divide."""
        if not counts:
            return dict.fromkeys(self.names)
        predicted, reference, matched = (
            sum(each[kind] for each in counts) for kind in ("predicted", "reference", "matched")
        )
        if not predicted and not reference:
            return dict.fromkeys(self.names, 1.0)
        precision = matched / predicted if predicted else 0.0
        recall = matched / reference if reference else 0.0
        f1 = 2 * precision * recall / (precision + recall) if matched else 0.0
        return {"ner_precision": precision, "ner_recall": recall, "ner_f1": f1}
