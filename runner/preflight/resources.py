"""Compares a training with the machine: GPUs, memory, disk and hours."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from runner.records import TrainingEstimate, TrainingWay
from runner.spec.experiment_spec import ComputeOptions

MEMORY_TOLERANCE = 0.95
"""An 80 GB card reports 79.3 to 81.5 GiB less what its driver keeps; five per cent below the name is that card."""


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine: its name as the driver gives it, and its memory in gigabytes (10^9 bytes)."""

    name: str
    memory: float


def local_gpus() -> list[Gpu]:
    """List this machine's NVIDIA GPUs; none where there is no driver."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.rsplit(",", 1) for line in listed.splitlines() if "," in line]
    return [Gpu(name.strip(), float(mebibytes) * 2**20 / 1e9) for name, mebibytes in rows]


def missing_requirements(compute: ComputeOptions, gpus: Sequence[Gpu]) -> list[str]:
    """Say, a line each, what a spec asks for that a machine with these GPUs lacks."""
    needed = compute.workers * compute.gpus_per_worker
    if not needed:
        return []
    fitting = [gpu for gpu in gpus if _fits(gpu, compute)]
    if len(fitting) >= needed:
        return []
    memory = f" with {compute.gpu_memory}" if compute.gpu_memory else ""
    wanted = f"{needed:g} GPU(s) of type {compute.accelerator or 'any'}{memory}"
    found = ", ".join(f"{gpu.name} ({gpu.memory:.0f} GB)" for gpu in gpus) or "none"
    return [f"the spec asks for {wanted}; this machine has {found}"]


def _fits(gpu: Gpu, compute: ComputeOptions) -> bool:
    named = compute.accelerator is None or compute.accelerator.lower() in re.split(r"[^a-z0-9]+", gpu.name.lower())
    return named and _large_enough(gpu, compute)


def gpu_too_small(compute: ComputeOptions, gpus: Sequence[Gpu], given: Sequence[int | str]) -> str | None:
    """Say what a worker's GPUs lack of the memory that the spec asks for.

    Args:
        compute: What the spec asks for.
        gpus: All of the machine; none where no driver tells, and then nothing can be said.
        given: Those of the worker, by their places, or by names that are not looked up.
    """
    own = [gpus[int(place)] for place in given if str(place).isdecimal() and int(place) < len(gpus)]
    small = [gpu for gpu in own if not _large_enough(gpu, compute)]
    if not small:
        return None
    found = ", ".join(f"{gpu.name} ({gpu.memory:.0f} GB)" for gpu in small)
    return f"the spec asks for GPUs with {compute.gpu_memory}, and the worker was given {found}"


def _large_enough(gpu: Gpu, compute: ComputeOptions) -> bool:
    wanted = float(compute.gpu_memory.removesuffix("GB")) if compute.gpu_memory else 0
    return gpu.memory >= wanted * MEMORY_TOLERANCE


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


def check_memory(forecast: TrainingEstimate, compute: ComputeOptions) -> dict[str, Any]:
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


def _advice(forecast: TrainingEstimate, limit: int) -> list[str]:
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


def disk(forecast: TrainingEstimate) -> dict[str, int]:
    """Bytes on the disk of a trial: `checkpoint` (one), `num_checkpoints` at once, `model`, and `total`."""
    return {
        "checkpoint": forecast.checkpoint,
        "num_checkpoints": forecast.num_checkpoints,
        "model": forecast.model,
        "total": forecast.checkpoint * forecast.num_checkpoints + forecast.model,
    }


def hours(forecast: TrainingEstimate, compute: ComputeOptions, num_steps: int | None) -> dict[str, Any]:
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
