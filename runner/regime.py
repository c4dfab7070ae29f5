"""Turns samples into training examples and prompts, as the section `regime` of a spec says, and parses the answers.

With `prompts: one_pass`, a sample is one example and one prompt. With `per_task`, it has one of each for every task,
whose id is that of the sample, a slash and the task.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from runner.errors import SpecError, StepError
from runner.prompt_rendering import render_few_shot
from runner.records import Answer, Ending, ImagePart, Prediction, Rendered, Sample
from runner.spec.regime_section import RegimeOptions
from runner.stages import Adapter, TaskAdapter


@dataclass(frozen=True)
class TrainingExamples:
    """The examples of a training.

    Attributes:
        draws: The examples of each draw, sample by sample; the epochs use the draws in turn. All draws have the same
            ids in the same order. One draw, unless a shuffled context is drawn anew, or the adapter draws targets.
        plain: The same examples as they are asked at test, with the right targets; equal to the first draw if there is
            neither a context nor a drawn target.
        num_per_sample: Number of examples of each sample.
    """

    draws: Sequence[Sequence[Rendered]]
    plain: Sequence[Rendered]
    num_per_sample: int = 1

    @property
    def first(self) -> Sequence[Rendered]:
        """The examples of the first epoch."""
        return self.draws[0]

    @property
    def distinct(self) -> list[Rendered]:
        """All examples that a training can use, each once: those of all draws, and the plain ones."""
        lists = [*self.draws, self.plain]
        return [
            example
            for number, examples in enumerate(lists)
            for index, example in enumerate(examples)
            if not any(example is earlier[index] for earlier in lists[:number])
        ]

    def groups(self, groups_of_samples: Sequence[str]) -> list[str]:
        """Return the group of each example, which is that of its sample."""
        return [group for group in groups_of_samples for _ in range(self.num_per_sample)]


class Regime:
    """Renders samples and parses answers as the options of a regime say."""

    def __init__(self, options: RegimeOptions, adapter: Adapter, seed: int, num_target_draws: int = 0) -> None:
        """Take the adapter of the spec.

        Args:
            options: The section `regime`.
            adapter: The adapter; a `TaskAdapter` unless all tasks are in one prompt.
            seed: Random seed of a shuffled context, and of drawn targets.
            num_target_draws: Number of targets that the adapter draws for each sample; a `TargetDrawer` if above 0.
        """
        self.options, self.adapter, self._seed = options, adapter, seed
        self._num_target_draws = num_target_draws
        self.tasks = tuple(self._task_adapter.tasks) if options.is_per_task else ("",)

    @cached_property
    def adapters(self) -> Mapping[str, Adapter]:
        """The adapter of each prompt, by task; `""` is the task of a prompt that asks all of them."""
        if not self.options.is_per_task:
            return {"": self.adapter}
        return {task: self._task_adapter.for_task(task) for task in self.tasks}

    @property
    def _task_adapter(self) -> TaskAdapter:
        if not isinstance(self.adapter, TaskAdapter):
            raise SpecError(
                "this adapter cannot ask each task with its own prompt; write `one_pass`", path=("regime", "prompts")
            )
        return self.adapter

    def training_examples(self, samples: Sequence[Sample], groups: Sequence[str]) -> TrainingExamples:
        """Render the training split.

        Args:
            samples: The samples.
            groups: The group of each sample; samples that share a text or an image are in the same group.

        Raises:
            DataError: A sample lacks a field that a task needs.
            SpecError: The context cannot be shuffled, because too many samples share content.
        """
        plain = [self._render_tasks(sample) for sample in samples]
        flat = [example for examples in plain for example in examples.values()]
        if not self.options.context and not self._num_target_draws:
            return TrainingExamples([flat], flat, len(self.tasks))
        draws = []
        for draw in range(max(self.options.context_draws, self._num_target_draws)):
            donors = self._donors(groups, draw)
            draws.append(
                [
                    self._add_context(example, plain[donor])
                    for sample, examples, donor in zip(samples, plain, donors, strict=True)
                    for example in self._draw_targets(sample, examples, draw).values()
                ]
            )
        return TrainingExamples(draws, flat, len(self.tasks))

    def _draw_targets(self, sample: Sample, plain: Mapping[str, Rendered], draw: int) -> Mapping[str, Rendered]:
        """Return the examples of a sample with the targets of a draw; the plain ones if no targets are drawn."""
        if not self._num_target_draws:
            return plain
        number = draw % self._num_target_draws
        adapters: Mapping[str, Any] = self.adapters
        return {
            task: _of_task(adapter.draw_target(sample, number, self._seed), task) for task, adapter in adapters.items()
        }

    def _render_tasks(self, sample: Sample) -> dict[str, Rendered]:
        return {task: _of_task(adapter.render_training(sample), task) for task, adapter in self.adapters.items()}

    def _donors(self, groups: Sequence[str], draw: int) -> Sequence[int]:
        """Return the index of the sample whose annotations each sample's context shows."""
        if self.options.context_content != "shuffled":
            return range(len(groups))
        return shuffle_between_groups(groups, f"context {draw % self.options.context_draws} {self._seed}")

    def _add_context(self, example: Rendered, donor: Mapping[str, Rendered]) -> Rendered:
        answers = self._context_answers(example.task, donor)
        return self._task_adapter.with_context(example, answers) if answers else example

    def _context_answers(self, task: str, donor: Mapping[str, Rendered]) -> dict[str, str]:
        """Return the answers that the prompt of a task shows.

        Args:
            task: The task.
            donor: The examples of the sample whose annotations are shown, by task.
        """
        shown = self.options.context.get(task, ())
        if self.options.context_content == "neutral":
            return {other: self._task_adapter.neutral_answer(other) for other in shown}
        return {other: donor[other].target or "" for other in shown}

    def prompts(
        self,
        samples: Sequence[Sample],
        training: Sequence[Sample],
        num_few_shot: int,
        test: Sequence[Sample] | None = None,
        *,
        max_hash_distance: int | None = None,
    ) -> list[Rendered]:
        """Render the prompts of all tasks, sample by sample, as without a pipeline; see `render_few_shot`."""
        by_task = [
            [
                _of_task(prompt, task)
                for prompt in render_few_shot(
                    adapter, samples, training, num_few_shot, self._seed, test, max_hash_distance=max_hash_distance
                )
            ]
            for task, adapter in self.adapters.items()
        ]
        return [prompt for prompts_of_sample in zip(*by_task, strict=True) for prompt in prompts_of_sample]

    @cached_property
    def passes(self) -> Sequence[Sequence[str]]:
        """The tasks that each pass at test asks."""
        return self.options.passes(self.tasks)

    def prompts_of_pass(self, number: int, prompts: Sequence[Rendered], outputs: Mapping[str, str]) -> list[Rendered]:
        """Select the prompts of a pass, and add the predictions that they show.

        Args:
            number: The pass, counted from 0.
            prompts: The prompts of all tasks, as without a pipeline.
            outputs: The answers of the earlier passes by id of the prompt.
        """
        selected = []
        for prompt in prompts:
            if prompt.task in self.passes[number]:
                sample = prompt.sample_id
                shown = {task: outputs[_task_id(sample, task)] for task in self.options.pipeline.get(prompt.task, ())}
                selected.append(self._task_adapter.with_context(prompt, shown) if shown else prompt)
        return selected

    def longest_prompts(self, prompts: Sequence[Rendered]) -> list[Rendered]:
        """Return the prompts of all tasks, with neutral words in place of predictions, which are not known yet."""
        neutral = {
            _task_id(prompt.sample_id, prompt.task): self._task_adapter.neutral_answer(prompt.task)
            for prompt in prompts
            if self.options.pipeline
        }
        return [
            prompt for number in range(len(self.passes)) for prompt in self.prompts_of_pass(number, prompts, neutral)
        ]

    @property
    def max_shown_predictions(self) -> int:
        """The largest number of predictions that a prompt shows at test."""
        return max((len(shown) for shown in self.options.pipeline.values()), default=0)

    def answer_row(self, sample: str, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Merge the answers to the prompts of a sample into one row of `predictions.jsonl`.

        Args:
            sample: The id of the sample.
            rows: The stored answers by id of the prompt, each with `output` and `finished`.
        """
        if not self.options.is_per_task:
            return dict(rows[sample])
        answers = {task: rows[_task_id(sample, task)] for task in self.tasks}
        outputs = {task: answer["output"] for task, answer in answers.items()}
        return {
            "id": sample,
            "output": "\n".join(outputs.values()),
            "finished": all(answer["finished"] for answer in answers.values()),
            "outputs": outputs,
        }

    def check_examples(self, samples: Sequence[Sample], examples: TrainingExamples, groups: Sequence[str]) -> None:
        """Compare what was rendered for training with the prompts at test, before anything is trained.

        Raises:
            StepError: A prompt of training differs from that of test in more than its context; a context is not the
                adapter's template with the answers, byte for byte; or a shuffled context is that of the sample's own
                group.
        """
        prompts = (adapter.render_prompt(sample) for sample in samples for adapter in self.adapters.values())
        for plain, prompt in zip(examples.plain, prompts, strict=True):
            if prompt.content != plain.content:
                raise StepError(
                    f"sample {plain.id}: the adapter renders different prompts for training (render_training) and for "
                    "generation (render_prompt); they must be equal"
                )
        for draw, drawn in enumerate(examples.draws):
            donors = self._donors(groups, draw)
            if self.options.context and self.options.context_content == "shuffled":
                _check_donors(groups, donors)
            for position, (plain, example) in enumerate(zip(examples.plain, drawn, strict=True)):
                start = donors[position // examples.num_per_sample] * examples.num_per_sample
                donor = {each.task: each for each in examples.plain[start : start + examples.num_per_sample]}
                sample = samples[position // examples.num_per_sample]
                expected = self._draw_targets(sample, {plain.task: plain}, draw)[plain.task]
                self._check_context(expected, example, self._context_answers(plain.task, donor))

    def _check_context(self, plain: Rendered, example: Rendered, answers: Mapping[str, str]) -> None:
        """Check that a prompt is the plain one with the adapter's template around the answers.

        The template comes from answers of a single private-use character each. So gold, shuffled and neutral contexts
        have the same template.
        """
        expected = plain.prompt
        if answers:
            marks = {task: chr(0xF0000 + number) for number, task in enumerate(answers)}
            expected = self._task_adapter.with_context(plain, marks).prompt
            for task, mark in marks.items():
                expected = expected.replace(mark, self._task_adapter.context_answer(task, answers[task]))
        if (example.prompt, example.images, example.target) != (expected, plain.images, plain.target):
            raise StepError(
                f"sample {example.id}: the prompt of training is not the prompt of generation with the context that "
                f"the spec names: {', '.join(answers) or 'none'}"
            )

    def check_prompts(self, prompts: Sequence[Rendered]) -> dict[str, str]:
        """Check that no prompt for generation shows a context, and identify the prompts.

        Returns:
            For each task, the SHA-256 of its prompts, with the names of image files; equal prompts have equal values.
            A prompt that asks several tasks has one value, under the names of all of them.

        Raises:
            StepError: A prompt shows a context.
        """
        digests = {task: hashlib.sha256() for task in self.tasks}
        for prompt in prompts:
            shown = (prompt, *prompt.examples)
            if self.options.is_per_task and any(self._task_adapter.has_context(each) for each in shown):
                raise StepError(f"sample {prompt.id}: the prompt for generation shows a context of training")
            content = [
                [part.path.name if isinstance(part, ImagePart) else part.text for part in each.content]
                for each in shown
            ]
            digests[prompt.task].update(json.dumps([prompt.sample_id, content]).encode())
        all_tasks = ", ".join(self.adapter.tasks) if isinstance(self.adapter, TaskAdapter) else ""
        return {task or all_tasks: digest.hexdigest() for task, digest in digests.items()}


def parse_row(adapter: Adapter, row: Mapping[str, Any], mode: str) -> Prediction:
    """Parse a row of `predictions.jsonl`: one answer, or one for each task (`outputs`); never raises for any text.

    Args:
        adapter: The adapter of all tasks.
        row: `output`, and `outputs` by task if each task had its own prompt.
        mode: The parse mode.
    """
    outputs = row.get("outputs")
    if not outputs or not isinstance(adapter, TaskAdapter):
        return adapter.parse(row["output"], mode)
    return merge_predictions(
        {task: adapter.for_task(task).parse(outputs.get(task, ""), mode) for task in adapter.tasks}
    )


WORST_FIRST: Sequence[Ending] = ("malformed", "repaired", "clean")


def merge_predictions(predictions: Mapping[str, Prediction]) -> Prediction:
    """Merge the answers to single tasks into one prediction, which ends as the worst of them.

    Args:
        predictions: The parsed answers by task; each part of an answer is in at most one of them.
    """
    answers = [prediction.answer for prediction in predictions.values()]
    endings = {prediction.ending for prediction in predictions.values()}
    return Prediction(
        Answer(
            summary=next((answer.summary for answer in answers if answer.summary is not None), None),
            pairs=next((answer.pairs for answer in answers if answer.pairs is not None), None),
            mapping=next((answer.mapping for answer in answers if answer.mapping is not None), None),
            grounded=next((answer.grounded for answer in answers if answer.grounded is not None), None),
        ),
        next(ending for ending in WORST_FIRST if ending in endings),
        tuple(f"{task}: {note}" for task, prediction in predictions.items() for note in prediction.notes),
    )


def shuffle_between_groups(groups: Sequence[str], seed: str) -> list[int]:
    """Assign to each element the index of an element of another group; each index is assigned once.

    The members of each group are placed next to one another on a circle, in random order, and each element gets the
    one that is a random number of places further: at least as many as the largest group has members, and as many before
    a full turn. So the assignment is random, but not uniform over all possible ones.

    Raises:
        SpecError: A group has more than half of the elements, so that there is no such assignment.
    """
    shuffled = random.Random(seed)
    members: dict[str, list[int]] = {}
    for index in shuffled.sample(range(len(groups)), len(groups)):
        members.setdefault(groups[index], []).append(index)
    circle = [index for group in members.values() for index in group]
    largest = max(map(len, members.values()), default=0)
    if 2 * largest > len(groups):
        raise SpecError(
            f"the context cannot be shuffled: {largest:,} of {len(groups):,} training samples share a text or an image "
            "(also through other samples), so they cannot all get annotations of another group; use more samples",
            path=("regime", "context_content"),
        )
    shift = shuffled.randint(largest, len(groups) - largest) if groups else 0
    assigned = [0] * len(groups)
    for position, index in enumerate(circle):
        assigned[index] = circle[(position + shift) % len(circle)]
    return assigned


def _check_donors(groups: Sequence[str], donors: Sequence[int]) -> None:
    """Raise if the context of a sample is that of its own group, or if a sample's annotations are used twice."""
    if any(groups[donor] == group for group, donor in zip(groups, donors, strict=True)):
        raise StepError("a shuffled context shows the annotations of a sample of the same group")
    if any(number > 1 for number in Counter(donors).values()):
        raise StepError("a shuffled context shows the annotations of a sample twice")


def _of_task(rendered: Rendered, task: str) -> Rendered:
    return replace(rendered, id=_task_id(rendered.id, task), task=task) if task else rendered


def _task_id(sample: str, task: str) -> str:
    return f"{sample}/{task}" if task else sample
