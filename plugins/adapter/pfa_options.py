"""The options of the Prompt Format Adapter."""

from __future__ import annotations

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
