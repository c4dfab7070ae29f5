"""Metrics of extraction: F1 of entities, pairs and triples; accuracy of segments and of whole samples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from statistics import fmean
from typing import Any

from runner.records import Answer
from runner.stages import Options


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


class NerF1ByLabelOptions(Options):
    """F1 of each label, and their mean; nothing to choose, so that results compare."""


class NerF1ByLabel:
    """`ner_f1/<label>` for each label that the references hold, over the corpus, and `ner_f1_macro`, their mean.

    What is measured follows from the references alone, so two models have the same figures: pairs under a label
    that no reference holds lower `ner_f1` only. Without any pair in the references the mean is None.
    """

    names: Sequence[str] = ("ner_f1_macro",)

    def __init__(self, options: NerF1ByLabelOptions) -> None:
        """Nothing to prepare."""

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """Count a sample's pairs by label: `<label>/predicted`, `<label>/reference`, `<label>/matched`."""
        if reference.pairs is None:
            return None
        predicted = prediction.pairs or frozenset()
        labels = sorted({label for label, _ in predicted | reference.pairs})
        return {
            f"{label}/{kind}": number
            for label in labels
            for kind, number in set_counts(_of(label, predicted), _of(label, reference.pairs)).items()
        }

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """Add up the counts of all samples by label, divide, then average over the labels."""
        by_label: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for name, number in (item for each in counts for item in each.items()):
            label, _, kind = name.rpartition("/")
            by_label[label][kind] += number
        scores = {label: micro_scores([total])[2] for label, total in sorted(by_label.items()) if total["reference"]}
        return {
            "ner_f1_macro": fmean(scores.values()) if scores else None,
            **{f"ner_f1/{label}": score for label, score in scores.items()},
        }


def _of(label: str, pairs: frozenset[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    return frozenset(pair for pair in pairs if pair[0] == label)


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


class ExactMatchOptions(Options):
    """Share of samples that are right in whole; nothing to choose, so that results compare."""


class ExactMatch:
    """The share of samples with all pairs and all segments right and nothing besides, of what was asked for.

    A summary has many right wordings, so it does not count.
    """

    names: Sequence[str] = ("exact_match",)

    def __init__(self, options: ExactMatchOptions) -> None:
        """Nothing to prepare."""

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """Give 1 to a sample that is right in whole, else 0."""
        if reference.pairs is None and reference.mapping is None:
            return None
        pairs = reference.pairs is None or (prediction.pairs or frozenset()) == reference.pairs
        mapping = reference.mapping is None or dict(prediction.mapping or {}) == dict(reference.mapping)
        return {"exact": float(pairs and mapping)}

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """Average over the samples."""
        return {"exact_match": fmean(each["exact"] for each in counts) if counts else None}
