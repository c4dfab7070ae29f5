"""Precision, recall and F1 of (entity, label, segment) triples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from plugins.metric.micro import micro_scores, set_counts
from runner.records import Answer
from runner.stages import Options

Triple = tuple[str, str, str | None]


class TripleF1Options(Options):
    """Micro-averaged scores of (entity, label, segment) triples; nothing to choose, so that results compare."""


class TripleF1:
    """The scores of grounded multimodal NER (GMNER, Yu et al., ACL 2023), with segments for its regions.

    A triple is right when entity, label and segment are. As there, an entity that no segment shows counts with
    the segment None, and finding that out is part of being right. Unlike there, where any one of an entity's
    boxes will do, an entity in several segments is a triple for each: segments are given, none overlaps by chance.
    A segment whose entity was not named under any label makes no triple.
    """

    names: Sequence[str] = ("triple_precision", "triple_recall", "triple_f1")

    def __init__(self, options: TripleF1Options) -> None:
        """Nothing to prepare."""

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """Count the triples that were predicted, that are right, and that are both."""
        if reference.pairs is None or reference.mapping is None:
            return None
        return set_counts(_triples(prediction), _triples(reference))

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """Add up the counts of all samples, then divide."""
        return dict(zip(self.names, micro_scores(counts), strict=True)) if counts else dict.fromkeys(self.names)


def _triples(answer: Answer) -> set[Triple]:
    letters: dict[str, list[str | None]] = {}
    for letter, entity in (answer.mapping or {}).items():
        letters.setdefault(entity, []).append(letter)
    return {(entity, label, letter) for label, entity in answer.pairs or () for letter in letters.get(entity, [None])}
