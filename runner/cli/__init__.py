"""The command line: parses, imports what a command needs (the one place that may), calls it and prints."""

from __future__ import annotations

import gc
import sys
import traceback
from typing import NoReturn

from runner.cli import begin, run, running, sync, compare, measure, build, review, datasets, look, cache  # isort: skip - the help shows panels in this order
from runner.cli.app import app
from runner.cli.interrupts import insistent_interrupts
from runner.errors import RunnerError

__all__ = [
    "app",
    "begin",
    "build",
    "cache",
    "compare",
    "datasets",
    "look",
    "main",
    "measure",
    "review",
    "run",
    "running",
    "sync",
]


OBJECTS_BETWEEN_COLLECTIONS = 50_000
"""What a command imports stays: with Python's 700 the garbage collector goes through all of it again and again, which
takes a fifth of the time of importing torch."""


def main() -> NoReturn:
    """Run a command; the user sees the text of errors, and a traceback only with `--debug`."""
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    debug = "--debug" in sys.argv
    try:
        with insistent_interrupts():
            app(standalone_mode=True)
    except RunnerError as error:
        _tell(str(error), debug)
        sys.exit(error.exit_status)
    except SystemExit as end:
        # Typer turns Ctrl-C into an exit without a word.
        if isinstance(getattr(end.__context__, "__cause__", None), KeyboardInterrupt):
            _tell("interrupted; the same command goes on from where it stopped", debug)
        raise
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        _tell(f"an error in the program, not in your spec: {told} (--debug shows where)", debug)
        sys.exit(1)
    sys.exit(0)


def _tell(message: str, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    print(message, file=sys.stderr)
