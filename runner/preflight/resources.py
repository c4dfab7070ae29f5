"""Compares a training with the resources: GPUs, memory, disk space and time."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from runner.errors import LostWorkerError, RequirementError
from runner.records import TrainingEstimate, TrainingVariant
from runner.spec.experiment_spec import ComputeOptions

MEMORY_TOLERANCE = 0.95
"""An 80 GB GPU reports 79.3 to 81.5 GiB minus what the driver reserves, so 5 % below the nominal size still matches."""


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine: its name as the driver gives it, and its memory in gigabytes (10^9 bytes)."""

    name: str
    memory: float


def local_gpus() -> list[Gpu]:
    """List the NVIDIA GPUs of this machine; empty without a driver."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.rsplit(",", 1) for line in output.splitlines() if "," in line]
    return [Gpu(name.strip(), float(mebibytes) * 2**20 / 1e9) for name, mebibytes in rows]


def missing_requirements(compute: ComputeOptions, gpus: Sequence[Gpu]) -> list[str]:
    """List the requirements of a spec that a machine with these GPUs does not meet, one line each."""
    needed = compute.workers * compute.gpus_per_worker
    if not needed:
        return []
    matching = [gpu for gpu in gpus if _matches(gpu, compute)]
    if len(matching) >= needed:
        return []
    memory = f" with {compute.gpu_memory}" if compute.gpu_memory else ""
    requested = f"{needed:g} GPU(s) of type {compute.accelerator or 'any'}{memory}"
    return [f"the spec requests {requested}; this machine has {_list_gpus(gpus) or 'none'}"]


def _list_gpus(gpus: Sequence[Gpu]) -> str:
    return ", ".join(f"{gpu.name} ({gpu.memory:.0f} GB)" for gpu in gpus)


def _matches(gpu: Gpu, compute: ComputeOptions) -> bool:
    return (compute.accelerator is None or is_named(gpu, compute.accelerator)) and _has_memory(gpu, compute)


def is_named(gpu: Gpu, accelerator: str) -> bool:
    """Return whether Ray's name of a type of GPU, such as `GeForce-RTX-4090`, belongs to a GPU.

    Ray takes one or more successive words of the driver's name and joins them with hyphens; it omits words such as the
    maker, the form factor or the size of the memory, in ways that differ between versions of Ray.
    """
    name, accelerator_words = _words(gpu.name), _words(accelerator)
    length = len(accelerator_words)
    starts = range(len(name) - length + 1)
    return length > 0 and any(name[start : start + length] == accelerator_words for start in starts)


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", name.lower())


def gpu_memory_problem(compute: ComputeOptions, gpus: Sequence[Gpu], gpu_ids: Sequence[int | str]) -> str | None:
    """Say which GPUs of a worker have less memory than the spec requests; None if all have enough.

    Args:
        compute: The requested resources.
        gpus: All GPUs of the machine; empty without a driver, which disables the check.
        gpu_ids: The GPUs of the worker, by index; names are ignored.
    """
    own = [gpus[int(gpu_id)] for gpu_id in gpu_ids if str(gpu_id).isdecimal() and int(gpu_id) < len(gpus)]
    too_small = [gpu for gpu in own if not _has_memory(gpu, compute)]
    if not too_small:
        return None
    return f"the spec requests GPUs with {compute.gpu_memory}, but the worker has {_list_gpus(too_small)}"


FAKE_GPUS = "RUNNER_FAKE_GPUS"
"""A variable for tests of clusters: if it is set to 1, workers for which Ray has reserved GPUs compute on the CPU."""


def check_torch_gpus(torch: Any, num_gpus: int, environment: Mapping[str, str]) -> None:
    """Check that torch can use the GPUs of a worker, which would otherwise compute on the CPU without a message.

    Args:
        torch: The module; None if no plugin of the trial has imported it.
        num_gpus: The number of GPUs that the worker should see.
        environment: The worker's environment.

    Raises:
        RequirementError: Torch is a build for CPUs, or its driver is missing or too old.
        LostWorkerError: Some of the GPUs are missing.
    """
    if torch is None or not num_gpus or environment.get(FAKE_GPUS) == "1":
        return
    num_visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if num_visible >= num_gpus:
        return
    machine = f"on {socket.gethostname()}"
    if num_visible:
        raise LostWorkerError(f"torch sees {num_visible} of the {num_gpus} GPUs of the trial {machine}")
    if torch.version.cuda is None and torch.version.hip is None:
        cause = f"torch {torch.__version__} {machine} is a build for CPUs; install a build for CUDA"
    else:
        cause = (
            f"torch {torch.__version__}, a build for CUDA {torch.version.cuda}, sees no GPU {machine}; compare its "
            "CUDA version with the one that `nvidia-smi` shows there"
        )
    raise RequirementError(f"the spec requests GPUs (compute.gpus_per_worker), but {cause}")


def _has_memory(gpu: Gpu, compute: ComputeOptions) -> bool:
    requested = float(compute.gpu_memory.removesuffix("GB")) if compute.gpu_memory else 0
    return gpu.memory >= requested * MEMORY_TOLERANCE


FRAGMENTED_RATIO = 0.08
"""Fraction of a GPU's nominal memory that is reserved for the gaps between the blocks of torch's allocator."""

RESERVED_BYTES = 3e9
"""Bytes of a GPU that are reserved for the driver, CUDA's context, the libraries' workspaces and NCCL's buffers."""


