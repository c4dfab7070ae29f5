"""A server process that imports what trials need once and forks a fresh process for each."""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from runner.trial.run_trial import Outcome, outcome_of_trial

OUTPUT = "output.log"
"""In a run directory: what the processes of the trial print."""

BACKLOG = 128
CREDENTIALS = struct.Struct("3i")
"""Process, user and group of who connected: `struct ucred` of Linux's socket.h."""

DIE_WITH_PARENT = 1
"""`PR_SET_PDEATHSIG` of Linux's prctl.h."""


@dataclass(frozen=True)
class ForkRequest:
    """What a process is forked for.

    Attributes:
        plan: The trial's plan as JSON.
        folder: Its run directory.
        steps: Which steps to run.
        environment: Variables that differ from the server's; None for one that is not to be set.
    """

    plan: str
    folder: str
    steps: Sequence[str]
    environment: dict[str, str | None]


@dataclass(frozen=True)
class ForkExit:
    """How a forked process ended.

    Attributes:
        outcome: What it told; None if it could not.
        code: Its exit status, or less the number of the signal that ended it; None where the server is gone.
    """

    outcome: Outcome | None
    code: int | None


def start_server(modules: Sequence[str], environment: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], str]:
    """Start a server that ends when the standard input of its process is closed, and with this process.

    Its address is a name without a file (Linux's abstract sockets), so that a server that is killed leaves nothing.

    Args:
        modules: What it loads before it forks; those who connect meanwhile wait.
        environment: Its variables, and those of the processes it forks.

    Returns:
        The process, and the address for `run_forked`.
    """
    address = f"\0runner-{uuid.uuid4().hex}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(BACKLOG)
        process = subprocess.Popen(
            [sys.executable, "-m", "runner.execute.fork_server", str(listener.fileno()), *modules],
            stdin=subprocess.PIPE,
            env=environment,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
    return process, address


def run_forked(address: str, request: ForkRequest) -> ForkExit:
    """Run steps in a process forked from the server at a socket; it ends with the caller.

    Raises:
        OSError: No server answers there.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        connection.sendall(json.dumps(asdict(request)).encode() + b"\n")
        with connection.makefile(encoding="utf-8") as lines:
            told: dict[str, Any] = {}
            for line in lines:
                told.update(json.loads(line))
    outcome = told.get("outcome")
    return ForkExit(Outcome.from_json(outcome) if outcome else None, told.get("code"))


class ForkServer:
    """Accepts requests, forks, and tells who asked how the process ended."""

    def __init__(self, listener: socket.socket, owner: int) -> None:
        """Take a listening socket, and a file descriptor that reads as ended when the owner is gone."""
        self._listener, self._owner = listener, owner
        self._watched = selectors.DefaultSelector()
        self._num_running = 0

    def serve(self) -> None:
        """Serve until the owner is gone and no process is left."""
        self._watch(self._listener, self._accept)
        self._watch(self._owner, self._close)
        while self._num_running or self._listener.fileno() >= 0:
            for key, _ in self._watched.select():
                # What one of them ended is no longer watched when its own turn comes.
                if key.fd in self._watched.get_map():
                    key.data()

    def _watch(self, file: socket.socket | int, action: Callable[[], None]) -> None:
        self._watched.register(file, selectors.EVENT_READ, action)

    def _close(self) -> None:
        for file in (self._owner, self._listener):
            self._watched.unregister(file)
        self._listener.close()

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        if _user(connection) != os.getuid():
            connection.close()
            return
        with connection.makefile("rb") as lines:
            line = lines.readline()
        if not line.endswith(b"\n"):
            connection.close()
            return
        process = os.fork()
        if process == 0:
            self._watched.close()
            self._listener.close()
            run_and_exit(connection, ForkRequest(**json.loads(line)))
        self._num_running += 1
        handle = os.pidfd_open(process)
        self._watch(connection, lambda: end(process))
        self._watch(handle, lambda: self._ended(process, handle, connection))

    def _ended(self, process: int, handle: int, connection: socket.socket) -> None:
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        for file in (connection, handle):
            self._watched.unregister(file)
        os.close(handle)
        with suppress(OSError):  # who asked may be gone
            connection.sendall(json.dumps({"code": code}).encode() + b"\n")
        connection.close()
        self._num_running -= 1


def _user(connection: socket.socket) -> int:
    """Whose process connected: an address without a file has no permissions."""
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    return int(CREDENTIALS.unpack(told)[1])


def end(process: int) -> None:
    """Kill a process that was not waited for yet, and what it started."""
    os.kill(process, signal.SIGKILL)
    with suppress(ProcessLookupError):  # it may not have made its group yet
        os.killpg(process, signal.SIGKILL)


def run_and_exit(connection: socket.socket, request: ForkRequest) -> None:
    """In the forked process: run the steps, tell the outcome, and end without returning."""
    status = 1
    try:
        _settle(request)
        outcome = outcome_of_trial(request.plan, Path(request.folder), request.steps)
        connection.sendall(json.dumps({"outcome": outcome.as_json()}).encode() + b"\n")
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        # What the server opened and registered for its own end is not this process's to close.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _settle(request: ForkRequest) -> None:
    """Make the process its own: a group, its output, its environment; and let it end with the server."""
    os.setsid()
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    output = os.open(Path(request.folder) / OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    faulthandler.enable()
    for name, value in request.environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def main(listening: int, modules: Sequence[str]) -> None:
    """Serve at a socket that listens, given by its file descriptor."""
    with socket.socket(fileno=listening) as listener:
        # What is imported stays: looking through it for what does not, again and again, takes a fifth of the time.
        gc.disable()
        for name in modules:
            # The trial that needs a broken module fails by it, and says so.
            with suppress(Exception):
                import_module(name)
        # Objects that the collector never visits stay on pages that all processes share.
        gc.collect()
        gc.freeze()
        gc.enable()
        ForkServer(listener, sys.stdin.fileno()).serve()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
