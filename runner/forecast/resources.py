"""What this machine has, and what a spec asks for that it lacks."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from runner.spec.models import ComputeOptions

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


def unmet_by(compute: ComputeOptions, gpus: Sequence[Gpu]) -> list[str]:
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


def too_small(compute: ComputeOptions, gpus: Sequence[Gpu], given: Sequence[int | str]) -> str | None:
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
