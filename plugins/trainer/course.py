"""The course of one training: steps, reports, validation, checkpoints, and the stop in between."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from accelerate import Accelerator

from plugins.trainer.batches import Order
from plugins.trainer.checkpoint import Checkpoints
from plugins.trainer.encoded import EncodedSamples, is_skipped
from plugins.trainer.health import Health, memory_gb
from plugins.trainer.held_out import HeldOut
from plugins.trainer.history import History
from plugins.trainer.learner import Gradient, Learner, unlabelled
from plugins.trainer.sft_options import SftOptions
from runner.errors import StepError
from runner.stages import Features, StopRequestedError, TrainingRun


@dataclass(frozen=True)
class Share:
    """This worker's part of a step.

    Attributes:
        features: Its samples; one without labels where others' are all that there is, none where all of the step are
            left out, on every worker alike.
        num_skipped: Its samples that are left out.
    """

    features: list[Features]
    num_skipped: int


@dataclass(frozen=True)
class Course:
    """All that a training works with on this worker.

    Attributes:
        options: The trainer's.
        accelerator: With everything prepared.
        learner: Takes the steps.
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
    learner: Learner
    checkpoints: Checkpoints
    history: History
    encoded: EncodedSamples
    order: Order
    validation: Sequence[int]
    num_steps: int
    run: TrainingRun

    @cached_property
    def _held_out(self) -> HeldOut:
        return HeldOut(
            options=self.options,
            accelerator=self.accelerator,
            learner=self.learner,
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

    def _best(self) -> int | None:
        """The step whose checkpoint stays for its figure."""
        return self.history.best() if self._keeps_best else None

    def _stopped_early(self, done: int) -> bool:
        """Whether nothing better was measured for as long as the options allow."""
        patience = self.options.early_stopping
        if patience is None or self.history.since_best() < patience:
            return False
        self._warn(
            f"stopped early after step {done} of {self.num_steps}: {self.options.best_by.metric} was best after step "
            f"{self.history.best()}, and {patience} evaluation(s) since then were no better"
        )
        return True

    def _take_best(self, done: int) -> None:
        """Put back the best weights, where they are asked for."""
        if not self._keeps_best:
            return
        best = self.history.best()
        if best is None:
            self._warn(f"{self.options.best_by.metric} was never measured, so that the last weights are the result")
        elif best != done:
            self.checkpoints.restore_weights(best)

    def _encoded_ahead(self, first: int) -> Iterator[tuple[int, list[int], Share]]:
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

    def _step(self, step: int, batch: Sequence[int], share: Share) -> dict[str, float]:
        """Take a step, or pass over one whose samples are all left out, and report its figures."""
        figures: dict[str, float] = {}
        if share.features:
            figures = self._learn(step, batch, share.features)
        else:
            self.learner.pass_over()
        if self.options.overlong == "skip":
            self.history.num_skipped += self.learner.total(share.num_skipped)
            figures["train/samples_skipped"] = self.history.num_skipped
        self._report(step + 1, figures)
        return figures

    def _learn(self, step: int, batch: Sequence[int], features: Sequence[Features]) -> dict[str, float]:
        began = time.perf_counter()
        rates = self.learner.rates()
        gradient = self.learner.accumulate(features)
        self._check(step, batch, gradient)
        self.learner.apply()
        return {
            "train/loss": gradient.loss,
            "train/grad_norm": gradient.norm,
            "train/tokens_per_second": gradient.num_tokens / (time.perf_counter() - began),
            "train/memory_gb": memory_gb(),
            **{f"train/lr/{group}": rate for group, rate in rates.items()},
        }

    def _share(self, batch: Sequence[int]) -> Share:
        """Encode this worker's samples; where it has none, the batch's first that is not left out."""
        own = [self.encoded[place] for place in self._own(batch)]
        kept = [each for each in own if not is_skipped(each)]
        if not kept:
            others = (self.encoded[place] for place in batch)
            kept = [unlabelled(each) for each in islice((each for each in others if not is_skipped(each)), 1)]
        return Share(kept, len(own) - sum(not is_skipped(each) for each in own))

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
