"""The training loop: steps, logging, validation, checkpoints and early stopping."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

from accelerate import Accelerator

from plugins.trainer.checkpoint import Checkpoints
from plugins.trainer.encoded_samples import EncodedSamples, is_skipped
from plugins.trainer.sft_options import SftOptions
from plugins.trainer.step_profiler import profile_steps
from plugins.trainer.train_step import LocalBatch, TrainStep, without_labels
from plugins.trainer.training_history_and_warnings import TrainingHistory, TrainingMonitor
from plugins.trainer.training_schedule import ExamplesByEpoch
from plugins.trainer.validation_loop import ValidationLoop
from plugins.trainer.validation_split_and_batches import EpochSampler, SequenceSampler
from runner.errors import StepError
from runner.records import CheckpointSchedule
from runner.stages import StopRequestedError, TrainingRun


class SaveTimer:
    """Measures the time since the last checkpoint of a training."""

    def __init__(self, schedule: CheckpointSchedule) -> None:
        """Start the timer."""
        self._schedule = schedule
        self.restart()

    def restart(self) -> None:
        """Start again, after a checkpoint."""
        self._last = time.monotonic()

    def is_due(self, step: int) -> bool:
        """Return whether a checkpoint is due after a step."""
        return self._schedule.is_due(step, time.monotonic() - self._last)


@dataclass(frozen=True)
class TrainLoop:
    """One training on this worker.

    Attributes:
        options: The trainer's options.
        accelerator: The accelerator, with model and optimizers prepared.
        train_step: The training step, which holds the model.
        checkpoints: Saves and restores everything that changes.
        history: Validation metrics and counts that the checkpoints keep beside the weights.
        encoded: All examples, encoded on first use.
        examples: The indices of examples among all of them.
        sampler: Chooses the samples of each step.
        validation: Indices of the validation samples; may be empty.
        num_steps: Optimizer steps of the whole training.
        run: Folder for checkpoints, reporter and evaluator of this training.
        encoded_bytes: Returns the folder of encoded samples, and the bytes to be written there; None if none are.
    """

    options: SftOptions
    accelerator: Accelerator
    train_step: TrainStep
    checkpoints: Checkpoints
    history: TrainingHistory
    encoded: EncodedSamples
    examples: ExamplesByEpoch
    sampler: EpochSampler | SequenceSampler
    validation: Sequence[int]
    num_steps: int
    run: TrainingRun
    encoded_bytes: Callable[[], tuple[Path, int]] | None = None

    @cached_property
    def _validation_loop(self) -> ValidationLoop:
        return ValidationLoop(
            options=self.options,
            accelerator=self.accelerator,
            train_step=self.train_step,
            encoded=self.encoded,
            examples=self.examples,
            validation=self.validation,
            steps_per_epoch=self.sampler.steps_per_epoch,
            num_steps=self.num_steps,
            history=self.history,
            run=self.run,
        )

    def run_to_end(self) -> None:
        """Run all remaining steps, from the newest checkpoint on.

        Raises:
            StopRequestedError: The user asked to stop, and a checkpoint was written.
            StepError: The loss or its gradient is not finite, the disk has no room for a checkpoint, or there are
                checkpoints of which none can be read.
        """
        keep_best = self.options.load_best_model_at_end
        self._warn(self.checkpoints.check_disk_space(keep_best=keep_best, encoded=self.encoded_bytes))
        self._validation_loop.prepare()
        try:
            self._run_steps()
        except StopRequestedError:
            self.checkpoints.wait()
            raise
        finally:
            self.checkpoints.close()

    def _run_steps(self) -> None:
        first_step = num_done = self.checkpoints.restore(self._warn, keep_best=self.options.load_best_model_at_end)
        if num_done:
            self._evaluate(num_done)
        monitor = TrainingMonitor(self.num_steps)
        started, num_samples = time.perf_counter(), 0
        timer = SaveTimer(self.options.checkpoint_schedule(self.sampler.steps_per_epoch))
        with self._profiler(first_step) as end_profiled_step:
            for step, indices, local_batch in self._prefetched_batches(first_step):
                if self._should_stop_early(num_done):
                    break
                num_done = step + 1
                metrics = self._run_step(step, indices, local_batch)
                end_profiled_step()
                for message in monitor.warnings(num_done, metrics):
                    self._warn(message)
                num_samples += len(indices)
                self._report_progress(num_done, metrics, num_samples / (time.perf_counter() - started))
                self._evaluate(num_done)
                self._save_or_stop(num_done, timer)
        self._finish_last_checkpoint()
        self._load_best_weights(num_done)

    def _profiler(self, first_step: int) -> AbstractContextManager[Callable[[], None]]:
        """Profile steps on the main worker, as the options say; yield a function to call at the end of each step."""
        num_profiled, folder = self.options.profile_steps, self.run.profile
        num_remaining = self.num_steps - first_step
        if num_profiled is None or folder is None or not num_remaining or not self.accelerator.is_main_process:
            return nullcontext(lambda: None)
        return profile_steps(folder, num_profiled, num_remaining)

    def _evaluate(self, num_done: int) -> None:
        """Run the validation that is due; if the user stops it, it is repeated when the training is resumed."""
        try:
            self._validation_loop.evaluate(num_done)
        except StopRequestedError:
            self.checkpoints.save(num_done, self._best_step())
            raise

    def _save_or_stop(self, num_done: int, timer: SaveTimer) -> None:
        """Save a checkpoint if one is due. The clock of the main process decides for all workers."""
        best_step = self._best_step()
        is_due = self.accelerator.is_main_process and timer.is_due(num_done)
        stop, is_due = self.train_step.any_worker_each(self.run.reporter.stop_requested(), is_due)
        if num_done == self.num_steps:
            return
        if stop or best_step == num_done or is_due:
            self.checkpoints.save(num_done, best_step)
            timer.restart()
        if stop:
            raise StopRequestedError

    def _finish_last_checkpoint(self) -> None:
        """Wait for the last checkpoint. A failure is a warning only: all steps are done, and the model is saved next.

        If this checkpoint has the best weights, loading them raises an error.
        """
        try:
            self.checkpoints.wait()
        except StepError as error:
            self._warn(str(error))

    def _best_step(self) -> int | None:
        """Return the step whose checkpoint is kept as the best one; None if the last model is the result."""
        return self.history.best_step() if self.options.load_best_model_at_end else None

    def _should_stop_early(self, num_done: int) -> bool:
        """Return whether validation has not improved for `early_stopping_patience` evaluations."""
        patience = self.options.early_stopping_patience
        if patience is None or self.history.evaluations_since_best() < patience:
            return False
        metric = self.options.metric_for_best_model.metric
        self._warn(
            f"stopped early after step {num_done} of {self.num_steps}: {metric} was best after step "
            f"{self.history.best_step()}, and {patience} evaluation(s) since then were no better"
        )
        return True

    def _load_best_weights(self, num_done: int) -> None:
        """Restore the weights of the best checkpoint if `load_best_model_at_end` is set."""
        if not self.options.load_best_model_at_end:
            return
        best_step = self.history.best_step()
        if best_step is None:
            metric = self.options.metric_for_best_model.metric
            self._warn(f"{metric} was never measured, so the last weights are the result")
        elif best_step != num_done:
            self.checkpoints.restore_weights(best_step)

    def _prefetched_batches(self, first_step: int) -> Iterator[tuple[int, list[int], LocalBatch]]:
        """Yield each step with its sample indices and local batch; a thread encodes the next batch meanwhile."""
        with ThreadPoolExecutor(max_workers=1) as thread:
            pending = None
            for step, numbers in self.sampler.batches(first_step, self.num_steps):
                indices = [self.examples.index(number, self.sampler.epoch(step)) for number in numbers]
                following = step, indices, thread.submit(self._local_batch, indices)
                if pending:
                    yield pending[0], pending[1], pending[2].result()
                pending = following
            if pending:
                yield pending[0], pending[1], pending[2].result()

    def _run_step(self, step: int, indices: Sequence[int], batch: LocalBatch) -> dict[str, float]:
        """Run one step and report its metrics."""
        metrics = self.train_step.run(step, [self.encoded.id(index) for index in indices], batch)
        if self.options.on_overlength == "skip":
            self.history.num_skipped += self.train_step.sum_over_workers(batch.num_skipped)
            metrics["train/samples_skipped"] = self.history.num_skipped
        if self.accelerator.is_main_process:
            self.run.reporter.metrics(step + 1, metrics)
        return metrics

    def _local_batch(self, indices: Sequence[int]) -> LocalBatch:
        """Encode this worker's samples; if all are skipped, use another worker's sample without its labels."""
        local_indices = indices[self.accelerator.process_index :: self.accelerator.num_processes]
        encoded = [self.encoded[index] for index in local_indices]
        samples = [sample for sample in encoded if not is_skipped(sample)]
        num_skipped = len(encoded) - len(samples)
        if not samples:
            batch = (self.encoded[index] for index in indices)
            first = islice((sample for sample in batch if not is_skipped(sample)), 1)
            samples = [without_labels(sample) for sample in first]
        return LocalBatch(samples, num_skipped)

    def _report_progress(self, num_done: int, metrics: Mapping[str, float], samples_per_second: float) -> None:
        if self.accelerator.is_main_process:
            loss = {"loss": metrics["train/loss"]} if "train/loss" in metrics else {}
            self.run.reporter.progress(num_done, self.num_steps, **loss, samples_per_second=samples_per_second)

    def _warn(self, message: str | None) -> None:
        if message and self.accelerator.is_main_process:
            self.run.reporter.warn(message)
