"""The adapter plugin `pfa` (Prompt Format Adapter): renders a sample as prompt and target, and parses answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from plugins.adapter.pfa_parse import collapse_whitespace, find_target_problems, parse_lossless, parse_published
from plugins.adapter.pfa_prompt import (
    CONTEXT_NAMES,
    EXTRACTION_MARK,
    LABEL_PATTERN,
    MATCH_MARK,
    NER_MARK,
    PARSE_MODES,
    SUMMARY_MARK,
    TASKS,
    PfaOptions,
    Task,
    context_answer,
    prompt_text,
    target_text,
)
from plugins.adapter.shown_answers import ShowsAnswers
from plugins.adapter.tasks_and_labels import choose_labels
from runner.errors import DataError
from runner.records import Answer, ImagePart, Prediction, Rendered, Sample, TextPart, nfc
from runner.stages import TargetProblems


def tasks_of(references: Iterable[Sample | str]) -> tuple[Task, ...]:
    """List the tasks that the fields of at least one sample, or at least one target, answer, in prompt order."""
    tasks: set[Task] = set()
    for reference in references:
        tasks |= _tasks_of_sample(reference) if isinstance(reference, Sample) else _tasks_of_target(reference)
    return tuple(task for task in TASKS if task in tasks)


def _tasks_of_sample(sample: Sample) -> set[Task]:
    fields: dict[Task, object] = {"summary": sample.summary, "ner": sample.entities, "match": sample.segments}
    return {task for task, field in fields.items() if field}


def _tasks_of_target(target: str) -> set[Task]:
    """Find the tasks by their markers.

    The markers of the second part are searched after its heading, because a summary may contain `WINNER:`.
    """
    before, heading, extraction = target.partition(EXTRACTION_MARK)
    has_summary = SUMMARY_MARK in target
    if not heading:
        extraction = "" if has_summary else before
    is_answered: dict[Task, bool] = {
        "summary": has_summary,
        "ner": NER_MARK in extraction,
        "match": MATCH_MARK in extraction,
    }
    return {task for task, answered in is_answered.items() if answered}


class PromptFormatAdapter(ShowsAnswers):
    """Renders and parses the format of M-MRE (arXiv 2504.17353), for any vision-language model.

    A prompt contains the main image if the sample has one, and the segments only if `match` is a task. A pair that
    occurs twice in the text occurs twice in the target; parsing returns the set of pairs.
    """

    context_names: ClassVar[Mapping[str, str]] = CONTEXT_NAMES
    # The check can refuse a sample, but changes no prompt and no target.
    parsing_methods: ClassVar[Sequence[str]] = ("parse", "_parse", "target_problems", "_check_round_trip")

    def __init__(self, options: PfaOptions, labels: Sequence[str]) -> None:
        """Store the options, and check the labels of the data set.

        Raises:
            SpecError: The option `labels` lacks a label of the data set, or a label of the data set does not fit the
                format.
        """
        self._options = options
        self.tasks = options.tasks
        self._labels = choose_labels(options.labels, labels, LABEL_PATTERN, "colon and semicolon")
        self._label_set = frozenset(map(nfc, self._labels))
        self.parse_modes: Sequence[str] = (options.parse, *(mode for mode in PARSE_MODES if mode != options.parse))

    @classmethod
    def tasks_of(cls, references: Iterable[Sample | str]) -> Sequence[str]:
        """List the tasks that the fields of samples, or targets, answer; see the function `tasks_of`."""
        return tasks_of(references)

    def render_prompt(self, sample: Sample) -> Rendered:
        """Render the prompt: images and text.

        Raises:
            DataError: The sample lacks an image, text or segments that a task requires.
        """
        self._check_input(sample)
        parts: list[ImagePart | TextPart] = []
        if sample.image is not None:
            parts.append(ImagePart(sample.image))
        for letter, image in self._segment_images(sample):
            if self._options.images == "lettered":
                parts.append(TextPart(f"{letter}:"))
            parts.append(ImagePart(image))
        parts.append(TextPart(prompt_text(self.tasks, self._labels, sample.text)))
        return Rendered(sample.id, tuple(parts))

    def render_training(self, sample: Sample) -> Rendered:
        """Render the prompt and the target; white space in entities is collapsed.

        Raises:
            DataError: The sample lacks an input or the summary that a task requires, or the target cannot be parsed
                back to the reference.
        """
        prompt = self.render_prompt(sample)
        reference = self.reference(sample)
        if "summary" in self.tasks and not reference.summary:
            raise DataError(
                f"sample {sample.id!r} has no summary to train on; remove `summary` from adapter.tasks, "
                "or annotate the data set with summaries"
            )
        pairs = [(entity.label, collapse_whitespace(entity.text)) for entity in sample.entities]
        pairs = [pair for pair in pairs if pair[1]]
        target = target_text(self.tasks, reference.summary or "", pairs, reference.mapping or {})
        self._check_round_trip(sample, target, reference)
        return Rendered(sample.id, prompt.content, target)

    def for_task(self, task: str) -> PromptFormatAdapter:
        """Return the adapter of one of the tasks alone."""
        return PromptFormatAdapter(self._options.model_copy(update={"tasks": (task,)}), self._labels)

    def context_answer(self, task: str, answer: str) -> str:
        """Return an answer without its headings, in one line."""
        return next(context_answer(each, answer) for each in TASKS if each == task)

    def parse(self, output: str, mode: str) -> Prediction:
        """Parse an answer in one of `parse_modes`; never raises, whatever the text."""
        return self._parse(output, mode, self.tasks)

    def target_problems(self, target: str, mode: str) -> TargetProblems:
        """Find what of a reference given as text cannot be read; see `TargetChecker.target_problems`."""
        tasks = tuple(task for task in self.tasks if task in _tasks_of_target(target))
        if not tasks:
            return TargetProblems()
        return find_target_problems(self._parse(target, mode, tasks), target, self._label_set)

    def _parse(self, output: str, mode: str, tasks: Sequence[Task]) -> Prediction:
        parse = {"lossless": parse_lossless, "published": parse_published}[mode]
        return parse(output, tasks, self._label_set)

    def reference(self, sample: Sample) -> Answer:
        """Build the reference answer from the sample's fields, with white space normalized as by `parse`.

        A part is None if its task is not in `tasks`; the summary also if the sample has none.
        """
        pairs = ((entity.label, collapse_whitespace(entity.text)) for entity in sample.entities)
        mapping = {segment.letter: collapse_whitespace(segment.entity) for segment in sample.segments}
        return Answer(
            summary=sample.summary.strip() if "summary" in self.tasks and sample.summary is not None else None,
            pairs=frozenset(pair for pair in pairs if pair[1]) if "ner" in self.tasks else None,
            mapping=mapping if "match" in self.tasks else None,
        )

    def _segment_images(self, sample: Sample) -> Iterator[tuple[str, Path]]:
        if "match" in self.tasks:
            yield from ((segment.letter, segment.image) for segment in sample.segments if segment.image is not None)

    def _check_input(self, sample: Sample) -> None:
        """Raise if a sample lacks an input that a task requires."""
        missing = None
        if sample.image is None and self.tasks != ("ner",):
            missing = "main image", "only `ner` works on text alone"
        elif not sample.text.strip() and self.tasks != ("summary",):
            missing = "text", "only `summary` works on an image alone"
        elif "match" in self.tasks and any(segment.image is None for segment in sample.segments):
            missing = "image of a segment", "remove `match` from adapter.tasks, or crop the segments"
        if missing is not None:
            raise DataError(
                f"sample {sample.id!r} has no {missing[0]}, which adapter.tasks [{', '.join(self.tasks)}] "
                f"requires; {missing[1]}"
            )

    def _check_round_trip(self, sample: Sample, target: str, reference: Answer) -> None:
        """Raise if `lossless` does not parse the target back to the reference: a learned answer would count as wrong.

        The published rule loses every entity that contains a colon, and the paper trained on those. With it, no target
        is rejected.
        """
        if self._options.parse != "lossless":
            return
        parsed = self.parse(target, "lossless").answer
        if parsed == reference:
            return
        entities = sorted(entity for _, entity in (reference.pairs or frozenset()) - (parsed.pairs or frozenset()))
        lost = f"its entities {entities}" if entities else f"its summary {reference.summary!r}"
        raise DataError(
            f"sample {sample.id!r}: {lost} cannot be read back from an answer. An entity cannot contain "
            f"`:<label>;` or {MATCH_MARK!r}, and a summary cannot contain {EXTRACTION_MARK!r}; change or remove the "
            "sample, or train on it as it is with adapter.parse: published"
        )
