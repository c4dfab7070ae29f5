"""The speed of training steps: operations per second compared with the peak of the GPU (MFU), and the wait for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from plugins.trainer.validation_split_and_batches import patches_per_token
from runner.preflight.hours import ACCELERATORS
from runner.preflight.resources import Gpu, is_named
from runner.records import IGNORED
from runner.stages import Features


def peak_flops(device_name: str) -> float | None:
    """Return the peak of a GPU in dense bfloat16 FLOP/s; None if the GPU is not known.

    Args:
        device_name: The name that the driver gives, such as `NVIDIA A100-SXM4-80GB`.
    """
    gpu = Gpu(device_name, 0)
    return next((each.flops for name, each in ACCELERATORS.items() if is_named(gpu, name)), None)


def device_peak_flops(device: torch.device, precision: str) -> float | None:
    """Return the peak FLOP/s of a worker's device; None for a CPU, an unknown GPU, and other precisions than bf16."""
    if device.type != "cuda" or precision != "bf16":
        return None
    return peak_flops(torch.cuda.get_device_name(device))


def wait_for_device(device: torch.device) -> None:
    """Wait until a GPU has computed everything that was launched on it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


NO_TOKEN = -1
"""The id of no token."""


@dataclass(frozen=True)
class MfuMeter:
    """Computes model FLOPs utilization (MFU; Chowdhery et al. 2022, "PaLM", appendix B).

    Layers that gradient checkpointing computes again do not count, so MFU compares the speed of trainings with and
    without gradient checkpointing. Attention scores do not count either: at 1,500 tokens they add 2 to 5 % to a 7B.
    This module counts on its own, because the estimates of `runner plan` (`step_memory`) must not be a part of the code
    that identifies a training.

    Attributes:
        per_token: Operations of forward and backward pass of the language model for a token.
        per_image_token: Operations of the vision tower for an image token.
        per_label: Operations of the output layer for a token with loss.
        image_token: The id of the tokens that stand for image features, or `NO_TOKEN`.
        peak_flops: Peak FLOP/s of the GPU of one worker.
    """

    per_token: float
    per_image_token: float
    per_label: float
    image_token: int
    peak_flops: float

    @classmethod
    def of(cls, module: PreTrainedModel, peak: float, *, caches_features: bool) -> MfuMeter:
        """Count the weights of a model as it is about to be trained, before they are sharded.

        Args:
            module: The model; frozen weights are frozen, and adapters are added.
            peak: Peak FLOP/s of the GPU of one worker.
            caches_features: Whether the features of a frozen vision tower are read from files.
        """
        decoder: nn.Module = module.get_decoder()  # type: ignore[no-untyped-call]
        head, embeddings = module.get_output_embeddings(), module.get_input_embeddings()  # type: ignore[no-untyped-call]
        ends = {id(weight) for part in (head, embeddings) for weight in part.parameters()}
        language = {id(weight) for weight in decoder.parameters()}
        vision = [weight for weight in module.parameters() if id(weight) not in language | ends]
        has_backward = any(weight.requires_grad for weight in vision)
        return cls(
            per_token=_flops([weight for weight in decoder.parameters() if id(weight) not in ends]),
            per_image_token=0.0 if caches_features else patches_per_token(module) * _flops(vision, has_backward),
            per_label=_flops(head.parameters()),
            image_token=getattr(module.config, "image_token_id", NO_TOKEN),
            peak_flops=peak,
        )

    def flops(self, samples: Sequence[Features]) -> float:
        """Count the operations of the forward and backward passes of encoded samples."""
        return sum(
            self.per_token * len(sample["input_ids"])
            + self.per_image_token * int((sample["input_ids"] == self.image_token).sum())
            + self.per_label * int((sample["labels"] != IGNORED).sum())
            for sample in samples
        )

    def utilization(self, num_flops: float, seconds: float, num_workers: int) -> float:
        """Return the fraction of the peak of all GPUs that a step has reached.

        Args:
            num_flops: Operations of the step, on all workers.
            seconds: Duration of the step, with the optimizer.
            num_workers: Number of workers, each with one GPU.
        """
        return num_flops / (seconds * self.peak_flops * num_workers)


def _flops(weights: Iterable[nn.Parameter], has_backward: bool = True) -> float:
    """Count the operations of matrices at one position (Kaplan et al. 2020).

    Two for each weight in the forward pass, two for the gradients of the hidden states, and two for its own gradient.
    """
    matrices = [(weight.numel(), weight.requires_grad) for weight in weights if weight.dim() > 1]
    return sum(2.0 * number * (1 + has_backward + is_trained) for number, is_trained in matrices)
