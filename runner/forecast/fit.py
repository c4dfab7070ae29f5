"""Whether GPUs hold a training, what would make it fit, and the disk and hours it takes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from runner.records import Forecast, TrainingWay
from runner.spec.models import ComputeOptions

USABLE = 0.95
"""Share of a GPU's memory, by its name, that tensors may take; the rest is the driver's, or lost between tensors."""

PEAK_FLOPS = {
    "A10": 125e12,
    "A100": 312e12,
    "B200": 2250e12,
    "H100": 989e12,
    "H200": 989e12,
    "L4": 121e12,
    "L40S": 362e12,
}
"""Dense bfloat16 operations a second with float32 sums, from NVIDIA's data sheets (SXM where there are several)."""

SHARE_OF_PEAK = 0.4
"""Share of the peak that training a large transformer well is known to reach; an assumption, and shown as such."""


def judged(forecast: Forecast, compute: ComputeOptions) -> dict[str, Any]:
    """Say what a worker's GPU has to hold, whether it does, and what would.

    Returns:
        `memory`: bytes by part, `total`, `limit` (null where the spec names no memory) and `ways`, what takes less;
        `fits`: whether the spec as it is does, null without a limit; `advice`: in words.
    """
    limit = _limit(compute)
    written, *others = forecast.ways
    ways = [{"change": way.change, "strategy": way.strategy, **_memory(way, limit)} for way in others]
    fits = None if limit is None else written.memory.total <= limit
    memory = {"strategy": written.strategy, **_memory(written, limit), "limit": limit, "ways": ways}
    advice = _advice(forecast, limit) if limit is not None and not fits else []
    return {"memory": memory, "fits": fits, "advice": advice}


def _limit(compute: ComputeOptions) -> int | None:
    if not compute.gpus_per_worker or compute.gpu_memory is None:
        return None
    share = min(1.0, compute.gpus_per_worker)
    return round(float(compute.gpu_memory.removesuffix("GB")) * 1e9 * USABLE * share)


def _memory(way: TrainingWay, limit: int | None) -> dict[str, Any]:
    total = way.memory.total
    return {**asdict(way.memory), "total": total, "fits": None if limit is None else total <= limit}


def _advice(forecast: Forecast, limit: int) -> list[str]:
    """The two ways that fit and cost least, or how far off the last one is."""
    written, *others = forecast.ways
    told = [
        f"this spec needs {_gigabytes(written)} a GPU, where tensors may take {limit / 1e9:.0f} GB ({USABLE:.0%} of it)"
    ]
    fitting = [way for way in others if way.memory.total <= limit]
    if fitting:
        return told + [f"{way.change}: {_gigabytes(way)}, which fits" for way in fitting[:2]]
    least = forecast.ways[-1]
    changed = f" ({least.change})" if least.change else ""
    return [
        *told,
        f"the least that the trainer can do{changed} is {_gigabytes(least)}; take more workers, GPUs with more memory, "
        "fewer pixels an image (model.max_pixels) or a smaller model",
    ]


def _gigabytes(way: TrainingWay) -> str:
    return f"{way.memory.total / 1e9:.0f} GB"


def disk(forecast: Forecast) -> dict[str, int]:
    """Bytes on the disk of a trial: `checkpoint` (one), `num_checkpoints` at once, `model`, and `total`."""
    return {
        "checkpoint": forecast.checkpoint,
        "num_checkpoints": forecast.num_checkpoints,
        "model": forecast.model,
        "total": forecast.checkpoint * forecast.num_checkpoints + forecast.model,
    }


def hours(forecast: Forecast, compute: ComputeOptions, num_steps: int | None) -> dict[str, Any]:
    """Estimate how long a trial trains; empty on CPUs and on GPUs whose peak is not known.

    Returns:
        `accelerator`, `peak_flops` and `share_of_peak` that are reckoned with; `flops_per_step`, `seconds_per_step`;
        `training` (hours) and `gpu` (hours times GPUs), null where the number of steps is not known.
    """
    peak = PEAK_FLOPS.get(compute.accelerator or "")
    if peak is None or not compute.gpus_per_worker:
        return {}
    num_gpus = compute.workers * compute.gpus_per_worker
    seconds = forecast.flops_per_step / (num_gpus * peak * SHARE_OF_PEAK)
    training = None if num_steps is None else num_steps * seconds / 3600
    return {
        "accelerator": compute.accelerator,
        "peak_flops": peak,
        "share_of_peak": SHARE_OF_PEAK,
        "flops_per_step": forecast.flops_per_step,
        "seconds_per_step": seconds,
        "training": training,
        "gpu": None if training is None else training * num_gpus,
    }
