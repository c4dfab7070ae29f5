"""Generates and scores answers to validation samples during training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import SpecError, StepError
from runner.preflight.check_samples import CheckProgress, check_prompt_lengths
from runner.records import Answer, Rendered, Sample
from runner.regime import parse_row
from runner.spec.experiment_spec import VALIDATION_PREFIX
from runner.stages import Metric, MetricCounts, Reporter, VisionLanguageModel
from runner.trial.score import check_references, reduce_counts, score_sample
from runner.trial.trial_components import TrialContext, is_main_process

VALIDATION_STAGE = "validate"
"""The stage name of the progress of validation answers."""


@dataclass(frozen=True)
class LiveWeights:
    """A model in memory; see `runner.stages.Weights`."""

    model: VisionLanguageModel

    def folder(self) -> Path:
        """Refuse: no folder holds these weights.

        Raises:
            SpecError: Always.
        """
        raise SpecError(
            "the generator reads weights from a folder, and during training the weights are only in memory",
            path=("trainer", "eval_generate_steps"),
        )

    def load(self) -> VisionLanguageModel:
        """The model itself."""
        return self.model


class MainRankReporter:
    """Reports from the main process only, each warning once; every rank can ask whether to stop."""

    def __init__(self, reporter: Reporter) -> None:
        """Wrap the reporter of the trial."""
        self._reporter = reporter
        self._warnings_sent: set[str] = set()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record metrics at an optimizer step."""
        if is_main_process():
            self._reporter.metrics(step, values)

    def progress(self, done: int, total: int, **metrics: float) -> None:
        """Report the progress."""
        if is_main_process():
            self._reporter.progress(done, total, **metrics)

    def warn(self, message: str) -> None:
        """Warn, unless the same message was sent before."""
        if is_main_process() and message not in self._warnings_sent:
            self._warnings_sent.add(message)
            self._reporter.warn(message)

    def stop_requested(self) -> bool:
        """Whether the user asked to stop."""
        return self._reporter.stop_requested()


class ValidationGenerator:
    """Generates and scores answers to validation samples, with the trial's generator, adapter and metrics.

    See `runner.stages.ValidationEvaluator`. A sample is named by the index of its first example in a training.
    """

    def __init__(self, context: TrialContext, samples: Sequence[Sample]) -> None:
        """Create the evaluator of a trial with its training split."""
        self._context, self._samples = context, samples
        self._reporter = MainRankReporter(context.reporter(VALIDATION_STAGE))
        self._prompts: dict[int, list[Rendered]] = {}
        self._metrics: Mapping[str, Metric] = context.metrics

    def prepare(self, model: VisionLanguageModel, indices: Sequence[int]) -> None:
        """Render the prompts and check that they leave enough room for answers.

        Raises:
            SpecError: `max_new_tokens` exceeds the remaining context, too few samples are left as few-shot examples, or
                the metric that selects the best model is undefined on the validation samples.
            DataError: A prompt alone is too long.
        """
        samples = self._samples_at(indices)
        prompts = self._context.validation_prompts(samples)
        number = len(self._context.regime.tasks)
        self._prompts = {index: prompts[number * place :][:number] for place, index in enumerate(indices)}
        self._check_references([self._context.adapter.reference(sample) for sample in samples])
        limits = self._context.prompt_limits(prompts)
        check_prompt_lengths(model, limits, CheckProgress(self._reporter, len(limits.prompts)))

    def _samples_at(self, indices: Sequence[int]) -> list[Sample]:
        return [self._samples[index // len(self._context.regime.tasks)] for index in indices]

    def _check_references(self, references: Sequence[Answer]) -> None:
        """Keep the metrics that are defined on the references, and require that the selection metric is one of them."""
        self._metrics, warnings = check_references(self._context.metrics, references)
        for warning in warnings:
            self._reporter.warn(f"validation samples: {warning}")
        options = self._context.spec.trainer_options
        selection = options.selection_metric if options is not None else None
        if selection is None:
            return
        highest = self.aggregate([score_sample(self._metrics, reference, reference) for reference in references])
        name = selection.metric.removeprefix(VALIDATION_PREFIX)
        if name in highest and highest[name] is None:
            raise SpecError(
                f"{selection.metric} is undefined on the {len(references):,} validation samples, so it cannot select a "
                "model; choose another metric",
                path=("trainer", "metric_for_best_model", "metric"),
            )

    def evaluate(self, model: VisionLanguageModel, indices: Sequence[int]) -> list[MetricCounts]:
        """Generate answers to this rank's samples and score them.

        Raises:
            StopRequestedError: The user asked to stop.
            StepError: The generator left out a sample.
        """
        if not indices:
            return []
        prompts = [prompt for index in indices for prompt in self._prompts[index]]
        regime, rows = self._context.regime, dict[str, dict[str, Any]]()
        for number in range(len(regime.passes)):
            outputs = {key: row["output"] for key, row in rows.items()}
            asked = regime.prompts_of_pass(number, prompts, outputs)
            completions = self._context.generator.generate(LiveWeights(model), asked, frozenset(), self._reporter)
            rows |= {each.id: {"output": each.output, "finished": each.finished} for each in completions}
            if missing := next((prompt.id for prompt in asked if prompt.id not in rows), None):
                raise StepError(f"the generator gave no answer to sample {missing}")
        return [self._score(sample, regime.answer_row(sample.id, rows)) for sample in self._samples_at(indices)]

    def _score(self, sample: Sample, row: Mapping[str, Any]) -> MetricCounts:
        adapter = self._context.adapter
        prediction = parse_row(adapter, row, adapter.parse_modes[0])
        return score_sample(self._metrics, prediction.answer, adapter.reference(sample))

    def aggregate(self, counts: Sequence[MetricCounts]) -> dict[str, float | None]:
        """Reduce the counts of samples to the values of all metrics."""
        return reduce_counts(self._context.metrics, counts)
