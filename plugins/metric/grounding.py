"""Metrics of grounded multimodal NER: F1 of entities with labels and boxes, and how well boxes are located."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from plugins.metric.extraction import micro_scores
from runner.records import Answer, Box, GroundedEntity
from runner.stages import IOU_ROUNDING, Options, best_iou, have_same_region

Entities = Sequence[GroundedEntity]


class EntityTextOptions(Options):
    """Which entities are the same. The defaults are the benchmark's rule."""

    repeats: Literal["each", "once"] = "each"
    """Entities that occur several times in a text. `each`: every mention counts, and the n-th entity with some text in
    an answer stands for its n-th mention. `once`: mentions with equal text and label count once, with the boxes of all
    of them."""

    lower_case: bool = False
    """Whether texts are compared without regard to upper and lower case. The benchmark does not do it."""


class EntityMatchOptions(EntityTextOptions):
    """How the entities of an answer are compared with those of the reference. The defaults are the benchmark's rule."""

    matching: Literal["by_mention", "one_to_one"] = "by_mention"
    """`by_mention`: each entity is compared with the same mention of the reference, as the positions in the text do it
    in the benchmark of GMNER (Yu et al., ACL 2023). `one_to_one`: entities with equal text are paired so that most of
    them are right, as in E2E-GMNER (arXiv 2604.17319)."""


