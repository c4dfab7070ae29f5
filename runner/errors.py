"""What can go wrong, as the user is told it: where it is, what is wrong, what would be right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SpecPath = tuple[str | int, ...]
"""Where a value stands in a spec, such as `("optimizer", "groups", "vision", "lr")`."""


def dotted(path: SpecPath) -> str:
    """Write a path the way `--set` takes it: `optimizer.groups.vision.lr`."""
    return ".".join(str(part) for part in path)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, with as much of its place as is known.

    Attributes:
        message: What is wrong and what would be right, in plain words.
        path: The place in the spec, where it has one.
        file: The file as the user named it.
        line: Counted from 1.
        column: Counted from 1.
    """

    message: str
    path: SpecPath = ()
    file: str | None = None
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        """The problem as one line: `file:line:column: path: message`."""
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        return ": ".join(part for part in (place, dotted(self.path), self.message) if part)

    def as_json(self) -> dict[str, str | int | None]:
        """The problem as docs/interface.md's `validate --json` lists it."""
        return {
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "path": dotted(self.path),
            "message": self.message,
        }


class RunnerError(Exception):
    """The base of all errors meant for the user, who sees its text and never a traceback."""

    exit_status = 1


class SpecError(RunnerError):
    """The spec is wrong; every problem found is listed at once."""

    exit_status = 2

    def __init__(self, problems: Sequence[Problem] | str, *, path: SpecPath = ()) -> None:
        """Take a list of problems, or one message and its place in the spec."""
        self.problems = (Problem(problems, path=path),) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class RequirementError(RunnerError):
    """The spec is right, but this machine lacks what it asks for."""

    exit_status = 2


class PluginError(RunnerError):
    """A plugin is missing, broken or does not keep its protocol."""

    exit_status = 2


class DataError(RunnerError):
    """A data set is missing, broken or not what its description says."""

    exit_status = 2


class StepError(RunnerError):
    """A step of a trial failed while it ran."""


class LostWorkerError(StepError):
    """A worker, or its node, ended under a step; another one can take the step up from its checkpoint."""


class OutOfMemoryError(StepError):
    """A step needed more memory than its GPU or its machine had."""


def out_of_memory(error: BaseException) -> bool:
    """Whether Python or torch says that there was no memory; torch, which is not imported, by its words."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "can't allocate memory" in str(error)


def read_error(path: Path, line: int, message: str) -> DataError:
    """Make the error for a line of a data file that cannot be used."""
    return DataError(f"{path}:{line}: {message}")
