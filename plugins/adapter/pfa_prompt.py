"""Prompts and targets of the Prompt Format Adapter, and its options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal, get_args

from pydantic import Field, StringConstraints, field_validator

from runner.stages import Options

Task = Literal["summary", "ner", "match"]
"""What can be asked: a summary of the image, the entities of the text, which segment shows which entity."""

TASKS: tuple[Task, ...] = get_args(Task)
"""All tasks, in the order in which a prompt asks for them."""

LABEL_FORM = r"^[^\s:;]+(?: [^\s:;]+)*$"
"""An entity label: words with one space between them, no colon and no semicolon, which delimit it in an answer."""

Label = Annotated[str, StringConstraints(pattern=LABEL_FORM)]


class PfaOptions(Options):
    """How a sample is put to the model, and how its answer is read."""

    tasks: tuple[Task, ...] = Field(default=TASKS, min_length=1)
    """What is asked, any subset of summary, ner and match, in this order. Default: all, as published."""

    labels: tuple[Label, ...] | None = Field(default=None, min_length=1)
    """The entity labels named in the prompt, in their order. Default: those of the data set."""

    parse: Literal["lossless", "published"] = "lossless"
    """How an answer is read: `published` cuts at every colon, as the paper says; `lossless` only where a
    known label stands, so that an entity may hold a colon. The other one is reported beside it."""

    images: Literal["first", "lettered"] = "first"
    """`first`: main image, then segments, then the text, as published. `lettered`: the same with its letter
    before each segment, for models too small to count images."""

    @field_validator("tasks")
    @classmethod
    def _in_order(cls, tasks: tuple[Task, ...]) -> tuple[Task, ...]:
        ordered = tuple(task for task in TASKS if task in tasks)
        if tasks != ordered:
            raise ValueError(f"tasks stand once each, in the order of the answer: [{', '.join(ordered)}]")
        return tasks

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: tuple[Label, ...] | None) -> tuple[Label, ...] | None:
        if labels is not None and len(set(labels)) < len(labels):
            raise ValueError("a label stands twice; name each once")
        return labels


SUMMARY_MARK = "Task 1 Answer:"
FINE_MARK = "Task 2 Answer:"
NER_MARK = "NER:"
MATCH_MARK = "image entities pair"

_BOTH = (
    "Please answer the following two image understanding tasks.\nOutput the answers to these two questions in order.\n"
)
_ONE = "Please answer the following image understanding task.\n"
_SUMMARY = "Task 1: What is in this image?"
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
    """Word the prompt.

    Args:
        tasks: What is asked; at least one.
        labels: The entity labels; at least one.
        text: The tweet, taken over as it is.
    """
    if tasks == ("summary",):
        return _ONE + _SUMMARY
    fine = f"Task 2: Text: {text}\n{_fine_question(tasks, labels)}"
    return f"{_BOTH}{_SUMMARY}\n{fine}" if "summary" in tasks else _ONE + fine


def _fine_question(tasks: Sequence[Task], labels: Sequence[str]) -> str:
    if "match" not in tasks:
        return f"{_NER} {label_sentence(labels)}\n{_NER_FORMAT}"
    if "ner" not in tasks:
        return f"{_SEGMENTS}{_MATCH}\n{_MATCH_FORMAT}"
    return f"{_SEGMENTS}{_NER_MATCH} {label_sentence(labels)}\n{_NER_FORMAT}\n{_MATCH_FORMAT_AFTER_NER}"


def label_sentence(labels: Sequence[str]) -> str:
    """Name the labels: `There are 4 types of labels: person, location, organization and other.`."""
    if len(labels) == 1:
        return f"There is 1 type of label: {labels[0]}."
    return f"There are {len(labels)} types of labels: {', '.join(labels[:-1])} and {labels[-1]}."


def target_text(
    tasks: Sequence[Task], summary: str, pairs: Iterable[tuple[str, str]], mapping: Mapping[str, str]
) -> str:
    """Word the answer; what belongs to a task that is not asked for is left out.

    Args:
        tasks: What is asked; at least one.
        summary: What the main image shows.
        pairs: (label, entity) in the order of the text, each as often as it stands there.
        mapping: Segment letter to entity.
    """
    lines = []
    if "summary" in tasks:
        lines.append(f"{SUMMARY_MARK} {summary}")
    if "ner" in tasks or "match" in tasks:
        lines.append(FINE_MARK)
    if "ner" in tasks:
        lines += [NER_MARK, "".join(f":{label};{entity}" for label, entity in pairs)]
    if "match" in tasks:
        lines.append(f"{MATCH_MARK}{dict(mapping)!r}")
    return "\n".join(lines)
