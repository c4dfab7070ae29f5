"""Precision, recall and F1 of entities, whatever their label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from plugins.metric.micro import micro_scores, set_counts
from runner.records import Answer
from runner.stages import Options


class EntityF1Options(Options):
    """Micro-averaged scores of entities without their labels; nothing to choose, so that results compare."""


class EntityF1:
    """As `ner_f1`, but an entity is right when its text is; one that stands under two labels counts once."""

    names: Sequence[str] = ("entity_precision", "entity_recall", "entity_f1")

    def __init__(self, options: EntityF1Options) -> None:
        """Nothing to prepare."""

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """Count the entities that were predicted, that are right, and that are both."""
        if reference.pairs is None:
            return None
        return set_counts({entity for _, entity in prediction.pairs or ()}, {entity for _, entity in reference.pairs})

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """Add up the counts of all samples, then divide."""
        return dict(zip(self.names, micro_scores(counts), strict=True)) if counts else dict.fromkeys(self.names)