class BoxLimitOptions(Options):
    """When a box is right. The default is the benchmark's rule."""

    min_iou: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Smallest intersection over union of a right box. The benchmark uses 0.5."""


class GmnerF1Options(EntityMatchOptions, BoxLimitOptions):
    """F1 of entities with label and box (GMNER)."""


class MnerF1Options(EntityMatchOptions):
    """F1 of entities with label (MNER), for answers that also have boxes."""


class EegF1Options(EntityMatchOptions, BoxLimitOptions):
    """F1 of entities with box, without labels (entity extraction and grounding, EEG)."""


class BoxAccuracyOptions(EntityTextOptions, BoxLimitOptions):
    """How well the boxes of the entities are located that the image shows."""


def key_entities(entities: Entities, options: EntityTextOptions, *, with_label: bool) -> dict[Hashable, GroundedEntity]:
    """Key each entity by the mention that it stands for.

    With `repeats: each`, that is its text and position; without position, its text and the number of earlier entities
    with this text. A later entity replaces an earlier one at the same position, as in the benchmark's scorer. With
    `once`, it is text and label.

    Args:
        entities: The entities of an answer or a reference.
        options: The options.
        with_label: Whether mentions with different labels are different entities.
    """
    seen: Counter[str] = Counter()
    keyed: dict[Hashable, GroundedEntity] = {}
    for entity in entities:
        text = entity.text.lower() if options.lower_case else entity.text
        if options.repeats == "once":
            key: Hashable = (text, entity.label if with_label else None)
            earlier = keyed.get(key)
            boxes = entity.boxes if earlier is None else _join(earlier.boxes, entity.boxes)
            keyed[key] = replace(entity, text=text, boxes=boxes)
            continue
        number = seen[text] if entity.position is None else entity.position
        seen[text] += entity.position is None
        keyed[text, number] = replace(entity, text=text)
    return keyed


def _join(boxes: tuple[Box, ...] | None, others: tuple[Box, ...] | None) -> tuple[Box, ...] | None:
    return others if boxes is None else boxes + tuple(box for box in others or () if box not in boxes)


def count_matches(found: Entities, right: Entities, is_right: Callable[[GroundedEntity, GroundedEntity], bool]) -> int:
    """Return the size of a maximum matching of found and right entities (Kuhn's algorithm).

    Args:
        found: The entities of an answer.
        right: The entities of the reference.
        is_right: Whether a found entity is right, for an entity of the reference.
    """
    choices = [[index for index, each in enumerate(found) if is_right(each, entity)] for entity in right]
    taken_by: dict[int, int] = {}

    def place(entity: int, tried: set[int]) -> bool:
        for index in choices[entity]:
            if index not in tried:
                tried.add(index)
                if index not in taken_by or place(taken_by[index], tried):
                    taken_by[index] = entity
                    return True
        return False

    return sum(place(entity, set()) for entity in range(len(right)))


class _GroundedF1:
    """Micro-averaged precision, recall and F1 over the corpus; subclasses define what makes an entity right."""

    metric_names: Sequence[str]
    compares_labels: ClassVar[bool] = True
    compares_boxes: ClassVar[bool] = True

    def __init__(self, options: EntityMatchOptions) -> None:
        """Store the options."""
        self._options = options
        self._min_iou = options.min_iou if isinstance(options, BoxLimitOptions) else 0.0

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """Count the entities of the answer, those of the reference, and the matches."""
        if reference.grounded is None:
            return None
        found, right = (
            key_entities(answer.grounded or (), self._options, with_label=self.compares_labels)
            for answer in (prediction, reference)
        )
        if self._options.matching == "one_to_one":
            matched = count_matches(list(found.values()), list(right.values()), self._is_right)
        else:
            matched = sum(key in right and self._is_right(entity, right[key]) for key, entity in found.items())
        return {"predicted": len(found), "reference": len(right), "matched": matched}

    def _is_right(self, found: GroundedEntity, right: GroundedEntity) -> bool:
        if found.text != right.text or (self.compares_labels and found.label != right.label):
            return False
        return not self.compares_boxes or have_same_region(found.boxes, right.boxes or (), self._min_iou)

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """Sum the counts of all samples, then divide."""
        return dict(zip(self.metric_names, micro_scores(counts) if counts else (None,) * 3, strict=True))


class GmnerF1(_GroundedF1):
    """An entity is right if text and label are, and one of its boxes has the IoU with any one box of the reference.

    For an entity that no box shows, the answer must say so. All samples count, also those without entity or box.
    """

    metric_names: Sequence[str] = ("gmner_precision", "gmner_recall", "gmner_f1")


class MnerF1(_GroundedF1):
    """An entity is right if text and label are. Unlike in `ner_f1`, an entity that is mentioned twice counts twice."""

    metric_names: Sequence[str] = ("mner_precision", "mner_recall", "mner_f1")
    compares_boxes = False


class EegF1(_GroundedF1):
    """An entity is right if its text is, and its box as in `gmner_f1`."""

    metric_names: Sequence[str] = ("eeg_precision", "eeg_recall", "eeg_f1")
    compares_labels = False


class BoxAccuracy:
    """Accuracy at an IoU and mean IoU, over the entities of the reference that have a box.

    An entity that the answer does not name, or names without a box, has the IoU 0. With several boxes, the best pair of
    boxes counts. Labels do not matter. Both are None if no entity has a box.
    """

    metric_names: Sequence[str] = ("box_accuracy", "box_mean_iou")

    def __init__(self, options: BoxAccuracyOptions) -> None:
        """Store the options."""
        self._options = options

    def score(self, prediction: Answer, reference: Answer) -> Mapping[str, float] | None:
        """Count the entities with a box, those that are located, and sum their IoU."""
        if reference.grounded is None:
            return None
        named, right = (
            key_entities(answer.grounded or (), self._options, with_label=False) for answer in (prediction, reference)
        )
        shown = [(key, entity) for key, entity in right.items() if entity.boxes]
        values = [
            best_iou(named[key].boxes or (), entity.boxes or ()) if key in named else 0.0 for key, entity in shown
        ]
        located = sum(value >= self._options.min_iou - IOU_ROUNDING for value in values)
        return {"boxed": len(shown), "located": located, "iou": sum(values)}

    def reduce(self, counts: Sequence[Mapping[str, float]]) -> Mapping[str, float | None]:
        """Sum the counts of all samples, then divide."""
        boxed = sum(sample["boxed"] for sample in counts)
        located, iou = (sum(sample[kind] for sample in counts) for kind in ("located", "iou"))
        return {
            "box_accuracy": located / boxed if boxed else None,
            "box_mean_iou": iou / boxed if boxed else None,
        }
