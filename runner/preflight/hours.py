"""Estimates the hours of a trial: training steps with their exchange of tensors, files, and answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runner.preflight.resources import ASSUMED_WRITE_SPEED
from runner.records import TrainingEstimate, TrainingVariant
from runner.spec.experiment_spec import ComputeOptions


@dataclass(frozen=True)
class Accelerator:
    """The speed of a type of GPU, from NVIDIA's data sheets (SXM version if there are several).

    Attributes:
        flops: Dense bfloat16 FLOP/s with float32 accumulation.
        memory: Bytes per second of its memory.
        interconnects: Bytes per second to other GPUs, in each direction: NVLink, if there is one, and PCIe.
    """

    flops: float
    memory: float
    interconnects: Mapping[str, float]


ACCELERATORS = {
    "A10": Accelerator(125e12, 600e9, {"PCIe": 32e9}),
    "A100": Accelerator(312e12, 2039e9, {"NVLink": 300e9, "PCIe": 32e9}),
    "B200": Accelerator(2250e12, 8000e9, {"NVLink": 900e9, "PCIe": 64e9}),
    "H100": Accelerator(989e12, 3350e9, {"NVLink": 450e9, "PCIe": 64e9}),
    "H200": Accelerator(989e12, 4800e9, {"NVLink": 450e9, "PCIe": 64e9}),
    "L4": Accelerator(121e12, 300e9, {"PCIe": 32e9}),
    "L40S": Accelerator(362e12, 864e9, {"PCIe": 32e9}),
}

ASSUMED_PEAK_RATIO = 0.4
"""Fraction of peak FLOP/s that an efficient training of a large transformer reaches; shown as an assumption."""

ASSUMED_TRANSFER_RATIO = 0.7
"""Fraction of the nominal speed that memory and interconnects are assumed to reach."""

SECONDS_PER_TOKEN = 0.015
"""Assumed time in which a CPU launches the kernels of one decoding step, beside reading the weights from GPU memory."""

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class Answers:
    """The answers that a trial generates.

    Attributes:
        number: Number of prompts.
        prompt_tokens: Mean tokens of a prompt.
        answer_tokens: Mean tokens of an answer.
        concurrent: Number of answers that each worker generates at once.
        num_parameters: Number of weights of the model.
    """

    number: int
    prompt_tokens: float
    answer_tokens: float
    concurrent: int
    num_parameters: int


def estimate_hours(
    estimate: TrainingEstimate, compute: ComputeOptions, num_steps: int | None, answers: Answers | None
) -> dict[str, Any]:
    """Estimate the time of a trial; empty on CPUs, and on GPUs whose speed is not known.

    Computing and exchanging tensors are added, as if they did not overlap. Checkpoints are not counted, as the training
    continues while they are written.

    Args:
        estimate: The resources of the training.
        compute: The requested resources.
        num_steps: Number of optimizer steps; None if it is not known.
        answers: The answers of the trial; None if their time cannot be estimated.

    Returns:
        `accelerator`, its `peak_flops` and the assumed `share_of_peak`; `flops_per_step` and `exchanged_per_step`
        (bytes that each worker receives); hours of `loading` and saving models, and of `answers`;
        `interconnects` with the `seconds_per_step`, `training`, `total` and `gpu` hours for each; and the
        `seconds_per_step`, `training`, `total` and `gpu` of the first one. Hours are null if they are not known.
    """
    accelerator = ACCELERATORS.get(compute.accelerator or "")
    if accelerator is None or not compute.gpus_per_worker:
        return {}
    num_gpus = compute.workers * compute.gpus_per_worker
    besides = {
        # The weights are read for the training and for the answers, and written once.
        "loading": 3 * estimate.model / ASSUMED_WRITE_SPEED / SECONDS_PER_HOUR,
        "answers": None if answers is None else _answer_hours(answers, estimate, accelerator, compute),
    }
    interconnects = {}
    for name, speed in _interconnects(accelerator, compute).items():
        seconds = step_seconds(estimate, accelerator, num_gpus, speed)
        training = None if num_steps is None else num_steps * seconds / SECONDS_PER_HOUR
        total = None if training is None else training + sum(hours or 0 for hours in besides.values())
        gpu = None if total is None else total * num_gpus
        interconnects[name] = {"seconds_per_step": seconds, "training": training, "total": total, "gpu": gpu}
    return {
        "accelerator": compute.accelerator,
        "peak_flops": accelerator.flops,
        "share_of_peak": ASSUMED_PEAK_RATIO,
        "flops_per_step": estimate.flops_per_step,
        "exchanged_per_step": estimate.exchanged_per_step,
        **besides,
        "interconnects": interconnects,
        **next(iter(interconnects.values())),
    }


def _interconnects(accelerator: Accelerator, compute: ComputeOptions) -> Mapping[str, float]:
    """Return the speeds by name; one speed without a name for a single worker, which exchanges nothing."""
    if compute.workers == 1:
        return {"": next(iter(accelerator.interconnects.values()))}
    return accelerator.interconnects


def step_seconds(
    training: TrainingEstimate | TrainingVariant, accelerator: Accelerator, num_gpus: float, speed: float
) -> float:
    """Estimate the seconds of an optimizer step over an interconnect of this speed in bytes per second."""
    computing = training.flops_per_step / (num_gpus * accelerator.flops * ASSUMED_PEAK_RATIO)
    return computing + training.exchanged_per_step / (speed * ASSUMED_TRANSFER_RATIO)


def _answer_hours(
    answers: Answers, estimate: TrainingEstimate, accelerator: Accelerator, compute: ComputeOptions
) -> float:
    """Estimate the hours in which the workers read the prompts and decode the answers, token by token."""
    operations = 2.0 * answers.num_parameters * answers.number * answers.prompt_tokens
    reading = operations / (compute.workers * accelerator.flops * ASSUMED_PEAK_RATIO)
    seconds_per_token = SECONDS_PER_TOKEN + estimate.model / (accelerator.memory * ASSUMED_TRANSFER_RATIO)
    num_tokens = answers.number * answers.answer_tokens / (answers.concurrent * compute.workers)
    return (reading + num_tokens * seconds_per_token) / SECONDS_PER_HOUR


def find_faster(estimate: TrainingEstimate, compute: ComputeOptions, limit: int | None) -> dict[str, Any] | None:
    """Find the fastest variant that fits into the memory; None if nothing is faster, or if it is not known.

    Args:
        estimate: The resources of the training.
        compute: The requested resources.
        limit: Bytes of GPU memory that tensors can use; None if they are not known.

    Returns:
        `change` of the spec, `total` bytes of memory, and `seconds_per_step` by interconnect.
    """
    accelerator = ACCELERATORS.get(compute.accelerator or "")
    fitting = [variant for variant in estimate.faster if limit is not None and variant.memory.total <= limit]
    if accelerator is None or not compute.gpus_per_worker or not fitting:
        return None
    num_gpus, interconnects = compute.workers * compute.gpus_per_worker, _interconnects(accelerator, compute)
    fastest = next(iter(interconnects.values()))
    best = min(fitting, key=lambda variant: step_seconds(variant, accelerator, num_gpus, fastest))
    seconds = {name: step_seconds(best, accelerator, num_gpus, speed) for name, speed in interconnects.items()}
    return {"change": best.change, "total": best.memory.total, "seconds_per_step": seconds}
