"""The command `runner`, in this process: what it prints and how it ends, without the seconds of importing it."""

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

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)


def run_here(arguments: Sequence[object], folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess:
    """Run the command as a process of its own would, in a folder and an environment; see `subprocess.run`."""
    told, messages = io.StringIO(), io.StringIO()
    status = 0
    as_a_process = _as_a_process(["runner", *map(str, arguments)], folder, environment)
    with as_a_process, redirect_stdout(told), redirect_stderr(messages):
        try:
            main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
    return subprocess.CompletedProcess(arguments, status, told.getvalue(), messages.getvalue())


@contextmanager
def _as_a_process(command: list[str], folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Put back what a command changes of its process."""
    before, path, argv = dict(os.environ), list(sys.path), sys.argv
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    here, threshold = Path.cwd(), gc.get_threshold()
    places = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [place for place in places if place and place not in path]
    _forget_plugins()
    try:
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        sys.argv = command
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        sys.path[:], sys.argv = path, argv
        with suppress(OSError):
            os.chdir(here)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        gc.set_threshold(*threshold)
        _forget_plugins()


def _forget_plugins() -> None:
    """Let the installed plugins be looked for again, where the path is another one."""
    importlib.invalidate_caches()
    registry.installed.cache_clear()
    registry._entry_points.cache_clear()
