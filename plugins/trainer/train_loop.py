"""The training loop: steps, logging, validation, checkpoints and early stopping."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from accelerate import Accelerator

from plugins.trainer.batches import EpochSampler
from plugins.trainer.checkpoint import Checkpoints
from plugins.trainer.encoded_samples import EncodedSamples, is_skipped
from plugins.trainer.sft_options import SftOptions
from plugins.trainer.train_step import LocalBatch, TrainStep, unlabelled
from plugins.trainer.training_history import History, TrainingMonitor
from plugins.trainer.validation_loop import ValidationLoop
from runner.stages import StopRequestedError, TrainingRun


@dataclass(frozen=True)
class TrainLoop:
    """All that a training works with on this worker.

    Attributes:
        options: The trainer's.
        accelerator: With everything prepared.
        train_step: Takes the steps.
        checkpoints: Of everything that changes.
        history: What the checkpoints keep beside the weights.
        encoded: The whole split.
        order: Which samples train at a step.
        validation: Places of the samples kept aside; may be none.
        num_steps: Optimizer steps of the whole training.
        run: Where to keep checkpoints, and whom to tell.
    """

    options: SftOptions
    accelerator: Accelerator
    train_step: TrainStep
    checkpoints: Checkpoints
    history: History
    encoded: EncodedSamples
    order: EpochSampler
    validation: Sequence[int]
    num_steps: int
    run: TrainingRun

    @cached_property
    def _held_out(self) -> ValidationLoop:
        return ValidationLoop(
            options=self.options,
            accelerator=self.accelerator,
            train_step=self.train_step,
            encoded=self.encoded,
            places=self.validation,
            steps_per_epoch=self.order.steps_per_epoch,
            num_steps=self.num_steps,
            history=self.history,
            run=self.run,
        )

    def complete(self) -> None:
        """Take all steps that are left, from the newest checkpoint on.

        Raises:
            StopRequestedError: The user asked to stop, and a checkpoint was written.
            StepError: The loss or its gradient is no longer a number, or the disk has no room for a checkpoint.
        """
        self._warn(self.checkpoints.room(best=self._keeps_best))
        self._held_out.prepare()
        first = done = self.checkpoints.restore()
        if done:
            self._evaluate(done)
        health = TrainingMonitor(self.num_steps)
        began, num_samples = time.perf_counter(), 0
        for step, batch, share in self._encoded_ahead(first):
            if self._stopped_early(done):
                break
            done = step + 1
            figures = self._train_step(step, batch, share)
            for message in health.warnings(done, figures):
                self._warn(message)
            num_samples += len(batch)
            self._progress(done, figures, num_samples / (time.perf_counter() - began))
            self._evaluate(done)
            self._save_or_stop(done)
        self._take_best(done)

    def _evaluate(self, done: int) -> None:
        """Measure what is due; what a stop leaves unmeasured is measured when the training goes on from here."""
        try:
            self._held_out.evaluate(done)
        except StopRequestedError:
            self.checkpoints.save(done, self._best())
            raise

    def _save_or_stop(self, done: int) -> None:
        best = self._best()
        stop = self.train_step.any_worker(self.run.reporter.stop_requested())
        if done == self.num_steps:
            return
        if stop or best == done or done % self.options.save_steps == 0:
            self.checkpoints.save(done, best)
        if stop:
            raise StopRequestedError

    @property
    def _keeps_best(self) -> bool:
        return self.options.load_best_model_at_end

    def _best(self) -> int | None:
        """The step whose checkpoint stays for its figure."""
        return self.history.best() if self._keeps_best else None

    def _stopped_early(self, done: int) -> bool:
        """Whether nothing better was measured for as long as the options allow."""
        patience = self.options.early_stopping_patience
        if patience is None or self.history.since_best() < patience:
            return False
        metric = self.options.metric_for_best_model.metric
        self._warn(
            f"stopped early after step {done} of {self.num_steps}: {metric} was best after step "
            f"{self.history.best()}, and {patience} evaluation(s) since then were no better"
        )
        return True

    def _take_best(self, done: int) -> None:
        """Put back the best weights, where they are asked for."""
        if not self._keeps_best:
            return
        best = self.history.best()
        if best is None:
            metric = self.options.metric_for_best_model.metric
            self._warn(f"{metric} was never measured, so that the last weights are the result")
        elif best != done:
            self.checkpoints.restore_weights(best)

    def _encoded_ahead(self, first: int) -> Iterator[tuple[int, list[int], LocalBatch]]:
        """Yield each step with this worker's samples, the next of which a thread encodes in the meantime."""
        with ThreadPoolExecutor(max_workers=1) as thread:
            waiting = None
            for step, batch in self.order.batches(first, self.num_steps):
                coming = step, batch, thread.submit(self._local_batch, batch)
                if waiting:
                    yield waiting[0], waiting[1], waiting[2].result()
                waiting = coming
            if waiting:
                yield waiting[0], waiting[1], waiting[2].result()

    def _train_step(self, step: int, places: Sequence[int], batch: LocalBatch) -> dict[str, float]:
        """Take one step and report its metrics."""
        metrics = self.train_step.run(step, [self.encoded.id(place) for place in places], batch)
        if self.options.on_overlength == "skip":
            self.history.num_skipped += self.train_step.total(batch.num_skipped)
            metrics["train/samples_skipped"] = self.history.num_skipped
        self._report(step + 1, metrics)
        return metrics

    def _local_batch(self, places: Sequence[int]) -> LocalBatch:
        """Encode this worker's samples; if none is left, the first sample of the batch, without its labels."""
        own = [self.encoded[place] for place in self._own(places)]
        samples = [each for each in own if not is_skipped(each)]
        num_skipped = len(own) - len(samples)
        if not samples:
            others = (self.encoded[place] for place in places)
            samples = [unlabelled(each) for each in islice((each for each in others if not is_skipped(each)), 1)]
        return LocalBatch(samples, num_skipped)

    def _own(self, places: Sequence[int]) -> Sequence[int]:
        return places[self.accelerator.process_index :: self.accelerator.num_processes]

    def _report(self, done: int, values: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            self.run.reporter.metrics(done, values)

    def _progress(self, done: int, figures: Mapping[str, float], samples_per_second: float) -> None:
        if self.accelerator.is_main_process:
            shown = {"loss": figures["train/loss"]} if "train/loss" in figures else {}
            self.run.reporter.progress(done, self.num_steps, **shown, samples_per_second=samples_per_second)

    def _warn(self, message: str | None) -> None:
        if message and self.accelerator.is_main_process:
            self.run.reporter.warn(message)
