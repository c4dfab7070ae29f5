"""Prompts that show answers to other tasks, which the adapters share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from runner.records import Rendered, TextPart

CONTEXT_INTRODUCTION = (
    "Answers to other questions about this image follow. They may be wrong: where the image shows something else, the "
    "image decides."
)
"""Opens a context. The paper has no context; the wording is ours."""

NEUTRAL_ANSWER = "nothing is said about this here"
"""Takes the place of each answer in a neutral context."""


class ShowsAnswers(ABC):
    """The part of a `TaskAdapter` that does not depend on its tasks.

    Attributes:
        context_names: What a context calls the answer to each task, in the order of the tasks.
    """

    context_names: ClassVar[Mapping[str, str]]

    @abstractmethod
    def context_answer(self, task: str, answer: str) -> str:
        """Return an answer without its headings, in one line; see `TaskAdapter.context_answer`."""

    def with_context(self, rendered: Rendered, answers: Mapping[str, str]) -> Rendered:
        """Append the answers to other tasks to the text of a prompt, one line each; see `TaskAdapter.with_context`."""
        lines = [
            f"{name}: {self.context_answer(task, answers[task])}"
            for task, name in self.context_names.items()
            if task in answers
        ]
        *parts, question = rendered.content
        assert isinstance(question, TextPart)
        text = "\n".join((question.text, CONTEXT_INTRODUCTION, *lines))
        return replace(rendered, content=(*parts, TextPart(text)))

    def neutral_answer(self, task: str) -> str:
        """Return the same words for each task."""
        return NEUTRAL_ANSWER

    def has_context(self, rendered: Rendered) -> bool:
        """Return whether a line of the prompt opens a context."""
        return CONTEXT_INTRODUCTION in rendered.prompt
