"""The components of one trial, created on first use: data, adapter, model, generator and metrics."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from runner.errors import DataError, RequirementError
from runner.preflight.check_samples import PromptLimits
from runner.prompt_rendering import split_groups
from runner.records import Rendered, Sample
from runner.regime import Regime, TrainingExamples
from runner.resolved_plan import create_adapter, create_plugin
from runner.spec.experiment_spec import ExperimentSpec
from runner.stages import Adapter, DatasetInfo, Generator, Metric, Model, ModelOptions, Reporter
from runner.trial.cache_and_mirror import Cache
from runner.trial.run_directory_and_events import EventLog, RunDirectory, StepReporter


def process_rank() -> int:
    """The rank of this process in its worker group; torchrun and Ray set `RANK`."""
    return int(os.environ.get("RANK", "0"))


def num_processes() -> int:
    """The number of processes of the worker group."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this process has rank 0 in its worker group and writes the files."""
    return process_rank() == 0


@dataclass
class TrialContext:
    """The data and the plugins of a trial, each created at its first use.

    Attributes:
        spec: The trial's plan.
        run: The trial's run directory.
        log: The trial's event log.
    """

    spec: ExperimentSpec
    run: RunDirectory
    log: EventLog

    @cached_property
    def _data(self) -> tuple[Any, DatasetInfo]:
        data = create_plugin(self.spec.data)
        info = data.prepare(self.reporter("data"))
        assert self.spec.pinned is not None
        if info.fingerprint != self.spec.pinned.data:
            raise DataError(
                f"{info.location}: the data set differs from the plan's (fingerprint {info.fingerprint[:8]}, the plan "
                f"has {self.spec.pinned.data[:8]}); check whether it was changed since, or whether this machine has "
                "another copy"
            )
        return data, info

    def samples(self, split: str) -> Sequence[Sample]:
        """The samples of a split."""
        return self._data[0].load(split)  # type: ignore[no-any-return]

    @cached_property
    def adapter(self) -> Adapter:
        """The spec's adapter, created with the data set's labels."""
        return create_adapter(self.spec, self._data[1].labels)

    @cached_property
    def regime(self) -> Regime:
        """How samples become training examples and prompts."""
        return Regime(self.spec.regime, self.adapter, self.spec.seed, self.spec.num_target_draws)

    @cached_property
    def training_examples(self) -> TrainingExamples:
        """The examples of the training split, rendered once.

        Raises:
            DataError: A sample lacks a field that a task needs.
            SpecError: The context cannot be shuffled.
        """
        return self.regime.training_examples(self.samples("train"), self.training_groups)

    @cached_property
    def training_groups(self) -> list[str]:
        """The group of each sample of the training split, whose members share content."""
        return split_groups(self.samples("train"), self.spec.max_hash_distance)

    @cached_property
    def model(self) -> Model:
        """The spec's model plugin, which loads the revision of the plan; its weights are not loaded yet."""
        assert self.spec.model is not None
        return create_plugin(replace(self.spec.model, options=self._model_options))  # type: ignore[no-any-return]

    @property
    def _model_options(self) -> ModelOptions:
        assert self.spec.model_options is not None
        assert self.spec.pinned is not None
        return self.spec.model_options.pinned_to(self.spec.pinned.model)

    def check_initial_weights(self) -> None:
        """Compare the weights from which the trial starts with those of its plan, before they are loaded.

        Raises:
            RequirementError: The weights have changed, or are not available on this machine.
        """
        assert self.spec.pinned is not None
        revision, planned = self._model_options.exact_revision(), self.spec.pinned.model
        if revision != planned:
            raise RequirementError(
                f"model: the checkpoint has changed since the plan was resolved (it was {planned} and is now "
                f"{revision}), or this machine has another copy; launch the spec again to use the new weights"
            )

    @cached_property
    def generator(self) -> Generator:
        """The spec's generator."""
        return create_plugin(self.spec.generator)  # type: ignore[no-any-return]

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """The metrics by plugin name, in the order of the spec."""
        return {section.type: create_plugin(section) for section in self.spec.metrics}

    def create_evaluation_plugins(self) -> None:
        """Create the generator and the metrics, so that their errors appear before the training.

        Raises:
            RunnerError: The generator or a metric cannot be created.
        """
        _ = self.generator, self.metrics

    @cached_property
    def test_prompts(self) -> list[Rendered]:
        """The prompts of the test split, rendered once, with the number of few-shot examples that the spec sets.

        They are those of all tasks, sample by sample, as without a pipeline.

        Raises:
            SpecError: The training split has too few samples for the examples.
            DataError: A sample lacks what a task needs.
        """
        return self._prompts(self.samples("test"))

    def _prompts(self, samples: Sequence[Sample], test: Sequence[Sample] | None = None) -> list[Rendered]:
        number = self.spec.generator_options.num_few_shot
        training = self.samples("train") if number else ()
        return self.regime.prompts(samples, training, number, test, max_hash_distance=self.spec.max_hash_distance)

    def prompt_limits(self, prompts: Sequence[Rendered]) -> PromptLimits:
        """Return the prompts of all passes, and the tokens that answers can take.

        Args:
            prompts: Prompts of all tasks, such as `test_prompts`.
        """
        max_new_tokens = self.spec.generator_options.max_answer_tokens
        return PromptLimits(self.regime.longest_prompts(prompts), max_new_tokens, self.regime.max_shown_predictions)

    def validation_prompts(self, samples: Sequence[Sample]) -> list[Rendered]:
        """Render prompts of validation samples with the few-shot examples of the test split.

        Args:
            samples: Samples of the training split.

        Raises:
            SpecError: The training split has too few samples for the examples.
            DataError: A sample lacks what a task needs.
        """
        return self._prompts(samples, self.samples("test") if self.spec.generator_options.num_few_shot else None)

    @cached_property
    def cache(self) -> Cache:
        """The artifact cache, shared by the trials of a storage."""
        return Cache.open(self.spec.compute.cache, self.run.storage)

    def reporter(self, stage: str) -> Reporter:
        """Create a reporter that logs under the name of a stage."""
        return StepReporter(self.log, stage, self.run.stop_request)
