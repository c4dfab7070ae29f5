"""Precision, recall and F1 over a corpus, from sets that are compared a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any


def set_counts(predicted: AbstractSet[Any], reference: AbstractSet[Any]) -> dict[str, float]:
    """Count what one sample predicts, what is right, and what is both."""
    return {"predicted": len(predicted), "reference": len(reference), "matched": len(predicted & reference)}


def micro_scores(counts: Sequence[Mapping[str, float]]) -> tuple[float, float, float]:
    """Add up the counts of all samples, then divide: precision, recall and F1 = 2PR/(P+R).

    With nothing on either side all three are 1, with nothing on one side 0.
    """
    predicted, reference, matched = (
        sum(each[kind] for each in counts) for kind in ("predicted", "reference", "matched")
    )
    if not predicted and not reference:
        return 1.0, 1.0, 1.0
    precision = matched / predicted if predicted else 0.0
    recall = matched / reference if reference else 0.0
    return precision, recall, 2 * precision * recall / (precision + recall) if matched else 0.0
