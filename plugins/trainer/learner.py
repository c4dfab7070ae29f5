"""A model with its loss and optimizers on this worker: gradients of a batch over all workers, and steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState

from plugins.trainer.batches import CPU_POSITIONS, MICRO_BATCH_POSITIONS, micro_batches
from plugins.trainer.loss import IGNORED, AnswerLoss
from plugins.trainer.sft_options import SftOptions
from runner.stages import Features, ScheduledOptimizer, VisionLanguageModel


@dataclass(frozen=True)
class Gradient:
    """What the gradient of one batch was made of, over all workers.

    Attributes:
        loss: Mean over the labelled tokens, in nats.
        norm: Over all parameters, before clipping.
        num_tokens: Of the batch, without padding.
    """

    loss: float
    norm: float
    num_tokens: int


def make_accelerator(precision: str) -> Accelerator:
    """Make an accelerator for this process, or for its place in a worker group that is initialised already.

    Accelerate keeps its settings as long as the process lives; one that trains a trial after another needs
    them anew. Data parallelism must expect that a batch of text alone leaves the vision tower of a worker
    unused.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="bf16" if precision == "bf16" else "no",
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)],
    )


class Learner:
    """Computes gradients that are the same whatever the number of workers and micro-batches.

    Attributes:
        optimizers: As accelerate has wrapped them.
    """

    optimizers: list[AcceleratedOptimizer]

    def __init__(
        self,
        accelerator: Accelerator,
        model: VisionLanguageModel,
        built: Sequence[ScheduledOptimizer],
        options: SftOptions,
    ) -> None:
        """Move the model to its device and hand everything to accelerate, also for its checkpoints."""
        self._accelerator = accelerator
        self._model = model
        self._options = options
        self._packs = options.packing == "auto" and model.packs
        self._rates = [each.schedule for each in built]
        if options.gradient_checkpointing:
            model.module.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        loss = AnswerLoss(model.module)
        self._sparing = loss.sparing
        self._loss, *self.optimizers = accelerator.prepare(loss, *(each.optimizer for each in built))
        accelerator.register_for_checkpointing(*self._rates)

    def rates(self) -> dict[str, float]:
        """The learning rate of each group at the coming step; groups that have no name are numbered."""
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        return {str(group.get("name", place)): float(group["lr"]) for place, group in enumerate(groups)}

    def accumulate(self, share: Sequence[Features]) -> Gradient:
        """Leave the clipped gradient of a batch in the parameters.

        The loss is the sum over all labelled tokens of the batch, on all workers, divided by their number:
        the mean of micro-batch means would weigh the tokens of short answers more.

        Args:
            share: This worker's samples of the batch, at least one; one without labels adds nothing.
        """
        self._loss.train()
        num_labels, num_tokens = self._sum(_num_labels(share), sum(_lengths(share)))
        # Data parallelism takes the mean over workers, where the sum is wanted.
        scale = self._accelerator.num_processes / num_labels
        cut = self._cut(share)
        local = torch.zeros((), device=self._accelerator.device)
        for places in cut:
            alone = nullcontext() if places is cut[-1] else self._accelerator.no_sync(self._loss)
            with alone, self._sparing:
                loss = self._loss(**self._inputs([share[place] for place in places]))
                self._accelerator.backward(loss * scale)
            local += loss.detach()
        norm = self._accelerator.clip_grad_norm_(self._loss.parameters(), self._options.max_grad_norm)
        return Gradient(self._sum(local)[0] / num_labels, float(norm), round(num_tokens))

    def apply(self) -> None:
        """Take an optimizer step with the gradient that is there, and move the rates on."""
        for optimizer in self.optimizers:
            optimizer.step()
        for rate in self._rates:
            rate.step()
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Sequence[Features]]) -> float:
        """Compute the loss of samples that nothing is learnt from.

        Args:
            batches: This worker's samples; all workers' together are the whole.

        Returns:
            Mean over the labelled tokens on all workers, in nats.
        """
        # The workers have different numbers of batches, so none may wait for another one's forward pass.
        loss = self._accelerator.unwrap_model(self._loss).eval()
        total, num_labels = 0.0, 0
        for batch in batches:
            for places in self._cut(batch):
                total += float(loss(**self._inputs([batch[place] for place in places])))
            num_labels += _num_labels(batch)
        total, all_labels = self._sum(total, num_labels)
        return total / all_labels

    def any_worker(self, yes: bool) -> bool:
        """Whether it is so on some worker; all get the same answer."""
        return self._sum(yes)[0] > 0

    def _cut(self, batch: Sequence[Features]) -> list[list[int]]:
        limit = CPU_POSITIONS if self._accelerator.device.type == "cpu" else MICRO_BATCH_POSITIONS
        return micro_batches(_lengths(batch), self._options.micro_batch_size, limit, packed=self._packs)

    def _inputs(self, batch: Sequence[Features]) -> dict[str, Any]:
        device = self._accelerator.device
        made = self._model.pack(batch) if self._packs else self._model.collate(batch, "right")
        return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in made.items()}

    def _sum(self, *values: float | torch.Tensor) -> list[float]:
        """Add up figures over all workers."""
        local = torch.tensor([float(value) for value in values], dtype=torch.float64)
        summed = self._accelerator.reduce(local.to(self._accelerator.device), reduction="sum")
        assert isinstance(summed, torch.Tensor)
        return [float(value) for value in summed]


def _lengths(batch: Sequence[Features]) -> list[int]:
    return [len(each["input_ids"]) for each in batch]


def _num_labels(batch: Sequence[Features]) -> int:
    return sum(int((each["labels"] != IGNORED).sum()) for each in batch)
