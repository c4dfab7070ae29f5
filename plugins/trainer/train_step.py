"""One training step, from a batch of samples to the optimizer update, on any number of workers."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import send_to_device
from torch.distributed.tensor import DTensor

from plugins.trainer.batches import CPU_POSITIONS, MICRO_BATCH_POSITIONS, micro_batches
from plugins.trainer.checkpoint import random_states, set_random_states
from plugins.trainer.distributed import divide_again, undivided
from plugins.trainer.loss import AnswerLoss
from plugins.trainer.sft_options import SftOptions
from plugins.trainer.training_history import memory_gb
from runner.errors import StepError
from runner.records import IGNORED
from runner.stages import Features, ScheduledOptimizer, VisionLanguageModel


@dataclass(frozen=True)
class LocalBatch:
    """The samples of one step that this worker computes.

    Attributes:
        samples: Encoded. A single sample without labels if only other workers have samples to train on; empty on every
            worker if the whole batch is skipped.
        num_skipped: Samples of this worker that are too long and therefore skipped.
    """

    samples: list[Features]
    num_skipped: int


@dataclass(frozen=True)
class Gradient:
    """The gradient of one batch, summed over all workers.

    Attributes:
        loss: Mean over the labelled tokens, in nats.
        norm: L2 norm over all parameters, before clipping.
        num_tokens: Tokens of the batch, without padding.
    """

    loss: float
    norm: float
    num_tokens: int


class TrainStep:
    """Computes gradients that are the same whatever the number of workers and micro-batches.

    Attributes:
        model: What learns.
        optimizers: As accelerate has wrapped them.
    """

    model: VisionLanguageModel
    optimizers: list[AcceleratedOptimizer]

    def __init__(
        self,
        accelerator: Accelerator,
        model: VisionLanguageModel,
        built: Sequence[ScheduledOptimizer],
        options: SftOptions,
        dummy_sample: Features | None = None,
    ) -> None:
        """Move the model to its device and hand everything to accelerate.

        Args:
            accelerator: Fresh.
            model: Changed in place.
            built: Optimizers of the model's parameters.
            options: The trainer's.
            dummy_sample: A sample with all inputs that a sample can have, and no labels. Needed where weights are
                divided among workers, which then pass through the same layers equally often.
        """
        self._accelerator = accelerator
        self.model = model
        self._options = options
        self._dummy_sample = dummy_sample
        self._supports_packing = options.packing == "auto" and model.supports_packing
        self._schedules = [each.schedule for each in built]
        if options.gradient_checkpointing:
            model.module.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        self._loss, *self.optimizers = accelerator.prepare(
            AnswerLoss(model.module), *(each.optimizer for each in built)
        )

    def run(self, step: int, sample_ids: Sequence[str], batch: LocalBatch) -> dict[str, float]:
        """Train on one batch: gradient, clipping, optimizer update, learning-rate schedule.

        Args:
            step: Optimizer steps before this one.
            sample_ids: Samples of the batch on all workers, for the error message.
            batch: This worker's part.

        Returns:
            Metrics of the step; empty if the whole batch is skipped.

        Raises:
            StepError: The loss or the gradient norm is not finite.
        """
        if not batch.samples:
            self.skip_update()
            return {}
        started = time.perf_counter()
        learning_rates = self.learning_rates()
        gradient = self.compute_gradient(batch.samples)
        if not (math.isfinite(gradient.loss) and math.isfinite(gradient.norm)):
            raise StepError(
                f"step {step + 1}: the loss is {gradient.loss} and the gradient norm {gradient.norm}; samples of the "
                f"step: {', '.join(sample_ids)}. Lower learning rates, a longer warm-up or fp32 may help"
            )
        self.update()
        return {
            "train/loss": gradient.loss,
            "train/grad_norm": gradient.norm,
            "train/tokens_per_second": gradient.num_tokens / (time.perf_counter() - started),
            "train/memory_gb": memory_gb(),
            **{f"train/lr/{group}": rate for group, rate in learning_rates.items()},
        }

    def learning_rates(self) -> dict[str, float]:
        """The learning rate of each parameter group at the next update; groups without a name are numbered."""
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        return {str(group.get("name", place)): float(group["lr"]) for place, group in enumerate(groups)}

    def compute_gradient(self, samples: Sequence[Features]) -> Gradient:
        """Compute the clipped gradient of a batch and leave it in `.grad` of the parameters.

        The loss is the sum over all labelled tokens of the batch, on all workers, divided by their number. A mean of
        micro-batch means would give the tokens of short answers more weight.

        Args:
            samples: This worker's samples, at least one. A sample without labels does not change the gradient.
        """
        self._loss.train()
        num_labels, num_tokens = self._sum(_num_labels(samples), sum(_lengths(samples)))
        # DDP averages gradients over workers; the sum is needed.
        scale = self._accelerator.num_processes / num_labels
        micro_batches = list(self._sync_micro_batches(self._micro_batches([samples]), self._dummy_for(samples)))
        total_loss = torch.zeros((), device=self._accelerator.device)
        for micro_batch in micro_batches:
            # Sharded gradients are reduced in every micro-batch: unsharded ones would not fit into memory.
            accumulate_locally = micro_batch is not micro_batches[-1] and self._dummy_sample is None
            with self._accelerator.no_sync(self._loss) if accumulate_locally else nullcontext():
                loss = self._loss(**self._inputs(micro_batch))
                self._accelerator.backward(loss * scale)
            total_loss += loss.detach()
        norm = self._accelerator.clip_grad_norm_(self._loss.parameters(), self._options.max_grad_norm)
        full_norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        return Gradient(self._sum(total_loss)[0] / num_labels, float(full_norm), round(num_tokens))

    def update(self) -> None:
        """Apply the gradient with the optimizers, advance the learning-rate schedules and clear the gradient."""
        for optimizer in self.optimizers:
            optimizer.step()
        for schedule in self._schedules:
            schedule.step()
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def skip_update(self) -> None:
        """Advance the learning-rate schedules without changing any weight."""
        with warnings.catch_warnings():
            # The scheduler warns because the optimizer has taken no step before it.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            for schedule in self._schedules:
                schedule.step()

    @torch.no_grad()
    def validation_loss(self, batches: Iterable[Sequence[Features]]) -> float:
        """Compute the loss of samples that nothing is learnt from.

        Args:
            batches: This worker's samples; all workers' together are the whole.

        Returns:
            Mean over the labelled tokens on all workers, in nats; NaN where there are none.
        """
        # The workers may have different numbers of batches, so none may wait for another one's forward pass.
        loss = self._accelerator.unwrap_model(self._loss).eval()
        total, num_labels = 0.0, 0
        for batch in self._sync_micro_batches(self._micro_batches(batches), self._dummy_sample):
            total += float(loss(**self._inputs(batch)))
            num_labels += _num_labels(batch)
        divide_again(loss)
        total, all_labels = self._sum(total, num_labels)
        return total / all_labels if all_labels else math.nan

    @contextmanager
    def answering(self) -> Iterator[VisionLanguageModel]:
        """Let the model answer as it will when it is saved, whole on each worker; training then goes on undisturbed.

        It computes in the precision of training. All workers must take part, and may leave at different times.
        """
        loss = self._accelerator.unwrap_model(self._loss)
        with preserve_training_state(loss), self._accelerator.autocast():
            if self._dummy_sample is not None:
                # Only a pass through all of it tells the divided parts which of them is the outermost.
                with torch.no_grad():
                    loss(**self._inputs([self._dummy_sample]))
            with undivided(loss):
                yield self.model

    def total(self, number: int) -> int:
        """Add up a number over all workers."""
        return round(self._sum(number)[0])

    def any_worker(self, yes: bool) -> bool:
        """Whether it is so on some worker; all get the same answer."""
        return self._sum(yes)[0] > 0

    def _micro_batches(self, batches: Iterable[Sequence[Features]]) -> Iterator[list[Features]]:
        limit = CPU_POSITIONS if self._accelerator.device.type == "cpu" else MICRO_BATCH_POSITIONS
        for batch in batches:
            for places in micro_batches(
                _lengths(batch), self._options.micro_batch_size, limit, packed=self._supports_packing
            ):
                yield [batch[place] for place in places]

    def _dummy_for(self, share: Sequence[Features]) -> Features | None:
        """The dummy sample for a batch: text only if no worker has images, so that the vision tower is skipped."""
        if self._dummy_sample is None or self.any_worker(
            any(self._dummy_sample.keys() <= each.keys() for each in share)
        ):
            return self._dummy_sample
        return unlabelled(share[0])

    def _sync_micro_batches(
        self, cut: Iterator[list[Features]], dummy_sample: Features | None
    ) -> Iterator[list[Features]]:
        """Keep workers that divide the weights together: each layer is gathered by all of them at once.

        Who has no micro-batch left while another has computes the dummy_sample alone, and one of text alone gets it
        too, so that all use the vision tower.
        """
        if dummy_sample is None:
            yield from cut
            return
        while True:
            batch = next(cut, [])
            if not self.any_worker(bool(batch)):
                return
            whole = any(dummy_sample.keys() <= each.keys() for each in batch)
            yield batch if whole else [*batch, dummy_sample]

    def _inputs(self, batch: Sequence[Features]) -> dict[str, Any]:
        made = self.model.pack(batch) if self._supports_packing else self.model.collate(batch, "right")
        return cast(dict[str, Any], send_to_device(made, self._accelerator.device))

    def _sum(self, *values: float | torch.Tensor) -> list[float]:
        """Add up figures over all workers."""
        local = torch.tensor([float(value) for value in values], dtype=torch.float64)
        summed = self._accelerator.reduce(local.to(self._accelerator.device), reduction="sum")
        assert isinstance(summed, torch.Tensor)
        return [float(value) for value in summed]


def _lengths(batch: Sequence[Features]) -> list[int]:
    return [len(each["input_ids"]) for each in batch]


def unlabelled(features: Features) -> Features:
    """A sample that is computed and adds nothing to the loss."""
    return {**features, "labels": torch.full_like(features["labels"], IGNORED)}


def _num_labels(batch: Sequence[Features]) -> int:
    return sum(int((each["labels"] != IGNORED).sum()) for each in batch)


@contextmanager
def preserve_training_state(module: torch.nn.Module) -> Iterator[None]:
    """Put a module and this process's random numbers back to what they were.

    Generating sets each part's mode, and families leave in their parts what the next token needs, such as
    `rope_deltas`. Weights are not put back.
    """
    random, parts = random_states(), list(module.modules())
    attributes = [dict(vars(part)) for part in parts]
    buffers = [dict(part.named_buffers(recurse=False)) for part in parts]
    try:
        yield
    finally:
        for part, own, held in zip(parts, attributes, buffers, strict=True):
            vars(part).clear()
            vars(part).update(own)
            for name, buffer in held.items():
                setattr(part, name, buffer)
        set_random_states(random)
