"""A model with its loss and optimizers on this worker: gradients of a batch over all workers, and steps."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor

from plugins.trainer.batches import CPU_POSITIONS, MICRO_BATCH_POSITIONS, micro_batches
from plugins.trainer.loss import AnswerLoss
from plugins.trainer.sft_options import SftOptions
from plugins.trainer.sharding import divide_again, sharding_plugin, undivided
from plugins.trainer.undisturbed import undisturbed
from runner.records import IGNORED
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


def make_accelerator(precision: str, divided: Sequence[str] = ()) -> Accelerator:
    """Make an accelerator for this process, or for its place in a worker group that is initialised already.

    Accelerate keeps its settings as long as the process lives; one that trains a trial after another needs
    them anew. Data parallelism must expect that a batch of text alone leaves the vision tower of a worker
    unused.

    Args:
        precision: `fp32` or `bf16`.
        divided: Classes of the layers whose weights the workers divide among them; none for whole weights on each.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    # Accelerate leaves a trial's choice in the environment, where the next one would find it.
    os.environ.pop("ACCELERATE_USE_FSDP", None)
    plugin = sharding_plugin(divided, precision) if divided else None
    accelerator = Accelerator(
        fsdp_plugin=plugin,
        cpu=not torch.cuda.is_available(),
        mixed_precision="bf16" if precision == "bf16" else "no",
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)],
    )
    if plugin is not None and accelerator.distributed_type is DistributedType.MULTI_CPU:
        # Accelerate divides weights on GPUs alone unless it is told that this is such a group; the code is the same.
        PartialState().distributed_type = accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin
    return accelerator


class Learner:
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
        company: Features | None = None,
    ) -> None:
        """Move the model to its device and hand everything to accelerate.

        Args:
            accelerator: Fresh.
            model: Changed in place.
            built: Optimizers of the model's parameters.
            options: The trainer's.
            company: A sample with all inputs that a sample can have, and no labels. Needed where weights are divided
                among workers, which then pass through the same layers equally often.
        """
        self._accelerator = accelerator
        self.model = model
        self._options = options
        self._company = company
        self._packs = options.packing == "auto" and model.packs
        self._rates = [each.schedule for each in built]
        if options.gradient_checkpointing:
            model.module.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        self._loss, *self.optimizers = accelerator.prepare(
            AnswerLoss(model.module), *(each.optimizer for each in built)
        )

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
        cut = list(self._abreast(self._cut([share]), self._company_of(share)))
        local = torch.zeros((), device=self._accelerator.device)
        for batch in cut:
            # Where weights are divided, gradients are too at once: whole ones would not fit.
            waits = batch is not cut[-1] and self._company is None
            with self._accelerator.no_sync(self._loss) if waits else nullcontext():
                loss = self._loss(**self._inputs(batch))
                self._accelerator.backward(loss * scale)
            local += loss.detach()
        norm = self._accelerator.clip_grad_norm_(self._loss.parameters(), self._options.max_grad_norm)
        whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
        return Gradient(self._sum(local)[0] / num_labels, float(whole), round(num_tokens))

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
            Mean over the labelled tokens on all workers, in nats; NaN where there are none.
        """
        # The workers may have different numbers of batches, so none may wait for another one's forward pass.
        loss = self._accelerator.unwrap_model(self._loss).eval()
        total, num_labels = 0.0, 0
        for batch in self._abreast(self._cut(batches), self._company):
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
        with undisturbed(loss), self._accelerator.autocast():
            if self._company is not None:
                # Only a pass through all of it tells the divided parts which of them is the outermost.
                with torch.no_grad():
                    loss(**self._inputs([self._company]))
            with undivided(loss):
                yield self.model

    def pass_over(self) -> None:
        """Move the rates on as a step would, and change no weight."""
        for rate in self._rates:
            rate.step()

    def total(self, number: int) -> int:
        """Add up a number over all workers."""
        return round(self._sum(number)[0])

    def any_worker(self, yes: bool) -> bool:
        """Whether it is so on some worker; all get the same answer."""
        return self._sum(yes)[0] > 0

    def _cut(self, batches: Iterable[Sequence[Features]]) -> Iterator[list[Features]]:
        limit = CPU_POSITIONS if self._accelerator.device.type == "cpu" else MICRO_BATCH_POSITIONS
        for batch in batches:
            for places in micro_batches(_lengths(batch), self._options.micro_batch_size, limit, packed=self._packs):
                yield [batch[place] for place in places]

    def _company_of(self, share: Sequence[Features]) -> Features | None:
        """The company for a batch; one of text alone where no worker has more, so that the vision tower stays out."""
        if self._company is None or self.any_worker(any(self._company.keys() <= each.keys() for each in share)):
            return self._company
        return unlabelled(share[0])

    def _abreast(self, cut: Iterator[list[Features]], company: Features | None) -> Iterator[list[Features]]:
        """Keep workers that divide the weights together: each layer is gathered by all of them at once.

        Who has no micro-batch left while another has computes the company alone, and one of text alone gets it too,
        so that all use the vision tower.
        """
        if company is None:
            yield from cut
            return
        while True:
            batch = next(cut, [])
            if not self.any_worker(bool(batch)):
                return
            whole = any(company.keys() <= each.keys() for each in batch)
            yield batch if whole else [*batch, company]

    def _inputs(self, batch: Sequence[Features]) -> dict[str, Any]:
        device = self._accelerator.device
        made = self.model.pack(batch) if self._packs else self.model.collate(batch, "right")
        return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in made.items()}

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
