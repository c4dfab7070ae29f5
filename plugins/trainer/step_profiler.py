"""Profiles some steps of a training with torch.profiler, and writes a trace for Chrome's trace viewer or Perfetto."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import profiler

WARM_UP_STEPS = 2
"""Steps before the profiled ones: the first steps of a process compile kernels and allocate memory."""

TRACE_FILE = "trace.json.gz"
"""The file with the trace, in the format of Chrome's trace viewer, compressed with gzip."""


@contextmanager
def profile_steps(folder: Path, num_profiled: int, num_remaining: int) -> Iterator[Callable[[], None]]:
    """Profile steps of this process: operations on the CPU, kernels on the GPU, and shapes of inputs.

    Two steps before them are not profiled, if the training has as many. If it ends early, the trace has fewer steps.

    Args:
        folder: Where to write `TRACE_FILE`; the folder is created.
        num_profiled: Number of steps to profile.
        num_remaining: Number of steps that the training will run at most.

    Yields:
        A function to call at the end of each step.
    """

    def write(finished: profiler.profile) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f".{TRACE_FILE}"  # torch compresses only files with this suffix
        finished.export_chrome_trace(str(unfinished))
        unfinished.replace(folder / TRACE_FILE)

    num_before = max(0, min(WARM_UP_STEPS, num_remaining - num_profiled))
    warm_up = min(1, num_before)  # of the profiler itself
    with warnings.catch_warnings():
        # A training with too few steps leaves none for it.
        warnings.filterwarnings("ignore", "Profiler won't be using warmup", UserWarning)
        schedule = profiler.schedule(wait=num_before - warm_up, warmup=warm_up, active=num_profiled, repeat=1)
    with profiler.profile(schedule=schedule, on_trace_ready=write, record_shapes=True) as active:
        yield active.step
