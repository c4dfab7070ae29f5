"""Estimates the main memory of a machine with all workers of a trial, and compares it with `compute.memory`."""

from __future__ import annotations

import math
from typing import Any

from runner.records import TrainingEstimate
from runner.spec.experiment_spec import ComputeOptions

PROCESS_BYTES = 1_000_000_000
"""Main memory of a worker's process without the model: Python with its packages, buffers, and Ray."""

GPU_PROCESS_BYTES = 2_000_000_000
"""The same for a worker with a GPU, assumed: the driver's and CUDA's libraries and contexts take about 1 GB."""

FLOAT32_BYTES = 4

LITTLE_MEMORY = 8_000_000_000
"""Bytes for all workers up to which no reservation is advised."""


def check_host_memory(
    estimate: TrainingEstimate, compute: ComputeOptions, num_weights: int, mapped_bytes: int
) -> dict[str, Any]:
    """Estimate the peak of each part of a trial, and compare the largest with the memory that the spec reserves.

    Args:
        estimate: The resources of the training.
        compute: The requested resources.
        num_weights: Number of weights of the model.
        mapped_bytes: Bytes of each weight that the workers share while they load the model; 0 if each has a copy.

    Returns:
        In bytes, for a machine with all workers: `processes` (what the workers take without a model), the peaks of
        `load`, `training` and `save`, which include it, `checkpoint` (the copy of a checkpoint in `training`), and
        `total`, the largest peak. `moment` names this peak. `limit` is what `compute.memory` reserves (null if it is
        not set), `fits` whether the workers need no more (null without a limit), and `advice` says which value to set;
        empty if the value is right. Empty if the trainer does not estimate main memory.
    """
    host, workers, on_gpus = estimate.host, compute.workers, compute.gpus_per_worker > 0
    if host is None:
        return {}
    processes = workers * (GPU_PROCESS_BYTES if on_gpus else PROCESS_BYTES)
    weights = mapped_bytes * num_weights or workers * FLOAT32_BYTES * num_weights
    peaks = {
        "load": processes + weights + host.weights,
        "training": processes + host.training + host.checkpoint,
        "save": processes + host.save,
    }
    moment = max(peaks, key=lambda name: peaks[name])
    limit = None if compute.memory_bytes is None else workers * compute.memory_bytes
    return {
        "workers": workers,
        "processes": processes,
        **peaks,
        "checkpoint": host.checkpoint,
        "moment": moment,
        "total": peaks[moment],
        "limit": limit,
        "fits": None if limit is None else peaks[moment] <= limit,
        "advice": _advice(peaks[moment], compute),
    }


def _advice(total: int, compute: ComputeOptions) -> str:
    gigabytes = math.ceil(total / compute.workers / 1e9)
    if compute.memory_bytes is None:
        return f"set compute.memory={gigabytes}GB, which reserves it" if total > LITTLE_MEMORY else ""
    if total > compute.memory_bytes * compute.workers:
        return f"compute.memory={compute.memory} reserves too little; set {gigabytes}GB"
    return ""
