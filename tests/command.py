"""Runs the command `runner` in this process, which saves the seconds of importing it."""

from __future__ import annotations

import gc
import importlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

from runner.cli.main import main
from runner.stages import registry

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)


def run_in_process(
    arguments: Sequence[object], folder: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess:
    """Run the command in a folder and an environment; return output and exit status like `subprocess.run`."""
    stdout, stderr = io.StringIO(), io.StringIO()
    status = 0
    command = ["runner", *map(str, arguments)]
    with _process_state(command, folder, environment), redirect_stdout(stdout), redirect_stderr(stderr):
        try:
            main()
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
    return subprocess.CompletedProcess(arguments, status, stdout.getvalue(), stderr.getvalue())


@contextmanager
def _process_state(command: list[str], folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Set the process state for a command, and restore it afterwards."""
    old_environment, old_path, old_argv = dict(os.environ), list(sys.path), sys.argv
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    old_folder, threshold = Path.cwd(), gc.get_threshold()
    entries = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [entry for entry in entries if entry and entry not in old_path]
    _clear_plugin_caches()
    try:
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        sys.argv = command
        yield
    finally:
        os.environ.clear()
        os.environ.update(old_environment)
        sys.path[:], sys.argv = old_path, old_argv
        with suppress(OSError):
            os.chdir(old_folder)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        gc.set_threshold(*threshold)
        _clear_plugin_caches()


def _clear_plugin_caches() -> None:
    """Make the registry find plugins again, as `sys.path` has changed."""
    importlib.invalidate_caches()
    registry._read_plugins.cache_clear()
    registry._entry_points.cache_clear()
