"""Extraction metrics: F1 of entities, pairs and triples; accuracy of segments and of complete samples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from statistics import fmean
from typing import Any

from runner.records import Answer
from runner.stages import Options


def set_counts(predicted: AbstractSet[Any], reference: AbstractSet[Any]) -> dict[str, float]:
    """Count the predicted elements of one sample, the reference elements, and those in both sets."""
    return {"predicted": len(predicted), "reference": len(reference), "matched": len(predicted & reference)}


def micro_scores(counts: Sequence[Mapping[str, float]]) -> tuple[float, float, float]:
    """Compute micro-averaged precision, recall and F1 = 2PR/(P+R) from the summed counts of all samples.

    All three are 1 if predictions and references are both empty, and 0 if only one of them is.
    """
    predicted, reference, matched = (
        sum(sample[kind] for sample in counts) for kind in ("predicted", "reference", "matched")
    )
    if not predicted and not reference:
        return 1.0, 1.0, 1.0
    precision = matched / predicted if predicted else 0.0
    recall = matched / reference if reference else 0.0
    return precision, recall, 2 * precision * recall / (precision + recall) if matched else 0.0


def _named_scores(names: Sequence[str], counts: Sequence[Mapping[str, float]]) -> dict[str, float | None]:
    """Return `micro_scores` by metric name; None for each metric without samples."""
    return dict(zip(names, micro_scores(counts), strict=True)) if counts else dict.fromkeys(names)


class NerF1Options(Options):
    """Micro-averaged scores of label-entity pairs. There are no options, so that results are comparable."""


class NerF1:
    """Micro-averaged precision, recall and F1 over the corpus; a pair is correct if label and text match."""

    metric_names: Sequence[str] = ("ner_precision", "ner_recall", "ner_f1")

    def __init__(self, options: NerF1Options) -> None:
        """Do nothing: there are no options."""

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """Count the predicted pairs, the reference pairs, and the matches."""
        if reference.pairs is None:
            return None
        return set_counts(prediction.pairs or frozenset(), reference.pairs)

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """Sum the counts of all samples, then divide."""
        return _named_scores(self.metric_names, counts)


class NerF1ByLabelOptions(Options):
    """F1 of each label, and the mean of these values. There are no options, so that results are comparable."""


class NerF1ByLabel:
    """`ner_f1/<label>` over the corpus for each label in the references, and `ner_f1_macro`, the mean of these.

    The references alone determine the labels, so two models have the same metrics: predicted pairs with a label that
    is in no reference lower `ner_f1` only. The mean is None if the references contain no pair.
    """

    metric_names: Sequence[str] = ("ner_f1_macro",)

    def __init__(self, options: NerF1ByLabelOptions) -> None:
        """Do nothing: there are no options."""

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """Count a sample's pairs for each label: `<label>/predicted`, `<label>/reference`, `<label>/matched`."""
        if reference.pairs is None:
            return None
        predicted = prediction.pairs or frozenset()
        labels = sorted({label for label, _ in predicted | reference.pairs})
        return {
            f"{label}/{kind}": count
            for label in labels
            for kind, count in set_counts(_with_label(label, predicted), _with_label(label, reference.pairs)).items()
        }

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """Sum the counts of all samples for each label, divide, then average over the labels."""
        by_label: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for name, count in (item for sample in counts for item in sample.items()):
            label, _, kind = name.rpartition("/")
            by_label[label][kind] += count
        scores = {label: micro_scores([total])[2] for label, total in sorted(by_label.items()) if total["reference"]}
        return {
            "ner_f1_macro": fmean(scores.values()) if scores else None,
            **{f"ner_f1/{label}": score for label, score in scores.items()},
        }


