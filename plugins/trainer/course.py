"""The course of one training: steps, reports, validation, checkpoints, and the stop in between."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from accelerate import Accelerator

from plugins.trainer.batches import Order
from plugins.trainer.checkpoint import Checkpoints
from plugins.trainer.encoded import EncodedSamples
from plugins.trainer.health import Health, memory_gb
from plugins.trainer.learner import Gradient, Learner, unlabelled
from plugins.trainer.sft_options import SftOptions
from plugins.trainer.validation import ValidationLosses
from runner.errors import StepError
from runner.stages import Features, StopRequestedError, TrainingRun


@dataclass(frozen=True)
class Course:
    """All that a training works with on this worker.

    Attributes:
        options: The trainer's.
        accelerator: With everything prepared.
        learner: Takes the steps.
        checkpoints: Of everything that changes.
        losses: The validation losses, which the checkpoints keep.
        encoded: The whole split.
        order: Which samples train at a step.
        validation: Places of the samples kept aside; may be none.
        num_steps: Optimizer steps of the whole training.
        run: Where to keep checkpoints, and whom to tell.
    """

    options: SftOptions
    accelerator: Accelerator
    learner: Learner
    checkpoints: Checkpoints
    losses: ValidationLosses
    encoded: EncodedSamples
    order: Order
    validation: Sequence[int]
    num_steps: int
    run: TrainingRun

    def complete(self) -> None:
        """Take all steps that are left, from the newest checkpoint on.

        Raises:
            StopRequestedError: The user asked to stop, and a checkpoint was written.
            StepError: The loss or its gradient is no longer a number, or the disk has no room for a checkpoint.
        """
        self._warn(self.checkpoints.room(best=self._keeps_best))
        first = done = self.checkpoints.restore()
        health = Health(self.num_steps)
        began, num_samples = time.perf_counter(), 0
        for step, batch, share in self._encoded_ahead(first):
            if self._stopped_early(done):
                break
            done = step + 1
            figures = self._step(step, batch, share)
            for message in health.warnings(done, figures):
                self._warn(message)
            num_samples += len(batch)
            self._progress(done, figures["train/loss"], num_samples / (time.perf_counter() - began))
            if self._evaluation_due(done):
                self._evaluate(done)
            self._save_or_stop(done)
        self._take_best(done)

    def _save_or_stop(self, done: int) -> None:
        best = self.losses.best() if self._keeps_best else None
        stop = self.learner.any_worker(self.run.reporter.stop_requested())
        if done == self.num_steps:
            return
        if stop or best == done or done % self.options.checkpoint_every == 0:
            self.checkpoints.save(done, best)
        if stop:
            raise StopRequestedError

    @property
    def _keeps_best(self) -> bool:
        return self.options.final == "best"

    def _stopped_early(self, done: int) -> bool:
        """Whether the validation loss has not fallen for as long as the options allow."""
        patience = self.options.early_stopping
        if patience is None or self.losses.since_best() < patience:
            return False
        self._warn(
            f"stopped early after step {done} of {self.num_steps}: the validation loss was lowest after step "
            f"{self.losses.best()}, and {patience} evaluation(s) since then were no better"
        )
        return True

    def _take_best(self, done: int) -> None:
        """Put back the weights of the lowest validation loss, where they are asked for."""
        best = self.losses.best()
        if self._keeps_best and best is not None and best != done:
            self.checkpoints.restore_weights(best)

    def _encoded_ahead(self, first: int) -> Iterator[tuple[int, list[int], list[Features]]]:
        """Yield each step with this worker's samples, the next of which a thread encodes in the meantime."""
        with ThreadPoolExecutor(max_workers=1) as thread:
            waiting = None
            for step, batch in self.order.batches(first, self.num_steps):
                coming = step, batch, thread.submit(self._share, batch)
                if waiting:
                    yield waiting[0], waiting[1], waiting[2].result()
                waiting = coming
            if waiting:
                yield waiting[0], waiting[1], waiting[2].result()

    def _step(self, step: int, batch: Sequence[int], share: Sequence[Features]) -> dict[str, float]:
        began = time.perf_counter()
        rates = self.learner.rates()
        gradient = self.learner.accumulate(share)
        self._check(step, batch, gradient)
        self.learner.apply()
        figures = {
            "train/loss": gradient.loss,
            "train/grad_norm": gradient.norm,
            "train/tokens_per_second": gradient.num_tokens / (time.perf_counter() - began),
            "train/memory_gb": memory_gb(),
            **{f"train/lr/{group}": rate for group, rate in rates.items()},
        }
        self._report(step + 1, figures)
        return figures

    def _share(self, batch: Sequence[int]) -> list[Features]:
        """This worker's samples; one without labels where there are fewer samples than workers."""
        share = [self.encoded[place] for place in self._own(batch)]
        if share:
            return share
        return [unlabelled(self.encoded[batch[0]])]

    def _own(self, places: Sequence[int]) -> Sequence[int]:
        return places[self.accelerator.process_index :: self.accelerator.num_processes]

    def _check(self, step: int, batch: Sequence[int], gradient: Gradient) -> None:
        if math.isfinite(gradient.loss) and math.isfinite(gradient.norm):
            return
        ids = ", ".join(self.encoded.id(place) for place in batch)
        raise StepError(
            f"step {step + 1}: the loss is {gradient.loss} and the norm of its gradient {gradient.norm}, "
            f"after which nothing can be learnt; the samples of the step are {ids}. Lower learning rates, a "
            "longer warm-up or fp32 may help"
        )

    def _evaluation_due(self, done: int) -> bool:
        every = self.options.evaluate_every or self.order.steps_per_epoch
        return bool(self.validation) and (done % every == 0 or done == self.num_steps)

    def _evaluate(self, done: int) -> None:
        loss = self.learner.evaluate(self._validation_batches())
        self.losses.by_step[done] = loss
        self._report(done, {"validation/loss": loss})

    def _validation_batches(self) -> Iterator[list[Features]]:
        own, size = self._own(self.validation), self.options.batch_size
        for start in range(0, len(own), size):
            yield [self.encoded[place] for place in own[start : start + size]]

    def _report(self, done: int, values: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            self.run.reporter.metrics(done, values)

    def _progress(self, done: int, loss: float, samples_per_second: float) -> None:
        if self.accelerator.is_main_process:
            self.run.reporter.progress(done, self.num_steps, loss=loss, samples_per_second=samples_per_second)

    def _warn(self, message: str | None) -> None:
        if message and self.accelerator.is_main_process:
            self.run.reporter.warn(message)
