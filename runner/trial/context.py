"""The trial context: lazily created data, adapter, model, generator and metrics of one trial."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from runner.errors import DataError
from runner.plan import implement
from runner.records import Rendered, Sample
from runner.rendering import with_examples
from runner.spec.experiment_spec import ExperimentSpec
from runner.stages import Adapter, DatasetInfo, Generator, Metric, Model, Reporter
from runner.trial.cache import Cache
from runner.trial.events import EventLog, StepReporter
from runner.trial.run_directory import RunDirectory


def main_process() -> bool:
    """Whether this process is the one of its worker group that writes; torch's launchers and Ray set `RANK`."""
    return os.environ.get("RANK", "0") == "0"


@dataclass
class TrialContext:
    """What the steps of a trial work with, each piece made when it is first asked for.

    Attributes:
        spec: The trial's plan.
        run: Its folder.
        log: Where it tells what happens.
    """

    spec: ExperimentSpec
    run: RunDirectory
    log: EventLog

    @cached_property
    def _data(self) -> tuple[Any, DatasetInfo]:
        data = implement(self.spec.data)
        info = data.prepare(self.reporter("data"))
        assert self.spec.pinned is not None
        if info.fingerprint != self.spec.pinned.data:
            raise DataError(
                f"{info.location}: the data set is not the one that the plan was made with (fingerprint "
                f"{info.fingerprint[:8]}, planned {self.spec.pinned.data[:8]}); was it changed meanwhile, or is "
                "this machine's copy another one?"
            )
        return data, info

    def samples(self, split: str) -> Sequence[Sample]:
        """The samples of a split."""
        return self._data[0].load(split)  # type: ignore[no-any-return]

    @cached_property
    def adapter(self) -> Adapter:
        """The spec's adapter, told the data set's labels."""
        return implement(self.spec.adapter, self._data[1].labels)  # type: ignore[no-any-return]

    @cached_property
    def model(self) -> Model:
        """The spec's model, not yet loaded."""
        assert self.spec.model is not None
        return implement(self.spec.model)  # type: ignore[no-any-return]

    @cached_property
    def generator(self) -> Generator:
        """The spec's generator."""
        return implement(self.spec.generator)  # type: ignore[no-any-return]

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """The spec's metrics by plugin name, in its order."""
        return {each.type: implement(each) for each in self.spec.metrics}

    def create_all(self) -> None:
        """Make what comes after a training, so that what it lacks is told before.

        Raises:
            RunnerError: The generator or a metric cannot be made.
        """
        _ = self.generator, self.metrics

    def prompts(self, questions: Sequence[Sample], *, of_test: bool = True) -> list[Rendered]:
        """Render prompts with as many few-shot examples as the generator's options set.

        Args:
            questions: The test split, or samples of the training split.
            of_test: True if `questions` is the test split.

        Raises:
            SpecError: The training split has too few samples.
            DataError: A sample lacks what a task asks for.
        """
        number, seed = self.spec.generator_options.num_few_shot, self.spec.seed
        solved = self.samples("train") if number else ()
        test = None if of_test or not number else self.samples("test")
        return with_examples(self.adapter, questions, solved, number, seed, test)

    @cached_property
    def cache(self) -> Cache:
        """What the trials of this storage share."""
        return Cache.of(self.spec.compute.cache, self.run.storage)

    def reporter(self, stage: str) -> Reporter:
        """A reporter for a step of this name."""
        return StepReporter(self.log, stage, self.run.stop_request)
