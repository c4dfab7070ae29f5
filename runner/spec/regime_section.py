"""The `regime` section: one prompt or one for each task, and what the prompts show of answers to other tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, Literal

from pydantic import Field

from runner.errors import Problem
from runner.stages import Options
from runner.stages.registry import suggestion

TasksByTask = dict[str, Annotated[tuple[str, ...], Field(min_length=1)]]


class RegimeOptions(Options):
    """How tasks are put into prompts, in training and at test. Its default is the paper's: one prompt for all tasks."""

    prompts: Literal["one_pass", "per_task"] = "one_pass"
    """`one_pass`: one prompt asks all tasks, and one answer holds all of them, as in the paper. `per_task`: each task
    has its own prompt, so that each sample gives one training example a task; at test each task is asked by its own
    prompt, and the answers to a sample together are one prediction."""

    context: TasksByTask = Field(default={})
    """For each task, the other tasks whose answers its prompt shows in training, such as `{ner: [summary]}`. Prompts at
    test show none of them. Needs `prompts: per_task`."""

    context_content: Literal["gold", "shuffled", "neutral"] = "gold"
    """The answers in the context. `gold`: the annotations of the sample. `shuffled`: the annotations of another sample,
    which shares neither text nor image with this one. `neutral`: words that say nothing, in the same template."""

    context_draws: Annotated[int, Field(ge=1, le=100)] = 1
    """With `shuffled`: number of random assignments of other samples. The epochs use them in turn. With 1, a sample has
    the same context in every epoch; with the number of epochs, the context is drawn anew for each epoch."""

    pipeline: TasksByTask = Field(default={})
    """For each task, the other tasks whose predictions its prompt shows at test, such as `{match: [ner]}`. Those tasks
    are answered first, so that a chain of n tasks takes n passes. Needs `prompts: per_task`."""

    @property
    def is_per_task(self) -> bool:
        """Whether each task has its own prompt."""
        return self.prompts == "per_task"

    def training_settings(self) -> dict[str, Any]:
        """Return the options that change what is trained on."""
        return self.model_dump(mode="json", exclude={"pipeline"})

    def passes(self, tasks: Sequence[str]) -> list[list[str]]:
        """Return the tasks of each pass at test: a task comes after those whose predictions its prompt shows.

        Args:
            tasks: All tasks; within a pass they keep this order.

        Raises:
            graphlib.CycleError: A task needs its own prediction, directly or through others.
        """
        sorter = TopologicalSorter({task: self.pipeline.get(task, ()) for task in tasks})
        sorter.prepare()
        passes = []
        while ready := sorter.get_ready():
            passes.append([task for task in tasks if task in ready])
            sorter.done(*ready)
        return passes

    def describe(self, tasks: Sequence[str]) -> str:
        """Say in one line what a training with these options learns from, and what prompts at test show."""
        listed = ", ".join(tasks)
        if not self.is_per_task:
            return f"one prompt for {listed}" if tasks else "one prompt"
        parts = [f"a prompt each for {listed}"]
        source = {"gold": "", "shuffled": " of another sample", "neutral": " replaced by neutral words"}
        parts += [
            f"{task} shows {' and '.join(others)}{source[self.context_content]}"
            for task, others in self.context.items()
        ]
        if self.context_draws > 1:
            parts.append(f"{self.context_draws} draws")
        parts += [f"at test {task} shows predicted {' and '.join(others)}" for task, others in self.pipeline.items()]
        return "; ".join(parts)

    def problems(self, tasks: Sequence[str], adapter: str) -> Iterator[Problem]:
        """Yield what is wrong with these options for an adapter.

        Args:
            tasks: The tasks of the adapter's options; empty if it cannot ask them apart.
            adapter: The name of the adapter.
        """
        if self.is_per_task and not tasks:
            yield Problem(
                f"the adapter {adapter!r} cannot ask each task with its own prompt; write `one_pass`",
                ("regime", "prompts"),
            )
            return
        for name, graph in (("context", self.context), ("pipeline", self.pipeline)):
            if graph and not self.is_per_task:
                yield Problem("has no effect with `prompts: one_pass`; write `prompts: per_task`", ("regime", name))
            elif graph:
                yield from _task_problems(name, graph, tasks)
        for name, is_set in (
            ("context_content", self.context_content != "gold"),
            ("context_draws", self.context_draws > 1),
        ):
            if is_set and not self.context:
                yield Problem("has no effect without `context`, such as {ner: [summary]}", ("regime", name))
        if self.context and self.context_draws > 1 and self.context_content != "shuffled":
            yield Problem(
                f"has no effect with `context_content: {self.context_content}`, which is the same in every epoch; "
                "remove it, or write `context_content: shuffled`",
                ("regime", "context_draws"),
            )
        yield from self._cycle_problems(tasks)

    def _cycle_problems(self, tasks: Sequence[str]) -> Iterator[Problem]:
        # A task that needs itself is reported apart, with its own place.
        known = {task: [other for other in others if other != task] for task, others in self.pipeline.items()}
        try:
            self.model_copy(update={"pipeline": known}).passes(tuple(dict.fromkeys((*tasks, *known))))
        except CycleError as error:
            # graphlib lists each task before the one that waits for it.
            cycle = " needs ".join(reversed(error.args[1]))
            message = f"has a cycle, so no task can come first: {cycle}; remove one of them"
            yield Problem(message, ("regime", "pipeline"))


def _task_problems(name: str, graph: Mapping[str, Sequence[str]], tasks: Sequence[str]) -> Iterator[Problem]:
    for task, others in graph.items():
        if task not in tasks:
            yield Problem(f"adapter.tasks has no task {task!r}{suggestion(task, tasks)}", ("regime", name, task))
        for index, other in enumerate(others):
            path = ("regime", name, task, index)
            if other == task:
                yield Problem(f"the prompt of {task!r} cannot show the answer to {task!r} itself; remove it", path)
            elif other not in tasks:
                yield Problem(f"adapter.tasks has no task {other!r}{suggestion(other, tasks)}", path)
            elif other in others[:index]:
                yield Problem(f"{other!r} is listed twice; list each task once", path)
