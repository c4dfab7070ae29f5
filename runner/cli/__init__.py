"""The command line: parses, imports what a command needs (the one place that may), calls it and prints."""

from __future__ import annotations

import signal
import sys
import traceback
from typing import TYPE_CHECKING, NoReturn

from runner.cli import begin, run, measure, look  # isort: skip - the help shows panels in this order
from runner.cli.app import app
from runner.errors import RunnerError

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

__all__ = ["app", "begin", "look", "main", "measure", "run"]


def main() -> NoReturn:
    """Run a command; the user sees the text of errors, and a traceback only with `--debug`."""
    debug = "--debug" in sys.argv
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    sys.unraisablehook = _heed_lost_interrupt
    try:
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


def _heed_lost_interrupt(lost: UnraisableHookArgs) -> None:
    """Interrupt again a moment later where Python lets a Ctrl-C fall.

    So it does in callbacks of weak references, and every import has one: a launch spends seconds on imports.
    """
    if issubclass(lost.exc_type, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, 0.05)
    else:
        sys.__unraisablehook__(lost)


def _tell(message: str, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    print(message, file=sys.stderr)
