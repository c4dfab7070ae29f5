"""Precision, recall and F1 of label-entity pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from plugins.metric.micro import micro_scores, set_counts
from runner.records import Answer
from runner.stages import Options


class NerF1Options(Options):
    """Micro-averaged scores of label-entity pairs; nothing to choose, so that results compare."""


class NerF1:
    """Precision, recall and F1, micro over the corpus; a pair is right when label and text agree."""

    names: Sequence[str] = ("ner_precision", "ner_recall", "ner_f1")

    def __init__(self, options: NerF1Options) -> None:
        """Nothing to prepare."""

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """Count the pairs that were predicted, that are right, and that are both."""
        if reference.pairs is None:
            return None
        return set_counts(prediction.pairs or frozenset(), reference.pairs)

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """Add up the counts of all samples, then divide."""
        return dict(zip(self.names, micro_scores(counts), strict=True)) if counts else dict.fromkeys(self.names)
