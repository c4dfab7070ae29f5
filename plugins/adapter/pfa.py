"""The Prompt Format Adapter: renders a sample as prompt and target, and parses an answer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from plugins.adapter.pfa_parse import collapse, parse_lossless, parse_published
from plugins.adapter.pfa_prompt import (
    FINE_MARK,
    LABEL_FORM,
    MATCH_MARK,
    NER_MARK,
    SUMMARY_MARK,
    TASKS,
    PfaOptions,
    Task,
    prompt_text,
    target_text,
)
from runner.errors import DataError, SpecError
from runner.records import Answer, ImagePart, Prediction, Rendered, Sample, TextPart
from runner.stages.registry import nearest


def tasks_of(references: Iterable[Sample | str]) -> tuple[Task, ...]:
    """List the tasks that at least one sample's own fields, or one written target, answers, in their order."""
    found: set[Task] = set()
    for reference in references:
        found |= _of_sample(reference) if isinstance(reference, Sample) else _of_target(reference)
    return tuple(task for task in TASKS if task in found)


def _of_sample(sample: Sample) -> set[Task]:
    fields: dict[Task, object] = {"summary": sample.summary, "ner": sample.entities, "match": sample.segments}
    return {task for task, field in fields.items() if field}


def _of_target(target: str) -> set[Task]:
    """Look for the markers; those of the second part behind its heading, as a summary may hold `WINNER:`."""
    before, heading, fine = target.partition(FINE_MARK)
    has_summary = SUMMARY_MARK in target
    if not heading:
        fine = "" if has_summary else before
    marks: dict[Task, bool] = {"summary": has_summary, "ner": NER_MARK in fine, "match": MATCH_MARK in fine}
    return {task for task, is_there in marks.items() if is_there}


_READERS = {"lossless": parse_lossless, "published": parse_published}


class PromptFormatAdapter:
    """Renders and reads the format of M-MRE (arXiv 2504.17353), for any vision-language model.

    The main image is shown wherever there is one, the segments only where `match` is asked. A pair that the
    text names twice stands twice in the target; reading makes a set of the pairs.
    """

    def __init__(self, options: PfaOptions, labels: Sequence[str]) -> None:
        """Take the options and the data set's labels.

        Raises:
            SpecError: The option `labels` misses one of the data set's, or one of these does not fit the format.
        """
        self._options = options
        self._tasks = options.tasks
        self._labels = tuple(labels) if options.labels is None else options.labels
        self._known = frozenset(self._labels)
        others = (mode for mode in _READERS if mode != options.parse)
        self.parse_modes: Sequence[str] = (options.parse, *others)
        for label in labels:
            if not re.fullmatch(LABEL_FORM, label):
                raise SpecError(
                    f"the label {label!r} cannot be read back from an answer; a label is words with one "
                    "space between them, without colon and semicolon",
                    path=("adapter", "labels"),
                )
            if label not in self._known:
                raise SpecError(
                    f"the data set's label {label!r} is missing{nearest(label, self._labels)}; name all of "
                    f"[{', '.join(labels)}], or leave `labels` out",
                    path=("adapter", "labels"),
                )

    @classmethod
    def tasks_of(cls, references: Iterable[Sample | str]) -> Sequence[str]:
        """List the tasks that samples' own fields, or written targets, answer; see `pfa_tasks`."""
        return tasks_of(references)

    def render_prompt(self, sample: Sample) -> Rendered:
        """Render what the model is shown.

        Raises:
            DataError: The sample lacks an image, a text or segments that a task asks about.
        """
        self._check_input(sample)
        parts: list[ImagePart | TextPart] = []
        if sample.image is not None:
            parts.append(ImagePart(sample.image))
        for letter, image in self._segment_images(sample):
            if self._options.images == "lettered":
                parts.append(TextPart(f"{letter}:"))
            parts.append(ImagePart(image))
        parts.append(TextPart(prompt_text(self._tasks, self._labels, sample.text)))
        return Rendered(sample.id, tuple(parts))

    def render_training(self, sample: Sample) -> Rendered:
        """Render what the model is shown and the answer to learn, white space in entities made one space.

        Raises:
            DataError: The sample lacks what a task asks about, or its summary; or the target cannot be read back.
        """
        prompt = self.render_prompt(sample)
        right = self.reference(sample)
        if "summary" in self._tasks and not right.summary:
            raise DataError(
                f"sample {sample.id!r} has no summary to learn from; leave `summary` out of adapter.tasks, "
                "or annotate the data set with summaries"
            )
        pairs = [(entity.label, collapse(entity.text)) for entity in sample.entities]
        target = target_text(self._tasks, right.summary or "", [pair for pair in pairs if pair[1]], right.mapping or {})
        self._check_way_back(sample, target, right)
        return Rendered(sample.id, prompt.content, target)

    def parse(self, output: str, mode: str) -> Prediction:
        """Read an answer in one of `parse_modes`; never raises, whatever the text."""
        return _READERS[mode](output, self._tasks, self._known)

    def reference(self, sample: Sample) -> Answer:
        """The right answer from the sample's own fields, white space treated as in an answer that is read.

        A part is None where it was not asked for; so is the summary that nobody wrote.
        """
        pairs = ((entity.label, collapse(entity.text)) for entity in sample.entities)
        mapping = {segment.letter: collapse(segment.entity) for segment in sample.segments}
        written = "summary" in self._tasks and sample.summary is not None
        return Answer(
            summary=sample.summary.strip() if written and sample.summary is not None else None,
            pairs=frozenset(pair for pair in pairs if pair[1]) if "ner" in self._tasks else None,
            mapping=mapping if "match" in self._tasks else None,
        )

    def _segment_images(self, sample: Sample) -> Iterator[tuple[str, Path]]:
        if "match" in self._tasks:
            yield from ((each.letter, each.image) for each in sample.segments if each.image is not None)

    def _check_input(self, sample: Sample) -> None:
        """Refuse a sample that cannot be asked about."""
        lacking = None
        if sample.image is None and self._tasks != ("ner",):
            lacking = "main image", "only `ner` can be asked about text alone"
        elif not sample.text.strip() and self._tasks != ("summary",):
            lacking = "text", "only `summary` can be asked about an image alone"
        elif "match" in self._tasks and any(segment.image is None for segment in sample.segments):
            lacking = "image of a segment", "leave `match` out of adapter.tasks, or cut the segments out"
        if lacking is not None:
            raise DataError(
                f"sample {sample.id!r} has no {lacking[0]}, which adapter.tasks [{', '.join(self._tasks)}] "
                f"needs; {lacking[1]}"
            )

    def _check_way_back(self, sample: Sample, target: str, right: Answer) -> None:
        """Refuse a target that `lossless` reads otherwise: what is learnt from it would count as wrong.

        The published rule loses an entity with any colon, and the paper trained on those; with it, none is refused.
        """
        if self._options.parse != "lossless":
            return
        read = self.parse(target, "lossless").answer
        if read == right:
            return
        entities = sorted(entity for _, entity in (right.pairs or frozenset()) - (read.pairs or frozenset()))
        found = f"its entities {entities}" if entities else f"its summary {right.summary!r}"
        raise DataError(
            f"sample {sample.id!r}: {found} cannot be read back from an answer. An entity cannot hold "
            f"`:<label>;` or {MATCH_MARK!r}, nor a summary {FINE_MARK!r}; change or leave out the sample, or "
            "train on it as it is with adapter.parse: published"
        )
