"""F1 of label-entity pairs for each label, and their mean."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

from plugins.metric.micro import micro_scores, set_counts
from runner.records import Answer
from runner.stages import Options


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
