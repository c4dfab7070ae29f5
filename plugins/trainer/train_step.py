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

from plugins.trainer.accelerator_and_sharding import reshard, unsharded_weights
from plugins.trainer.loss import AnswerLoss
from plugins.trainer.sft_options import SftOptions
from plugins.trainer.throughput import MfuMeter, wait_for_device
from plugins.trainer.training_history_and_warnings import peak_memory_metrics
from plugins.trainer.training_state import rng_states, set_rng_states
from plugins.trainer.validation_split_and_batches import CPU_POSITIONS, MICRO_BATCH_POSITIONS, group_by_length
from runner.errors import DivergedError
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
        num_flops: Floating-point operations of the batch, as `MfuMeter` counts them; 0 if MFU is not measured.
    """

    loss: float
    norm: float
    num_tokens: int
    num_flops: float = 0.0


class TrainStep:
    """Computes gradients that are the same whatever the number of workers and micro-batches.

    Attributes:
        model: The model in training.
        optimizers: The optimizers, as accelerate has wrapped them.
    """

    model: VisionLanguageModel
    optimizers: list[AcceleratedOptimizer]

    def __init__(
        self,
        accelerator: Accelerator,
        model: VisionLanguageModel,
        scheduled_optimizers: Sequence[ScheduledOptimizer],
        options: SftOptions,
        dummy_sample: Features | None = None,
        sharded_loss: AnswerLoss | None = None,
        mfu_meter: MfuMeter | None = None,
    ) -> None:
        """Move the model to its device and let accelerate wrap model and optimizers.

        Args:
            accelerator: A new accelerator.
            model: The model; changed in place.
            scheduled_optimizers: Optimizers of the model's parameters, with their schedules.
            options: The trainer's options.
            dummy_sample: A sample with every input that a sample can have, and no labels. It is needed if the weights
                are sharded: all workers must then run the same layers equally often.
            sharded_loss: The model with its loss, if the weights are sharded already (`shard_and_convert`). The
                optimizers then have the shards.
            mfu_meter: Measures MFU; None on a device whose peak is not known.
        """
        self._accelerator = accelerator
        self.model = model
        self._options = options
        self._dummy_sample = dummy_sample
        self._mfu_meter = mfu_meter
        self._supports_packing = options.packing == "auto" and model.supports_packing
        self._schedules = [scheduled.schedule for scheduled in scheduled_optimizers]
        if options.gradient_checkpointing:
            model.module.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        optimizers = [scheduled.optimizer for scheduled in scheduled_optimizers]
        if sharded_loss is not None:
            self._loss: torch.nn.Module = sharded_loss
            self.optimizers = [accelerator.prepare_optimizer(optimizer) for optimizer in optimizers]
        else:
            self._loss, *self.optimizers = accelerator.prepare(AnswerLoss(model.module), *optimizers)

    def free_memory(self) -> None:
        """Free gradients and optimizer states after the last step; only the weights stay."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
            optimizer.optimizer.state.clear()

    def run(self, step: int, sample_ids: Sequence[str], batch: LocalBatch) -> dict[str, float]:
        """Train on one batch: gradient, clipping, optimizer update, learning-rate schedule.

        Args:
            step: Optimizer steps before this one.
            sample_ids: Samples of the batch on all workers, for the error message.
            batch: This worker's part.

        Returns:
            Metrics of the step; empty if the whole batch is skipped.

        Raises:
            DivergedError: The loss or the gradient norm is not finite.
        """
        if not batch.samples:
            self.skip_update()
            return {}
        started = time.perf_counter()
        learning_rates = self.learning_rates()
        gradient = self.compute_gradient(batch.samples)
        if not (math.isfinite(gradient.loss) and math.isfinite(gradient.norm)):
            raise DivergedError(
                f"step {step + 1}: the loss is {gradient.loss} and the gradient norm {gradient.norm}; samples of the "
                f"step: {', '.join(sample_ids)}. Lower learning rates, a longer warm-up or fp32 may help"
            )
        self.update()
        # The GPU may still compute the update, and the next step's first exchange of numbers waits for it anyway.
        wait_for_device(self._accelerator.device)
        seconds = time.perf_counter() - started
        return {
            "train/loss": gradient.loss,
            "train/grad_norm": gradient.norm,
            "train/tokens_per_second": gradient.num_tokens / seconds,
            **self._mfu(gradient.num_flops, seconds),
            **peak_memory_metrics(),
            **{f"train/lr/{group}": rate for group, rate in learning_rates.items()},
        }

    def _mfu(self, num_flops: float, seconds: float) -> dict[str, float]:
        if self._mfu_meter is None:
            return {}
        return {"train/mfu": self._mfu_meter.utilization(num_flops, seconds, self._accelerator.num_processes)}

    def learning_rates(self) -> dict[str, float]:
        """Return the learning rate of each parameter group at the next update; groups without a name are numbered."""
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        return {str(group.get("name", index)): float(group["lr"]) for index, group in enumerate(groups)}

    def compute_gradient(self, samples: Sequence[Features]) -> Gradient:
        """Compute the clipped gradient of a batch and leave it in `.grad` of the parameters.

        The loss is the sum over all labelled tokens of the batch, on all workers, divided by their number. A mean of
        micro-batch means would give the tokens of short answers more weight.

        Args:
            samples: This worker's samples, at least one. A sample without labels does not change the gradient.
        """
        self._loss.train()
        local_flops = self._mfu_meter.flops(samples) if self._mfu_meter else 0.0
        num_labels, num_tokens, num_flops = self._sum(_num_labels(samples), sum(_lengths(samples)), local_flops)
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
        return Gradient(self._sum(total_loss)[0] / num_labels, float(full_norm), round(num_tokens), num_flops)

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
    def validation_loss(self, batches: Iterable[Sequence[Features]]) -> float | None:
        """Compute the loss of validation samples, without gradients.

        Args:
            batches: This worker's samples; the workers' samples together are the whole validation split.

        Returns:
            Mean over the labelled tokens on all workers, in nats; None if there are none.
        """
        # The workers may have different numbers of batches, so none may wait for another one's forward pass.
        loss = self._accelerator.unwrap_model(self._loss).eval()
        total, num_labels = 0.0, 0
        for batch in self._sync_micro_batches(self._micro_batches(batches), self._dummy_sample):
            total += float(loss(**self._inputs(batch)))
            num_labels += _num_labels(batch)
        reshard(loss)
        total, all_labels = self._sum(total, num_labels)
        return total / all_labels if all_labels else None

    @contextmanager
    def generation_mode(self) -> Iterator[VisionLanguageModel]:
        """Yield the model with unsharded weights for generation; training continues unchanged afterwards.

        The model computes in the precision of training. All workers must enter together, and may leave at different
        times.
        """
        loss = self._accelerator.unwrap_model(self._loss)
        with preserve_training_state(loss), self._accelerator.autocast():
            if self._dummy_sample is not None:
                # FSDP finds its root module only in a forward pass through the whole model.
                with torch.no_grad():
                    loss(**self._inputs([self._dummy_sample]))
            with unsharded_weights(loss, reshard_after_forward=self._options.reshard_after_forward):
                yield self.model

    def sum_over_workers(self, number: int) -> int:
        """Add up a number over all workers."""
        return round(self._sum(number)[0])

    def any_worker(self, condition: bool) -> bool:
        """Return whether the condition holds on at least one worker; all workers get the same answer."""
        return self._sum(condition)[0] > 0

    def any_worker_each(self, *conditions: bool) -> list[bool]:
        """Return for each condition whether it holds on at least one worker; all workers get the same answers."""
        return [count > 0 for count in self._sum(*conditions)]

    def _micro_batches(self, batches: Iterable[Sequence[Features]]) -> Iterator[list[Features]]:
        """Split batches into micro-batches of samples of similar length."""
        limit = CPU_POSITIONS if self._accelerator.device.type == "cpu" else MICRO_BATCH_POSITIONS
        for batch in batches:
            for indices in group_by_length(
                _lengths(batch), self._options.micro_batch_size, limit, packed=self._supports_packing
            ):
                yield [batch[index] for index in indices]

    def _dummy_for(self, samples: Sequence[Features]) -> Features | None:
        """Return the dummy sample for a batch: text only if no worker has images, so that the vision tower is idle."""
        if self._dummy_sample is None or self.any_worker(
            any(self._dummy_sample.keys() <= sample.keys() for sample in samples)
        ):
            return self._dummy_sample
        return without_labels(samples[0])

    def _sync_micro_batches(
        self, micro_batches: Iterator[list[Features]], dummy_sample: Features | None
    ) -> Iterator[list[Features]]:
        """Keep workers with sharded weights in step: all workers gather each layer at the same time.

        A worker that has run out of micro-batches computes the dummy sample alone. A micro-batch without images gets
        the dummy sample added, so that all workers run the vision tower.
        """
        if dummy_sample is None:
            yield from micro_batches
            return
        while True:
            micro_batch = next(micro_batches, [])
            if not self.any_worker(bool(micro_batch)):
                return
            has_all_inputs = any(dummy_sample.keys() <= sample.keys() for sample in micro_batch)
            yield micro_batch if has_all_inputs else [*micro_batch, dummy_sample]

    def _inputs(self, batch: Sequence[Features]) -> dict[str, Any]:
        inputs = self.model.pack(batch) if self._supports_packing else self.model.collate(batch, "right")
        return cast(dict[str, Any], send_to_device(inputs, self._accelerator.device))

    def _sum(self, *values: float | torch.Tensor) -> list[float]:
        """Add up each value over all workers."""
        local = torch.tensor([float(value) for value in values], dtype=torch.float64)
        summed = self._accelerator.reduce(local.to(self._accelerator.device), reduction="sum")
        assert isinstance(summed, torch.Tensor)
        return [float(value) for value in summed]


def without_labels(features: Features) -> Features:
    """Return a copy of a sample that is computed but adds nothing to the loss."""
    return {**features, "labels": torch.full_like(features["labels"], IGNORED)}


def _lengths(samples: Sequence[Features]) -> list[int]:
    return [len(sample["input_ids"]) for sample in samples]


def _num_labels(samples: Sequence[Features]) -> int:
    return sum(int((sample["labels"] != IGNORED).sum()) for sample in samples)


@contextmanager
def preserve_training_state(module: torch.nn.Module) -> Iterator[None]:
    """Restore the state of a module and of this process's random number generators on exit.

    Generation switches submodules to evaluation mode, and some model families store data for the next token in them,
    such as `rope_deltas`. Weights are not restored.
    """
    states, submodules = rng_states(), list(module.modules())
    attributes = [dict(vars(submodule)) for submodule in submodules]
    buffers = [dict(submodule.named_buffers(recurse=False)) for submodule in submodules]
    try:
        yield
    finally:
        for submodule, own_attributes, own_buffers in zip(submodules, attributes, buffers, strict=True):
            vars(submodule).clear()
            vars(submodule).update(own_attributes)
            for name, buffer in own_buffers.items():
                setattr(submodule, name, buffer)
        set_rng_states(states)
