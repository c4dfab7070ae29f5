"""The adapter plugin `gmner`: entities with labels and boxes in one answer, alone or after a summary of the image."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from PIL import Image

from plugins.adapter.box_jitter import jitter_box
from plugins.adapter.gmner_parse import parse_answer
from plugins.adapter.gmner_prompt import (
    CONTEXT_NAMES,
    LABEL_PATTERN,
    TASKS,
    GmnerAdapterOptions,
    Task,
    chosen_boxes,
    context_answer,
    prompt_text,
    target_text,
)
from plugins.adapter.pfa_parse import collapse_whitespace
from plugins.adapter.pfa_prompt import EXTRACTION_MARK, SUMMARY_MARK
from plugins.adapter.shown_answers import ShowsAnswers
from plugins.adapter.tasks_and_labels import choose_labels
from runner.errors import DataError, SpecError
from runner.images import upright_size
from runner.records import Answer, Box, GroundedEntity, ImagePart, Prediction, Rendered, Sample, TextPart, nfc
from runner.stages import BoxFrame

PARSE_MODE = "lossless"
"""The only parse mode: what is written for an entity is read back exactly."""


class GmnerAdapter(ShowsAnswers):
    """Renders and parses entities with labels and boxes.

    The prompt contains the main image. A target lists the entities in the order of the text, each with its boxes, or
    with `None` if the image does not show it. The segments of a sample give the boxes: those whose entity has the text.
    """

    context_names: ClassVar[Mapping[str, str]] = CONTEXT_NAMES
    # The check can refuse a sample, but changes no prompt and no target.
    parsing_methods: ClassVar[Sequence[str]] = ("parse", "_check_round_trip")
    parse_modes: Sequence[str] = (PARSE_MODE,)

    def __init__(self, options: GmnerAdapterOptions, labels: Sequence[str]) -> None:
        """Store the options, and check the labels of the data set.

        Raises:
            SpecError: The option `labels` lacks a label of the data set, or a label of the data set does not fit the
                format.
        """
        self._options = options
        self.tasks = options.tasks
        self._labels = choose_labels(options.labels, labels, LABEL_PATTERN, "vertical bar and semicolon")
        self._label_set = frozenset(map(nfc, self._labels))
        self._given_frame = options.own_frame

    @classmethod
    def tasks_of(cls, references: Iterable[Sample | str]) -> Sequence[str]:
        """List the tasks that samples, or targets, contain answers for; see `Adapter.tasks_of`."""
        tasks: set[Task] = set()
        for reference in references:
            if isinstance(reference, Sample):
                found: dict[Task, object] = {"summary": reference.summary, "gmner": reference.entities}
            else:
                found = {"summary": SUMMARY_MARK in reference, "gmner": "|" in reference.rpartition(EXTRACTION_MARK)[2]}
            tasks |= {task for task, answered in found.items() if answered}
        return tuple(task for task in TASKS if task in tasks)

    def in_frame(self, frame: BoxFrame) -> GmnerAdapter:
        """Return the same adapter with boxes in a frame; see `BoxAdapter`."""
        adapter = GmnerAdapter(self._options, self._labels)
        adapter._given_frame = frame
        return adapter

    @property
    def _frame(self) -> BoxFrame:
        if self._given_frame is None:
            raise SpecError(
                "there is no model whose frame boxes could be written in; write `thousand` or `original`",
                path=("adapter", "frame"),
            )
        return self._given_frame

    def render_prompt(self, sample: Sample) -> Rendered:
        """Render the prompt: the main image and the text.

        Raises:
            DataError: The sample lacks an image or a text.
        """
        if sample.image is None:
            raise DataError(f"sample {sample.id!r} has no main image, which the adapter `gmner` requires")
        if "gmner" in self.tasks and not sample.text.strip():
            raise DataError(f"sample {sample.id!r} has no text, which the task `gmner` requires")
        frame = self._frame if "gmner" in self.tasks else BoxFrame()
        text = prompt_text(self.tasks, self._labels, sample.text, self._options, frame)
        return Rendered(sample.id, (ImagePart(sample.image), TextPart(text)))

    def render_training(self, sample: Sample) -> Rendered:
        """Render the prompt and the target; white space in entities is collapsed.

        Raises:
            DataError: The sample lacks an image, a text or a summary that a task requires, or the target cannot be
                parsed back to the reference.
        """
        return self._render(sample, None)

    def draw_target(self, sample: Sample, draw: int, seed: int) -> Rendered:
        """Render the prompt and a target with changed boxes; see `TargetDrawer`.

        Raises:
            DataError: As in `render_training`.
        """
        return self._render(sample, random.Random(f"boxes {seed} {draw} {sample.id}"))

    def _render(self, sample: Sample, rng: random.Random | None) -> Rendered:
        """Render prompt and target; with random numbers, boxes change as `box_jitter` says."""
        prompt = self.render_prompt(sample)
        reference = self.reference(sample)
        if "summary" in self.tasks and not reference.summary:
            raise DataError(
                f"sample {sample.id!r} has no summary to train on; remove `summary` from adapter.tasks, "
                "or annotate the data set with summaries"
            )
        written = [
            replace(entity, boxes=self._written_boxes(sample, entity, rng)) for entity in reference.grounded or ()
        ]
        frame = self._frame if "gmner" in self.tasks else BoxFrame()
        target = target_text(self.tasks, reference.summary or "", written, self._options.format, frame)
        self._check_round_trip(sample, target, replace(reference, grounded=tuple(written)))
        return Rendered(sample.id, prompt.content, target)

    def _written_boxes(self, sample: Sample, entity: GroundedEntity, rng: random.Random | None) -> tuple[Box, ...]:
        boxes, jitter = chosen_boxes(entity.boxes or (), self._options.boxes), self._options.box_jitter
        if rng is None or jitter is None or not boxes:
            return boxes
        limits = self._frame.size(*_image_size(sample))
        return tuple(jitter_box(box, limits, jitter, rng) for box in boxes)

    def for_task(self, task: str) -> GmnerAdapter:
        """Return the adapter of one of the tasks alone."""
        adapter = GmnerAdapter(self._options.model_copy(update={"tasks": (task,)}), self._labels)
        adapter._given_frame = self._given_frame
        return adapter

    def context_answer(self, task: str, answer: str) -> str:
        """Return an answer without its heading, in one line."""
        return next(context_answer(each, answer) for each in TASKS if each == task)

    def parse(self, output: str, mode: str) -> Prediction:
        """Parse an answer, whose boxes stay in the frame in which they are written; never raises."""
        assert mode == PARSE_MODE
        return parse_answer(output, self.tasks, self._label_set)

    def reference(self, sample: Sample) -> Answer:
        """Build the reference from the sample's fields, with all boxes in the frame, not rounded.

        A part is None if its task is not in `tasks`; the summary also if the sample has none.

        Raises:
            DataError: The sample has boxes, and its image cannot be read.
        """
        summary = sample.summary.strip() if "summary" in self.tasks and sample.summary is not None else None
        if "gmner" not in self.tasks:
            return Answer(summary, None, None)
        entities = self._grounded_entities(sample)
        return Answer(summary, frozenset((entity.label, entity.text) for entity in entities), None, entities)

    def _grounded_entities(self, sample: Sample) -> tuple[GroundedEntity, ...]:
        size = _image_size(sample) if sample.segments else (1, 1)
        boxes = [
            (nfc(collapse_whitespace(segment.entity)), self._frame.from_pixels(segment.box, *size))
            for segment in sample.segments
        ]
        texts = [(entity.label, collapse_whitespace(entity.text)) for entity in sample.entities]
        return tuple(
            GroundedEntity(label, text, tuple(box for shown, box in boxes if shown == nfc(text)))
            for label, text in texts
            if text
        )

    def _check_round_trip(self, sample: Sample, target: str, trained: Answer) -> None:
        """Raise if the target is not parsed back to what it was written from: a learned answer would count as wrong."""
        parsed = self.parse(target, PARSE_MODE).answer
        if parsed.summary == trained.summary and _is_equal_when_rounded(parsed.grounded, trained.grounded):
            return
        raise DataError(
            f"sample {sample.id!r}: its target cannot be read back from an answer. An entity cannot contain "
            f"`|<label>|<box>;`, and a summary cannot contain {EXTRACTION_MARK!r}; change or remove the sample. "
            f"The target is {target!r}"
        )


def _image_size(sample: Sample) -> tuple[int, int]:
    assert sample.image is not None
    try:
        return upright_size(sample.image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"sample {sample.id}: image {sample.image} cannot be used: {error}") from error


def _is_equal_when_rounded(parsed: Sequence[GroundedEntity] | None, written: Sequence[GroundedEntity] | None) -> bool:
    return [_rounded(entity) for entity in parsed or ()] == [_rounded(entity) for entity in written or ()]


def _rounded(entity: GroundedEntity) -> tuple[str, str, list[list[int]]]:
    return entity.label, entity.text, [[round(side) for side in box] for box in entity.boxes or ()]
