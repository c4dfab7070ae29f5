"""Answers to samples that training keeps aside, by the model as it is: made, read and counted as the test split's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.errors import SpecError, StepError
from runner.proof.prompts import Progress, prove_prompts
from runner.records import Rendered, Sample
from runner.stages import Counts, Reporter, VisionLanguageModel
from runner.steps.context import TrialContext, main_process
from runner.steps.rendering import prompts_of
from runner.steps.score import count, reduce

STAGE = "validate"
"""Under which its progress is shown."""


@dataclass(frozen=True)
class LiveWeights:
    """A model in memory; see `runner.stages.Weights`."""

    model: VisionLanguageModel

    def folder(self) -> Path:
        """There is none.

        Raises:
            SpecError: Always.
        """
        raise SpecError(
            "the generator reads weights from a folder, and those of a model that is being trained stand in none",
            path=("trainer", "generate_every"),
        )

    def load(self) -> VisionLanguageModel:
        """The model itself."""
        return self.model


class OnceReporter:
    """Passes on what one worker tells, a warning only once; every worker hears that it is to stop."""

    def __init__(self, reporter: Reporter) -> None:
        """Take whom to tell."""
        self._reporter = reporter
        self._told: set[str] = set()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record metrics at an optimizer step."""
        if main_process():
            self._reporter.metrics(step, values)

    def progress(self, done: int, total: int, **shown: float) -> None:
        """Tell how far it is."""
        if main_process():
            self._reporter.progress(done, total, **shown)

    def warn(self, message: str) -> None:
        """Warn of what was not warned of before."""
        if main_process() and message not in self._told:
            self._told.add(message)
            self._reporter.warn(message)

    def stop_requested(self) -> bool:
        """Whether the user asked to stop."""
        return self._reporter.stop_requested()


class TrialExaminer:
    """The examiner of a trial, with its generator, adapter and metrics; see `runner.stages.Examiner`."""

    def __init__(self, context: TrialContext, samples: Sequence[Sample]) -> None:
        """Take the trial and its training split."""
        self._context, self._samples = context, samples
        self._reporter = OnceReporter(context.reporter(STAGE))
        self._prompts: dict[int, Rendered] = {}

    def prepare(self, model: VisionLanguageModel, places: Sequence[int]) -> None:
        """Render the questions and prove that answers find room.

        Raises:
            SpecError: An answer finds no room behind a prompt, or there are too few samples to show.
            DataError: A prompt alone is too long.
        """
        context = self._context
        prompts = prompts_of(context, [self._samples[place] for place in places], of_test=False)
        self._prompts = dict(zip(places, prompts, strict=True))
        progress = Progress(self._reporter, len(prompts))
        prove_prompts(model, prompts, context.spec.generator_options.answer_limit, progress)

    def examine(self, model: VisionLanguageModel, places: Sequence[int]) -> list[Counts]:
        """Have this worker's samples answered, and count.

        Raises:
            StopRequestedError: The user asked to stop.
            StepError: The generator left out a sample.
        """
        if not places:
            return []
        prompts = [self._prompts[place] for place in places]
        told = self._context.generator.generate(LiveWeights(model), prompts, frozenset(), self._reporter)
        outputs = {completion.id: completion.output for completion in told}
        return [self._counts(self._samples[place], outputs) for place in places]

    def _counts(self, sample: Sample, outputs: Mapping[str, str]) -> Counts:
        if sample.id not in outputs:
            raise StepError(f"the generator gave no answer to sample {sample.id}")
        adapter = self._context.adapter
        prediction = adapter.parse(outputs[sample.id], adapter.parse_modes[0])
        return count(self._context.metrics, prediction.answer, adapter.reference(sample))

    def figures(self, counts: Sequence[Counts]) -> dict[str, float | None]:
        """Reduce counts to the figures of all metrics."""
        return reduce(self._context.metrics, counts)
