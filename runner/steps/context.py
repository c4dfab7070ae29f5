"""What the steps of a trial work with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from runner.artifacts import RunDirectory
from runner.cache.cache import Cache
from runner.errors import DataError
from runner.events import EventLog, StepReporter
from runner.plan import implement
from runner.records import Sample
from runner.spec.models import ExperimentSpec
from runner.stages import Adapter, DatasetInfo, Generator, Metric, Model, Reporter


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

    def foresee(self) -> None:
        """Make what comes after a training, so that what it lacks is told before.

        Raises:
            RunnerError: The generator or a metric cannot be made.
        """
        _ = self.generator, self.metrics

    @cached_property
    def cache(self) -> Cache:
        """What the trials of this storage share."""
        return Cache.of(self.spec.compute.cache, self.run.storage)

    def reporter(self, stage: str) -> Reporter:
        """A reporter for a step of this name."""
        return StepReporter(self.log, stage, self.run.stop_request)
