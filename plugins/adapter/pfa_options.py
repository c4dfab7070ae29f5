"""Options of the Prompt Format Adapter."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from runner.stages import Options

Task = Literal["summary", "ner", "match"]
TASKS: tuple[Task, ...] = ("summary", "ner", "match")


class PfaOptions(Options):
    """What a prompt asks for, how it is laid out, and how an answer is read."""

    tasks: Annotated[tuple[Task, ...], Field(min_length=1)] = TASKS
    """Which of the paper's tasks are asked for: `summary` (its Task 1), `ner` and `match` (its Task 2)."""
    labels: tuple[str, ...] | None = None
    """The entity labels named in the prompt; none: the data set's."""
    images: Literal["first", "lettered"] = "first"
    """`first`: all images, then the text, as published; `lettered`: the same order, each segment after its letter."""
    parse: Literal["lossless", "published"] = "lossless"
    """How answers are read: `published` is the paper's Algorithm 1 to the letter; `lossless` also brings back
    entities that hold `:`, `;` or quotes. The scores of the other one are reported beside."""

    @field_validator("tasks")
    @classmethod
    def _in_published_order(cls, tasks: tuple[Task, ...]) -> tuple[Task, ...]:
        ordered = tuple(task for task in TASKS if task in tasks)
        if ordered != tasks:
            raise ValueError(f"each task once and in the order of the paper: [{', '.join(ordered)}]")
        return tasks

    @field_validator("labels")
    @classmethod
    def _labels_can_be_delimited(cls, labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for label in labels or ():
            if not label.strip() or any(sign in label for sign in ":;{}"):
                raise ValueError(f"the label {label!r} cannot stand between `:` and `;`; use letters and spaces")
        return labels