def check_memory(estimate: TrainingEstimate, compute: ComputeOptions) -> dict[str, Any]:
    """Compare the memory that a worker needs with the memory of its GPU.

    Returns:
        `memory`: bytes by part, `total`, `limit` (null if the spec has no `gpu_memory`), and `ways`: variants that need
        less; `fits`: whether the spec fits as it is, null without a limit; `advice`: lines of text.
    """
    limit = _usable_bytes(compute)
    current, *alternatives = estimate.variants
    ways = [
        {"change": variant.change, "strategy": variant.strategy, **_describe_memory(variant, limit)}
        for variant in alternatives
    ]
    fits = None if limit is None else current.memory.total <= limit
    memory = {"strategy": current.strategy, **_describe_memory(current, limit), "limit": limit, "ways": ways}
    advice = _memory_advice(estimate, limit) if limit is not None and not fits else []
    return {"memory": memory, "fits": fits, "advice": advice}


def _usable_bytes(compute: ComputeOptions) -> int | None:
    """GPU memory in bytes that the tensors of a worker can use; None if the spec does not say."""
    if not compute.gpus_per_worker or compute.gpu_memory is None:
        return None
    gpu_fraction = min(1.0, compute.gpus_per_worker)
    nominal = float(compute.gpu_memory.removesuffix("GB")) * 1e9 * gpu_fraction
    return max(0, round(nominal * (1 - FRAGMENTED_RATIO) - RESERVED_BYTES))


def _describe_memory(variant: TrainingVariant, limit: int | None) -> dict[str, Any]:
    total = variant.memory.total
    return {**asdict(variant.memory), "total": total, "fits": None if limit is None else total <= limit}


def _memory_advice(estimate: TrainingEstimate, limit: int) -> list[str]:
    """Name the two cheapest variants that fit, or the variant that needs least memory if none fits."""
    current, *alternatives = estimate.variants
    problem = (
        f"this spec needs {_gigabytes(current)} per GPU; {limit / 1e9:.0f} GB are available to tensors (the memory "
        f"less {FRAGMENTED_RATIO:.0%} for gaps and {RESERVED_BYTES / 1e9:.0f} GB for CUDA and NCCL)"
    )
    fitting = [variant for variant in alternatives if variant.memory.total <= limit]
    if fitting:
        return [problem, *(f"{variant.change}: {_gigabytes(variant)}, which fits" for variant in fitting[:2])]
    smallest = estimate.variants[-1]
    change = f" ({smallest.change})" if smallest.change else ""
    return [
        problem,
        f"the trainer needs at least {_gigabytes(smallest)}{change}; use more workers, GPUs with more memory, fewer "
        "pixels per image (model.max_pixels) or a smaller model",
    ]


def _gigabytes(variant: TrainingVariant) -> str:
    return f"{variant.memory.total / 1e9:.0f} GB"


ASSUMED_WRITE_SPEED = 1e9
"""Bytes per second that a trial writes to its storage; shown as an assumption. One NVMe disk writes 2 to 5 GB/s, a
shared file system of a cluster often less than 1 GB/s for a node."""


def estimate_disk(
    estimate: TrainingEstimate,
    *,
    assumed: bool = False,
    num_steps: int | None = None,
    seconds_per_step: float | None = None,
) -> dict[str, int | float | None]:
    """Estimate the disk space of a trial, and what the trial writes.

    Args:
        estimate: The resources of the training.
        assumed: Whether the samples are assumed, so that the size of the encoded samples is not known.
        num_steps: Optimizer steps of the training; None if they are not known.
        seconds_per_step: Time of an optimizer step; None if it is not known.

    Returns:
        In bytes: `checkpoint` (one), `model`, `encoded_samples` (null if it is not known), and `total`;
        `num_checkpoints` kept at once. For the whole trial without an interruption: `checkpoints_written`, `written`
        (bytes of checkpoints, model and encoded samples) and `write_minutes` at `ASSUMED_WRITE_SPEED`; these are null
        if the number of checkpoints is not known.
    """
    encoded = None if assumed else estimate.encoded
    num_written = _count_checkpoints(estimate, num_steps, seconds_per_step)
    written = None
    if num_written is not None:
        written = num_written * estimate.checkpoint + estimate.model + (encoded or 0)
    return {
        "checkpoint": estimate.checkpoint,
        "num_checkpoints": estimate.num_checkpoints,
        "model": estimate.model,
        "encoded_samples": encoded,
        "total": estimate.checkpoint * estimate.num_checkpoints + estimate.model + (encoded or 0),
        "checkpoints_written": num_written,
        "written": written,
        "write_minutes": None if written is None else written / ASSUMED_WRITE_SPEED / 60,
    }


def _count_checkpoints(estimate: TrainingEstimate, num_steps: int | None, seconds_per_step: float | None) -> int | None:
    """Count the checkpoints of a training; None if its length is not known, or its time if the time matters."""
    schedule = estimate.schedule
    if schedule is None or num_steps is None or (seconds_per_step is None and schedule.seconds is not None):
        return None
    return schedule.count(num_steps, seconds_per_step or 0.0)
