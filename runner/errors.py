"""Exceptions for the user: where the problem is, what is wrong, and what would be right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SpecPath = tuple[str | int, ...]
"""The path of a value in a spec, such as `("optimizer", "groups", "vision", "lr")`."""


def dotted_path(path: SpecPath) -> str:
    """Format a path as in `--set`: `optimizer.groups.vision.lr`."""
    return ".".join(str(part) for part in path)


@dataclass(frozen=True)
class Problem:
    """One problem, with its location as far as it is known.

    Attributes:
        message: What is wrong and what would be right, in plain words.
        path: The path in the spec; empty if there is none.
        file: The file as the user named it.
        line: Line number, counted from 1.
        column: Column number, counted from 1.
    """

    message: str
    path: SpecPath = ()
    file: str | None = None
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        """Format the problem as one line: `file:line:column: path: message`."""
        location = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        return ": ".join(part for part in (location, dotted_path(self.path), self.message) if part)

    def as_json(self) -> dict[str, str | int | None]:
        """Convert the problem to the form of `validate --json` (docs/interface.md)."""
        return {
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "path": dotted_path(self.path),
            "message": self.message,
        }


class RunnerError(Exception):
    """The base class of all errors for the user, who sees the message without a traceback."""

    exit_status = 1


class SpecError(RunnerError):
    """The spec is invalid; the error lists every problem found."""

    exit_status = 2

    def __init__(self, problems: Sequence[Problem] | str, *, path: SpecPath = ()) -> None:
        """Create the error from a list of problems, or from one message and its path in the spec."""
        self.problems = (Problem(problems, path=path),) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class RequirementError(RunnerError):
    """The spec is valid, but this machine lacks something that it requires."""

    exit_status = 2


class PluginError(RunnerError):
    """A plugin is missing, broken, or does not implement its protocol."""

    exit_status = 2


class DataError(RunnerError):
    """A data set is missing, broken, or does not match its description."""

    exit_status = 2


class StepError(RunnerError):
    """A step of a trial failed."""


class DivergedError(StepError):
    """A training diverged: its loss or its gradient is infinite or not a number. The search of a sweep learns of it."""


class LostWorkerError(StepError):
    """A worker or its node ended during a step; another worker can resume the step from its checkpoint."""


class OutOfMemoryError(StepError):
    """A step needed more memory than the GPU or the machine has."""


class LostConnectionError(LostWorkerError):
    """A worker could not go on without another worker. The cause may be an error of that worker, which counts more."""


OUT_OF_MEMORY = re.compile(
    r"can't allocate memory"
    r"|CUDA (driver )?error: out of memory"
    r"|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED"
    r"|Cuda failure (\d+ )?'out of memory'|Failed to CUDA calloc"
)
"""What torch, cuBLAS, cuDNN and NCCL report if memory ran out, apart from torch's own `OutOfMemoryError`."""

LOST_CONNECTION = re.compile(r"\bgloo/(transport|rendezvous)/|\bNCCL (error|communicator was aborted)")
"""What gloo and NCCL report if another worker does not answer."""

HARDWARE_FAULT = re.compile(
    r"CUDA (driver )?error: ("
    r"CUDA-capable device\(s\) is/are busy or unavailable"
    r"|no CUDA-capable device is detected"
    r"|uncorrectable ECC error encountered"
    r"|uncorrectable NVLink error detected during the execution"
    r"|Invalid access of peer GPU memory over nvlink or a hardware error"
    r"|an illegal memory access was encountered"
    r"|the launch timed out and was terminated"
    r"|hardware stack error"
    r"|an illegal instruction was encountered"
    r"|unspecified launch failure"
    r"|system not yet initialized"
    r"|unknown error)"
)
"""The texts of `cudaGetErrorString` for errors that a GPU or its connections can cause. `device-side assert triggered`
is an error of a program, which would be repeated."""


def step_error_class(error: BaseException) -> type[StepError]:
    """Return the class of a step's failure by its cause: what a launch may retry is a lost worker or out of memory.

    Torch is not imported, so that its exceptions are recognised by their names and messages.
    """
    if is_out_of_memory(error):
        return OutOfMemoryError
    name, message = type(error).__name__, str(error)
    if name in {"DistBackendError", "DistNetworkError", "DistStoreError"} or LOST_CONNECTION.search(message):
        return LostConnectionError
    return LostWorkerError if HARDWARE_FAULT.search(message) else StepError


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether Python, torch or a library of CUDA ran out of memory."""
    by_type = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return by_type or OUT_OF_MEMORY.search(str(error)) is not None


def data_line_error(path: Path, line: int, message: str) -> DataError:
    """Create the error for an invalid line of a data file."""
    return DataError(f"{path}:{line}: {message}")
