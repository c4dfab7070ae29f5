"""The entry point of the command line: registers the commands, runs one, and prints errors without a traceback."""

from __future__ import annotations

import gc
import sys
import traceback
from typing import NoReturn

# isort: off - the help shows its panels in this order
from runner.cli import dataset_commands, inspect_commands, results_commands, status_commands, storage_commands
from runner.cli import experiment_commands as launch_command
from runner.cli import experiment_commands as setup_commands

# isort: on
from runner.cli.app import app
from runner.errors import RunnerError
from runner.signals import reliable_interrupts

__all__ = [
    "app",
    "dataset_commands",
    "inspect_commands",
    "launch_command",
    "main",
    "results_commands",
    "setup_commands",
    "status_commands",
    "storage_commands",
]

GC_THRESHOLD = 50_000
"""Allocations between garbage collections. Imported modules stay alive, and Python's default of 700 scans them over
and over, which costs a fifth of the time of importing torch."""


def main() -> NoReturn:
    """Run a command; print the message of an error, and a traceback only with `--debug`."""
    gc.set_threshold(GC_THRESHOLD)
    debug = "--debug" in sys.argv
    try:
        with reliable_interrupts():
            app(standalone_mode=True)
    except RunnerError as error:
        _print_error(str(error), debug)
        sys.exit(error.exit_status)
    except SystemExit as end:
        # Typer turns Ctrl-C into an exit without a word.
        if isinstance(getattr(end.__context__, "__cause__", None), KeyboardInterrupt):
            _print_error("interrupted; the same command goes on from where it stopped", debug)
        raise
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        _print_error(f"an error in the program, not in your spec: {message} (--debug shows where)", debug)
        sys.exit(1)
    sys.exit(0)


def _print_error(message: str, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    print(message, file=sys.stderr)
