"""How many segments were given the right entity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runner.records import Answer
from runner.stages import Options


class ImageEntityAccuracyOptions(Options):
    """Reference segments whose letter has the same entity, to the letter, over all of the corpus."""


class ImageEntityAccuracy:
    """Accuracy over the reference segments of the corpus (contract.md, "Scores")."""

    names = ("image_entity_accuracy",)

    def __init__(self, options: ImageEntityAccuracyOptions) -> None:
        """Nothing is to be set."""

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """Count segments: those that are right, those in the reference, those predicted."""
        if reference.mapping is None:
            return None
        predicted = prediction.mapping or {}
        right = sum(predicted.get(letter) == entity for letter, entity in reference.mapping.items())
        return {"right": right, "reference": len(reference.mapping), "predicted": len(predicted)}

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """Right over reference; with no reference segment at all, 1 if none was predicted either, else 0."""
        if not counts:
            return {"image_entity_accuracy": None}
        right, reference, predicted = (
            sum(each[name] for each in counts) for name in ("right", "reference", "predicted")
        )
        if not reference:
            return {"image_entity_accuracy": 0.0 if predicted else 1.0}
        return {"image_entity_accuracy": right / reference}
