"""Samples the CPU, memory and GPU use of a trial while it runs, for its event log."""

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

from runner.trial.events import EventLog
from runner.trial.run_directory import RunDirectory

KIND = "system"
"""Of the events; their figures are named as MLflow names its own, and their step is a second since the run began."""
MEGABYTE = 1e6


@contextmanager
def sampled(run: RunDirectory, log: EventLog, seconds: float) -> Iterator[None]:
    """Sample this machine while the block runs, and once more at its end; not at all where `seconds` is 0.

    Args:
        run: Whose record says when it began.
        log: What is told to.
        seconds: From one sample to the next.
    """
    if not seconds:
        yield
        return
    sampler = _Sampler(run, log, seconds)
    sampler.start()
    try:
        yield
    finally:
        sampler.end()


class _Sampler(threading.Thread):
    def __init__(self, run: RunDirectory, log: EventLog, seconds: float) -> None:
        super().__init__(daemon=True, name="usage")
        created = run.read_record().get("created")
        self._created = datetime.fromisoformat(created).timestamp() if created else time.time()
        self._log, self._seconds = log, seconds
        self._ending = threading.Event()

    def run(self) -> None:
        """Sample until told to end, and then once more."""
        usage = Usage()
        while not self._ending.wait(self._seconds):
            self._tell(usage)
        self._tell(usage)

    def end(self) -> None:
        """Sample no more."""
        self._ending.set()
        self.join()

    def _tell(self, usage: Usage) -> None:
        step = int(datetime.now(UTC).timestamp() - self._created)
        with suppress(OSError, psutil.Error):  # nothing that is sampled is worth a training
            self._log.append(KIND, step=step, values=usage.figures())


class Usage:
    """Reads the use of this machine since the last reading, in the thread that makes it: psutil counts by thread."""

    def __init__(self) -> None:
        """Begin a first interval."""
        psutil.cpu_percent()
        self._gpus = dict(_visible_gpus())

    def figures(self) -> dict[str, float]:
        """Percentages, megabytes (10^6 bytes) and watts: of the machine, of this process with its own, of its GPUs."""
        memory = psutil.virtual_memory()
        told = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_percentage": memory.percent,
            "system_memory_usage_megabytes": round(memory.used / MEGABYTE, 1),
            "process_memory_usage_megabytes": round(_resident() / MEGABYTE, 1),
        }
        for number, handle in self._gpus.items():
            told |= {f"gpu_{number}_{name}": value for name, value in _gpu(handle).items()}
        return told


def _resident() -> int:
    """Bytes in memory of this process and those that it started."""
    own = psutil.Process()
    total = 0
    for process in (own, *own.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue  # It came to its end meanwhile.
    return total


def _visible_gpus() -> Iterator[tuple[int, Any]]:
    """This process's GPUs, numbered as on the machine; with several workers, which each see one, all of the machine."""
    try:
        nvml: Any = import_module("pynvml")
        nvml.nvmlInit()
        numbers = list(range(nvml.nvmlDeviceGetCount()))
    except Exception:  # no library, no driver or no GPU: each says so with an error of its own
        return
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        numbers = [int(each) for each in named.split(",") if each.strip().isdecimal() and int(each) in numbers]
    for number in numbers:
        yield number, nvml.nvmlDeviceGetHandleByIndex(number)


def _gpu(handle: Any) -> Mapping[str, float]:
    nvml: Any = import_module("pynvml")
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        return {
            "utilization_percentage": nvml.nvmlDeviceGetUtilizationRates(handle).gpu,
            "memory_usage_percentage": round(100 * memory.used / memory.total, 1),
            "memory_usage_megabytes": round(memory.used / MEGABYTE, 1),
            "power_usage_watts": nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        }
    except Exception:  # what one reading lacks the next may have; a training goes on
        return {}
