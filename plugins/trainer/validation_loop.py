"""Validation during training: loss and generated answers, when due."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from accelerate import Accelerator
from accelerate.utils import gather_object

from plugins.trainer.encoded_samples import EncodedSamples, is_skipped
from plugins.trainer.sft_options import LOSS, SftOptions
from plugins.trainer.train_step import TrainStep
from plugins.trainer.training_history import History
from runner.stages import AnswerEvaluator, Features, StopRequestedError, TrainingRun

VALIDATION = "validation/"
"""Before the names of the figures."""


@dataclass(frozen=True)
class ValidationLoop:
    """The validation part of a training on this worker.

    Attributes:
        options: The trainer's.
        accelerator: With everything prepared.
        train_step: Has the model.
        encoded: The whole split.
        places: Of the samples kept aside; may be none.
        steps_per_epoch: Optimizer steps.
        num_steps: Of the whole training.
        history: Takes what is measured.
        run: Whom to tell, and who has samples answered.
    """

    options: SftOptions
    accelerator: Accelerator
    train_step: TrainStep
    encoded: EncodedSamples
    places: Sequence[int]
    steps_per_epoch: int
    num_steps: int
    history: History
    run: TrainingRun

    def prepare(self) -> None:
        """Let the evaluator see what will be asked about; see `AnswerEvaluator.prepare`."""
        if self.run.evaluator is not None:
            self.run.evaluator.prepare(self.train_step.model, self._asked())

    def evaluate(self, done: int) -> None:
        """Measure what is due after a step and was not measured before a training was interrupted there.

        Raises:
            StopRequestedError: The user asked to stop while answers were written: on all workers, with the loss noted.
        """
        measured = self.history.measured(done)
        if self._due(done, self.options.eval_steps or self.steps_per_epoch) and LOSS not in measured:
            self._note(done, {LOSS: self.train_step.validation_loss(self._batches())})
        every, evaluator = self.options.eval_generate_steps, self.run.evaluator
        if every and evaluator is not None and self._due(done, every) and not measured - {LOSS}:
            told = self._examined(evaluator)
            self._note(done, {VALIDATION + name: math.nan if value is None else value for name, value in told.items()})

    def _due(self, done: int, every: int) -> bool:
        return bool(self.places) and (done % every == 0 or done == self.num_steps)

    def _note(self, done: int, figures: Mapping[str, float]) -> None:
        self.history.add(done, figures)
        if not self.accelerator.is_main_process:
            return
        if numbers := {name: value for name, value in figures.items() if math.isfinite(value)}:
            self.run.reporter.metrics(done, numbers)
        if not math.isfinite(figures.get(LOSS, 0.0)):
            self.run.reporter.warn(f"step {done}: {LOSS} is {figures[LOSS]}, which decides nothing")

    def _asked(self) -> Sequence[int]:
        return self.places[: self.options.eval_generate_samples]

    def _examined(self, evaluator: AnswerEvaluator) -> Mapping[str, float | None]:
        """Have each worker's share answered, and reduce the counts of all in the order of the samples."""
        own, counts = self._own(self._asked()), None
        # Answering encodes too, and tokenizers do not bear two threads at once.
        with self.encoded.paused(), self.train_step.answering() as model, suppress(StopRequestedError):
            counts = evaluator.evaluate(model, own)
        if self.train_step.any_worker(counts is None):
            raise StopRequestedError
        gathered = gather_object(list(zip(own, counts or (), strict=True)))
        return evaluator.figures([each for _, each in sorted(gathered, key=lambda pair: pair[0])])

    def _batches(self) -> Iterator[list[Features]]:
        own, size = self._own(self.places), self.options.global_batch_size
        for start in range(0, len(own), size):
            batch = [self.encoded[place] for place in own[start : start + size]]
            yield [each for each in batch if not is_skipped(each)]

    def _own(self, places: Sequence[int]) -> Sequence[int]:
        return places[self.accelerator.process_index :: self.accelerator.num_processes]
