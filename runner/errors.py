"""Exceptions for the user: where the problem is, what is wrong, and what would be right."""

from __future__ import annotations

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


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether Python or torch ran out of memory; torch is not imported, so its error is recognised by name."""
    by_type = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return by_type or "can't allocate memory" in str(error)


def data_line_error(path: Path, line: int, message: str) -> DataError:
    """Create the error for an invalid line of a data file."""
    return DataError(f"{path}:{line}: {message}")
