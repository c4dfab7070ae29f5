"""Validation during training: loss and generated answers, when due."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from accelerate import Accelerator
from accelerate.utils import gather_object

from plugins.trainer.encoded_samples import EncodedSamples, is_skipped
from plugins.trainer.sft_options import VALIDATION_LOSS, SftOptions
from plugins.trainer.train_step import TrainStep
from plugins.trainer.training_history_and_warnings import TrainingHistory
from plugins.trainer.training_schedule import ExamplesByEpoch
from runner.stages import Features, StopRequestedError, TrainingRun, ValidationEvaluator

METRIC_PREFIX = "validation/"
"""Prefix of the names of validation metrics."""


@dataclass(frozen=True)
class ValidationLoop:
    """The validation part of a training on this worker.

    Attributes:
        options: The trainer's options.
        accelerator: The accelerator, with model and optimizers prepared.
        train_step: The training step, which holds the model.
        encoded: All examples, encoded on first use.
        examples: The indices of examples among all of them.
        validation: Indices of the validation samples; may be empty.
        steps_per_epoch: Optimizer steps of one epoch.
        num_steps: Optimizer steps of the whole training.
        history: Records the validation metrics.
        run: The reporter, and the evaluator of generated answers.
    """

    options: SftOptions
    accelerator: Accelerator
    train_step: TrainStep
    encoded: EncodedSamples
    examples: ExamplesByEpoch
    validation: Sequence[int]
    steps_per_epoch: int
    num_steps: int
    history: TrainingHistory
    run: TrainingRun

    def prepare(self) -> None:
        """Let the evaluator render the prompts of the validation samples; see `ValidationEvaluator.prepare`."""
        if self.run.evaluator is not None:
            self.run.evaluator.prepare(self.train_step.model, self._generated_samples())

    def evaluate(self, num_done: int) -> None:
        """Compute the validation metrics that are due after a step.

        Metrics that the history already has for this step, from before an interruption, are not computed again.

        Raises:
            StopRequestedError: The user asked to stop during generation. It is raised on all workers; the validation
                loss is recorded.
        """
        recorded = self.history.measured_at(num_done)
        if self._is_due(num_done, self.options.eval_steps or self.steps_per_epoch) and VALIDATION_LOSS not in recorded:
            self._record(num_done, {VALIDATION_LOSS: self.train_step.validation_loss(self._batches())})
        interval, evaluator = self.options.eval_generate_steps, self.run.evaluator
        has_answers = bool(recorded - {VALIDATION_LOSS})
        if interval and evaluator is not None and self._is_due(num_done, interval) and not has_answers:
            metrics = self._evaluate_answers(evaluator)
            self._record(num_done, {METRIC_PREFIX + name: value for name, value in metrics.items()})

    def _is_due(self, num_done: int, interval: int) -> bool:
        return bool(self.validation) and (num_done % interval == 0 or num_done == self.num_steps)

    def _record(self, num_done: int, metrics: Mapping[str, float | None]) -> None:
        """Record metrics. One that is None could not be computed; a loss that is not finite has diverged."""
        values = {name: math.nan if value is None else value for name, value in metrics.items()}
        self.history.add(num_done, values)
        if not self.accelerator.is_main_process:
            return
        if known := {name: values[name] for name, value in metrics.items() if value is not None}:
            self.run.reporter.metrics(num_done, known)
        if not math.isfinite(values.get(VALIDATION_LOSS, 0.0)):
            self.run.reporter.warn(
                f"step {num_done}: {VALIDATION_LOSS} is {values[VALIDATION_LOSS]}, so it is not used to select a model"
            )

    def _generated_samples(self) -> Sequence[int]:
        """Return the first example of each sample whose answers are generated."""
        return self.validation[:: self.run.num_per_sample][: self.options.eval_generate_samples]

    def _evaluate_answers(self, evaluator: ValidationEvaluator) -> Mapping[str, float | None]:
        """Generate this worker's answers, and compute the metrics from the counts of all workers in sample order."""
        local_indices, counts = self._local(self._generated_samples()), None
        # Generation also encodes, and tokenizers are not thread-safe.
        with self.encoded.paused(), self.train_step.generation_mode() as model, suppress(StopRequestedError):
            counts = evaluator.evaluate(model, local_indices)
        if self.train_step.any_worker(counts is None):
            raise StopRequestedError
        gathered = gather_object(list(zip(local_indices, counts or (), strict=True)))
        return evaluator.aggregate([count for _, count in sorted(gathered, key=lambda pair: pair[0])])

    def _batches(self) -> Iterator[list[Features]]:
        local_indices, size = self._local(self.validation), self.options.global_batch_size
        for start in range(0, len(local_indices), size):
            batch = [self.encoded[self.examples.plain_index(index)] for index in local_indices[start : start + size]]
            yield [sample for sample in batch if not is_skipped(sample)]

    def _local(self, indices: Sequence[int]) -> Sequence[int]:
        return indices[self.accelerator.process_index :: self.accelerator.num_processes]
