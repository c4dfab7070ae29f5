"""How many segments were given the entity that they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runner.records import Answer
from runner.stages import Options


class ImageEntityAccuracyOptions(Options):
    """Accuracy of the image-entity mapping; nothing to choose, so that results compare."""


class ImageEntityAccuracy:
    """Reference segments whose letter has the same entity in the answer, over all reference segments.

    A letter that the answer invents costs nothing. Without any reference segment the figure is None.
    """

    names: Sequence[str] = ("image_entity_accuracy",)

    def __init__(self, options: ImageEntityAccuracyOptions) -> None:
        """Nothing to prepare."""

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """Count the reference segments, and those that the answer has right."""
        if reference.mapping is None:
            return None
        predicted = prediction.mapping or {}
        matched = sum(predicted.get(letter) == entity for letter, entity in reference.mapping.items())
        return {"reference": len(reference.mapping), "matched": matched}

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """Add up the counts of all samples, then divide."""
        segments = sum(each["reference"] for each in counts)
        matched = sum(each["matched"] for each in counts)
        return {"image_entity_accuracy": matched / segments if segments else None}
