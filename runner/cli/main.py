"""The entry point of the command line: registers the commands, runs one, and prints errors without a traceback."""

from __future__ import annotations

import gc
import sys
import traceback
from typing import NoReturn

from runner.cli import dataset_commands, experiment_commands, plugins_schema_and_ui_commands, storage_commands
from runner.cli import evaluation_commands as results_commands
from runner.cli import launch_control_commands as status_commands
from runner.cli.app import app
from runner.cli.printing import print_text
from runner.errors import RunnerError
from runner.signals import reliable_interrupts

# Importing these modules registers their commands.
__all__ = [
    "app",
    "dataset_commands",
    "experiment_commands",
    "main",
    "plugins_schema_and_ui_commands",
    "results_commands",
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
            app(prog_name="runner")
    except RunnerError as error:
        _print_error(str(error), debug)
        sys.exit(error.exit_status)
    except SystemExit as exit_request:
        # Typer turns Ctrl-C into an exit without a message.
        if isinstance(getattr(exit_request.__context__, "__cause__", None), KeyboardInterrupt):
            _print_error("interrupted; run the same command again to resume", debug)
        raise
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        _print_error(f"internal error, not a problem of your spec: {message} (--debug shows the traceback)", debug)
        sys.exit(1)
    sys.exit(0)


def _print_error(message: str, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    print_text(message, file=sys.stderr)
