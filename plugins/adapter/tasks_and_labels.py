"""Checks of the options `tasks` and `labels`, which the adapters share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from runner.errors import SpecError
from runner.records import nfc
from runner.stages.registry import suggestion

TaskName = TypeVar("TaskName", bound=str)


def check_task_order(tasks: tuple[TaskName, ...], all_tasks: Sequence[TaskName]) -> tuple[TaskName, ...]:
    """Return the tasks of an option.

    Raises:
        ValueError: A task occurs twice, or the tasks are not in the order of the answer.
    """
    ordered = tuple(task for task in all_tasks if task in tasks)
    if tasks != ordered:
        raise ValueError(f"list each task once, in the order of the answer: [{', '.join(ordered)}]")
    return tasks


def check_distinct_labels(labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return the labels of an option.

    Raises:
        ValueError: A label occurs twice.
    """
    if labels is not None and len(set(labels)) < len(labels):
        raise ValueError("a label occurs twice; list each label once")
    return labels


def choose_labels(
    option: Sequence[str] | None, labels: Sequence[str], pattern: str, delimiters: str
) -> tuple[str, ...]:
    """Return the labels of the prompt: those of the option, else those of the data set.

    Args:
        option: The option `labels`.
        labels: The labels of the data set.
        pattern: A regular expression that a label matches as a whole.
        delimiters: The characters that a label may not contain, in words.

    Raises:
        SpecError: The option lacks a label of the data set, or a label of the data set does not fit the format.
    """
    chosen = tuple(labels if option is None else option)
    known = frozenset(map(nfc, chosen))
    for label in labels:
        if not re.fullmatch(pattern, label):
            raise SpecError(
                f"the label {label!r} cannot be read back from an answer; a label is one or more words, separated "
                f"by one space, without {delimiters}",
                path=("adapter", "labels"),
            )
        if nfc(label) not in known:
            raise SpecError(
                f"the data set's label {label!r} is missing{suggestion(label, chosen)}; list all of "
                f"[{', '.join(labels)}], or omit `labels`",
                path=("adapter", "labels"),
            )
    return chosen