def _with_label(label: str, pairs: frozenset[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    return frozenset(pair for pair in pairs if pair[0] == label)


class EntityF1Options(Options):
    """Micro-averaged scores of entities without their labels. There are no options, so that results are comparable."""


class EntityF1:
    """As `ner_f1`, but ignores labels: an entity is correct if its text matches, and counts once under two labels."""

    metric_names: Sequence[str] = ("entity_precision", "entity_recall", "entity_f1")

    def __init__(self, options: EntityF1Options) -> None:
        """Do nothing: there are no options."""

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """Count the predicted entities, the reference entities, and the matches."""
        if reference.pairs is None:
            return None
        return set_counts({entity for _, entity in prediction.pairs or ()}, {entity for _, entity in reference.pairs})

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """Sum the counts of all samples, then divide."""
        return _named_scores(self.metric_names, counts)


Triple = tuple[str, str, str | None]


class TripleF1Options(Options):
    """Micro-averaged scores of entity-label-segment triples. There are no options, so that results are comparable."""


class TripleF1:
    """The metrics of grounded multimodal NER (GMNER, Yu et al., ACL 2023), with segments in place of regions.

    A triple is correct if entity, label and segment match. As in GMNER, an entity that no segment shows has the segment
    None, and the prediction must say so. Unlike GMNER, where any one of an entity's boxes is enough, an entity in
    several segments forms one triple for each: segments are part of the input and do not overlap by chance. A segment
    whose entity has no label forms no triple. The score of the benchmark is `gmner_f1`: on the same simulated answers,
    it was 100 where this metric was 94.25, and 84.3 where this metric was 78.6.
    """

    metric_names: Sequence[str] = ("triple_precision", "triple_recall", "triple_f1")

    def __init__(self, options: TripleF1Options) -> None:
        """Do nothing: there are no options."""

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """Count the predicted triples, the reference triples, and the matches."""
        if reference.pairs is None or reference.mapping is None:
            return None
        return set_counts(_triples(prediction), _triples(reference))

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """Sum the counts of all samples, then divide."""
        return _named_scores(self.metric_names, counts)


def _triples(answer: Answer) -> set[Triple]:
    letters: dict[str, list[str | None]] = {}
    for letter, entity in (answer.mapping or {}).items():
        letters.setdefault(entity, []).append(letter)
    return {(entity, label, letter) for label, entity in answer.pairs or () for letter in letters.get(entity, [None])}


class ImageEntityAccuracyOptions(Options):
    """Accuracy of the image-entity mapping. There are no options, so that results are comparable."""


class ImageEntityAccuracy:
    """Share of reference segments whose letter has the same entity in the answer.

    An extra letter in the answer does not lower it. It is None if there is no reference segment.
    """

    metric_names: Sequence[str] = ("image_entity_accuracy",)

    def __init__(self, options: ImageEntityAccuracyOptions) -> None:
        """Do nothing: there are no options."""

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """Count the reference segments, and those with the correct entity."""
        if reference.mapping is None:
            return None
        predicted = prediction.mapping or {}
        matched = sum(predicted.get(letter) == entity for letter, entity in reference.mapping.items())
        return {"reference": len(reference.mapping), "matched": matched}

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """Sum the counts of all samples, then divide."""
        segments = sum(sample["reference"] for sample in counts)
        matched = sum(sample["matched"] for sample in counts)
        return {"image_entity_accuracy": matched / segments if segments else None}


class ExactMatchOptions(Options):
    """Share of completely correct samples. There are no options, so that results are comparable."""


class ExactMatch:
    """Share of samples whose pairs and segments are all correct, without extra ones, for the given tasks.

    The summary is not compared, because it can be worded in many correct ways, and neither are boxes.
    """

    metric_names: Sequence[str] = ("exact_match",)

    def __init__(self, options: ExactMatchOptions) -> None:
        """Do nothing: there are no options."""

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """Return 1 for a completely correct sample, else 0."""
        if reference.pairs is None and reference.mapping is None:
            return None
        has_pairs = reference.pairs is None or (prediction.pairs or frozenset()) == reference.pairs
        has_mapping = reference.mapping is None or dict(prediction.mapping or {}) == dict(reference.mapping)
        return {"exact": float(has_pairs and has_mapping)}

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """Average over the samples."""
        return {"exact_match": fmean(sample["exact"] for sample in counts) if counts else None}
