"""Prompts and targets of the Prompt Format Adapter, and its options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal, get_args

from pydantic import Field, StringConstraints, field_validator

from plugins.adapter.tasks_and_labels import check_distinct_labels, check_task_order
from runner.stages import AdapterOptions

Task = Literal["summary", "ner", "match"]
"""The tasks: a summary of the image, the entities of the text, and the entity that each segment shows."""

TASKS: tuple[Task, ...] = get_args(Task)
"""All tasks, in the order of the prompt."""

LABEL_PATTERN = r"^[^\s:;]+(?: [^\s:;]+)*$"
"""An entity label: words separated by one space. Colons and semicolons delimit labels in an answer."""

Label = Annotated[str, StringConstraints(pattern=LABEL_PATTERN)]


ParseMode = Literal["lossless", "published"]
PARSE_MODES: tuple[ParseMode, ...] = get_args(ParseMode)


class PfaOptions(AdapterOptions):
    """The format of prompts and targets, and how answers are parsed."""

    tasks: tuple[Task, ...] = Field(default=TASKS, min_length=1)
    """The tasks of a prompt: one or more of `summary`, `ner` and `match`, in this order. Default: all three tasks, as
    published."""

    labels: tuple[Label, ...] | None = Field(default=None, min_length=1)
    """The entity labels in the prompt, in this order. They must include all labels of the data set. Default: the labels
    of the data set."""

    parse: ParseMode = "lossless"
    """How answers are parsed. `published` splits the label-entity pairs at every colon, as the paper describes.
    `lossless` splits them only at a known label, so an entity may contain a colon. A launch also reports the metrics of
    the mode that is not selected."""

    images: Literal["first", "lettered"] = "first"
    """Order of the images in a prompt. `first`: main image, then segments, then the text, as published. `lettered`: the
    same order, with the letter of each segment before the segment; for models that are too small to count images."""

    @field_validator("tasks")
    @classmethod
    def _in_order(cls, tasks: tuple[Task, ...]) -> tuple[Task, ...]:
        return check_task_order(tasks, TASKS)

    @property
    def task_names(self) -> Sequence[str]:
        """The tasks of a prompt."""
        return self.tasks

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: tuple[Label, ...] | None) -> tuple[Label, ...] | None:
        return check_distinct_labels(labels)


SUMMARY_MARK = "Task 1 Answer:"
EXTRACTION_MARK = "Task 2 Answer:"
NER_MARK = "NER:"
MATCH_MARK = "image entities pair"

TWO_TASKS = (
    "Please answer the following two image understanding tasks.\nOutput the answers to these two questions in order.\n"
)
ONE_TASK = "Please answer the following image understanding task.\n"
SUMMARY_QUESTION = "Task 1: What is in this image?"
_SEGMENTS = "We segment one or more of the smaller images from the full image of task 1. "
_NER_MATCH = (
    "Based on the provided text, extract their corresponding entities based on the given labels, and then "
    "output the extracted label-entity pair matching the number of the corresponding small pictures."
)
_NER = "Based on the provided text, extract the entities based on the given labels."
_MATCH = (
    "Based on the provided text, extract their corresponding entities, and then output the extracted entity "
    "matching the number of the corresponding small pictures."
)
_NER_FORMAT = "Please output all label-entities pairs in set format. e.g. (:label1;entities1:label2;entities2)."
_MATCH_FORMAT_AFTER_NER = "And output image number with entities pairs. e.g. {'a': 'entities1', 'b': 'entities2'}."
_MATCH_FORMAT = "Please output image number with entities pairs. e.g. {'a': 'entities1', 'b': 'entities2'}."


def prompt_text(tasks: Sequence[Task], labels: Sequence[str], text: str) -> str:
    """Build the text of the prompt.

    Args:
        tasks: The tasks; at least one.
        labels: The entity labels; at least one.
        text: The tweet, inserted unchanged.
    """
    if tasks == ("summary",):
        return ONE_TASK + SUMMARY_QUESTION
    extraction = f"Task 2: Text: {text}\n{_extraction_question(tasks, labels)}"
    return f"{TWO_TASKS}{SUMMARY_QUESTION}\n{extraction}" if "summary" in tasks else ONE_TASK + extraction


def _extraction_question(tasks: Sequence[Task], labels: Sequence[str]) -> str:
    if "match" not in tasks:
        return f"{_NER} {label_sentence(labels)}\n{_NER_FORMAT}"
    if "ner" not in tasks:
        return f"{_SEGMENTS}{_MATCH}\n{_MATCH_FORMAT}"
    return f"{_SEGMENTS}{_NER_MATCH} {label_sentence(labels)}\n{_NER_FORMAT}\n{_MATCH_FORMAT_AFTER_NER}"


def label_sentence(labels: Sequence[str]) -> str:
    """List the labels: `There are 4 types of labels: person, location, organization and other.`."""
    if len(labels) == 1:
        return f"There is 1 type of label: {labels[0]}."
    return f"There are {len(labels)} types of labels: {', '.join(labels[:-1])} and {labels[-1]}."


def target_text(
    tasks: Sequence[Task], summary: str, pairs: Iterable[tuple[str, str]], mapping: Mapping[str, str]
) -> str:
    """Build the target, with the parts of the given tasks only.

    Args:
        tasks: The tasks; at least one.
        summary: The summary of the main image.
        pairs: (label, entity) in the order of the text, repeated as often as they occur there.
        mapping: Segment letter to entity.
    """
    lines = []
    if "summary" in tasks:
        lines.append(f"{SUMMARY_MARK} {summary}")
    if "ner" in tasks or "match" in tasks:
        lines.append(EXTRACTION_MARK)
    if "ner" in tasks:
        lines += [NER_MARK, "".join(f":{label};{entity}" for label, entity in pairs)]
    if "match" in tasks:
        lines.append(f"{MATCH_MARK}{dict(mapping)!r}")
    return "\n".join(lines)


CONTEXT_NAMES: Mapping[str, str] = {
    "summary": "Summary of the image",
    "ner": "Label-entities pairs",
    "match": "Image number with entities pairs",
}
"""What a context calls the answer to a task."""


def context_answer(task: Task, answer: str) -> str:
    """Return an answer to one task without the headings that come before it in a target, in one line.

    An answer that lacks the headings is kept as it is.
    """
    headings = {"summary": (SUMMARY_MARK,), "ner": (EXTRACTION_MARK, NER_MARK), "match": (EXTRACTION_MARK, MATCH_MARK)}
    text = answer.strip()
    for heading in headings[task]:
        text = text.removeprefix(heading).strip()
    return " ".join(text.split())
