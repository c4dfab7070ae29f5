"""The entry point of the command line: registers the commands, runs one, and prints errors without a traceback."""

from __future__ import annotations

import codecs
import errno
import gc
import io
import json
import sys
import traceback
from typing import NoReturn

from runner.cli import (
    dataset_commands,
    doctor_command,
    exchange_commands,
    experiment_commands,
    plugins_schema_and_ui_commands,
    power_command,
    storage_commands,
)
from runner.cli import evaluation_commands as results_commands
from runner.cli import launch_control_commands as status_commands
from runner.cli.app import app
from runner.cli.printing import print_text
from runner.errors import RequirementError, RunnerError
from runner.signals import reliable_interrupts

# Importing these modules registers their commands.
__all__ = [
    "app",
    "dataset_commands",
    "doctor_command",
    "exchange_commands",
    "experiment_commands",
    "main",
    "plugins_schema_and_ui_commands",
    "power_command",
    "results_commands",
    "status_commands",
    "storage_commands",
]

OTHER_FOLDER = "choose another folder, such as compute.storage for runs or data.path for generated data"
REMEDIES = {
    errno.EACCES: f"ask its owner for the permission, or {OTHER_FOLDER}",
    errno.EPERM: f"ask its owner for the permission, or {OTHER_FOLDER}",
    errno.EROFS: OTHER_FOLDER,
    errno.ENAMETOOLONG: "use shorter names of files and folders",
    errno.ELOOP: "correct the link, which leads to itself",
    errno.EISDIR: "name a file, not a folder",
    errno.ENOTDIR: "a file is where a folder is expected; choose another path",
    errno.ENOSPC: f"free some space, for example with `runner cache`, or {OTHER_FOLDER}",
    errno.EDQUOT: f"free some space, for example with `runner cache`, or {OTHER_FOLDER}",
}
"""What helps against errors of the file system that any command may meet, by error number."""

GC_THRESHOLD = 50_000
"""Allocations between garbage collections. Imported modules stay alive, and Python's default of 700 scans them over
and over, which costs a fifth of the time of importing torch."""


def main() -> NoReturn:
    """Run a command; print the message of an error, and a traceback only with `--debug`."""
    gc.set_threshold(GC_THRESHOLD)
    _escape_unencodable()
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
    except OSError as error:
        if error.errno not in REMEDIES:
            _exit_with_internal_error(error, debug)
        file = "" if error.filename is None else f"{error.filename}: "
        _print_error(f"{file}{error.strerror}; {REMEDIES[error.errno]}", debug)
        sys.exit(RequirementError.exit_status)
    except Exception as error:
        _exit_with_internal_error(error, debug)
    sys.exit(0)


def _exit_with_internal_error(error: Exception, debug: bool) -> NoReturn:
    from runner.stages.registry import describe_error

    message = describe_error(error)
    _print_error(f"internal error, not a problem of your spec: {message} (--debug shows the traceback)", debug)
    sys.exit(1)


def _escape_unencodable() -> None:
    """Escape characters that the encoding of the output lacks by their code, as in JSON, so that JSON stays valid."""

    def escape(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeEncodeError)
        return json.dumps(error.object[error.start : error.end])[1:-1], error.end

    codecs.register_error("json-escape", escape)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="json-escape")


def _print_error(message: str, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    print_text(message, file=sys.stderr)
