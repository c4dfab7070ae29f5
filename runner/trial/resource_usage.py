"""Samples the CPU, memory and GPU usage of a trial while it runs, for its event log."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import psutil

from runner.trial.run_directory_and_events import EventLog, RunDirectory

EVENT_KIND = "system"
"""The kind of the events. Values are named like MLflow's system metrics; the step is the run's age in seconds."""


MEGABYTE = 1e6


@contextmanager
def sample_usage(run: RunDirectory, log: EventLog, seconds: float, *, uses_gpus: bool = False) -> Iterator[None]:
    """Sample the use of this machine while the block runs, and once more at its end.

    Args:
        run: The run directory, whose record says when the run was created.
        log: The event log to write to.
        seconds: The interval between samples; 0 disables sampling.
        uses_gpus: Whether the trial uses GPUs. If none can be read, a warning says why.
    """
    if not seconds:
        yield
        return
    sampler = _Sampler(run, log, seconds, uses_gpus=uses_gpus)
    sampler.start()
    try:
        yield
    finally:
        sampler.stop()


class _Sampler(threading.Thread):
    def __init__(self, run: RunDirectory, log: EventLog, seconds: float, *, uses_gpus: bool) -> None:
        super().__init__(daemon=True, name="usage")
        created = run.read_record().get("created")
        self._created = datetime.fromisoformat(created).timestamp() if created else time.time()
        self._log, self._seconds, self._uses_gpus = log, seconds, uses_gpus
        self._stop_event = threading.Event()

    def run(self) -> None:
        """Sample until `stop` is called, and then once more."""
        usage = UsageReader()
        if self._uses_gpus and not usage.num_gpus:
            self._log.warning(
                "the utilization of the GPUs is not measured, because NVML finds none of them; install "
                "`mmre-runner[gpu]` (nvidia-ml-py), or set compute.usage_interval: 0 to measure nothing"
            )
        while not self._stop_event.wait(self._seconds):
            self._log_sample(usage)
        self._log_sample(usage)

    def stop(self) -> None:
        """Stop sampling and wait for the last sample."""
        self._stop_event.set()
        self.join()

    def _log_sample(self, usage: UsageReader) -> None:
        step = int(datetime.now(UTC).timestamp() - self._created)
        with suppress(OSError, psutil.Error):  # a failed sample must not stop the training
            self._log.append(EVENT_KIND, step=step, values=usage.read())


class UsageReader:
    """Reads the use of this machine since the previous reading.

    Create it in the thread that reads, because psutil measures CPU intervals per thread.
    """

    def __init__(self) -> None:
        """Start the first interval."""
        psutil.cpu_percent()
        self._gpus = dict(_visible_gpus())

    @property
    def num_gpus(self) -> int:
        """The number of GPUs that are read."""
        return len(self._gpus)

    def read(self) -> dict[str, float]:
        """Read percentages, megabytes (10^6 bytes) and watts.

        The values cover the machine, this process with its child processes, and its GPUs.
        """
        memory = psutil.virtual_memory()
        values = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_percentage": memory.percent,
            "system_memory_usage_megabytes": round(memory.used / MEGABYTE, 1),
            "process_memory_usage_megabytes": round(_resident_bytes() / MEGABYTE, 1),
        }
        for index, handle in self._gpus.items():
            values |= {f"gpu_{index}_{name}": value for name, value in _read_gpu(handle).items()}
        return values


def _resident_bytes() -> int:
    """Resident memory of this process and its child processes, in bytes."""
    this_process = psutil.Process()
    total = 0
    for process in (this_process, *this_process.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue  # the process has ended meanwhile
    return total


def _visible_gpus() -> Iterator[tuple[int, Any]]:
    """Yield index and NVML handle of the GPUs that the trial has on this machine, numbered as on the machine."""
    try:
        nvml: Any = import_module("pynvml")
        nvml.nvmlInit()
        indices = list(range(nvml.nvmlDeviceGetCount()))
    except Exception:  # a missing library, driver or GPU raises errors of different classes
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        indices = [int(part) for part in visible.split(",") if part.strip().isdecimal() and int(part) in indices]
    for index in indices:
        yield index, nvml.nvmlDeviceGetHandleByIndex(index)


def _read_gpu(handle: Any) -> Mapping[str, float]:
    nvml: Any = import_module("pynvml")
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        return {
            "utilization_percentage": nvml.nvmlDeviceGetUtilizationRates(handle).gpu,
            "memory_usage_percentage": round(100 * memory.used / memory.total, 1),
            "memory_usage_megabytes": round(memory.used / MEGABYTE, 1),
            "power_usage_watts": nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        }
    except Exception:  # a later reading may succeed; the training must go on
        return {}
