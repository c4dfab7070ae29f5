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
import traceback
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from runner.errors import RunnerError
from runner.imported_modules import note_imported
from runner.preflight.resources import check_torch_gpus
from runner.resolved_plan import read_plan
from runner.trial.run_trial import Outcome, outcome_of_trial

OUTPUT_FILE = "output.log"
"""The file in a run directory with the output of the trial's processes."""

BACKLOG = 128
CREDENTIALS = struct.Struct("3i")
"""Process, user and group of a connection's other end: `struct ucred` of Linux's socket.h."""

DIE_WITH_PARENT = 1
"""`PR_SET_PDEATHSIG` of Linux's prctl.h."""


@dataclass(frozen=True)
class ForkRequest:
    """A request to run steps of a trial in a forked process.

    Attributes:
        plan: The trial's plan as JSON.
        folder: Its run directory.
        steps: The steps to run.
        environment: Variables that differ from the server's; None for a variable that is to be unset.
    """

    plan: str
    folder: str
    steps: Sequence[str]
    environment: dict[str, str | None]


@dataclass(frozen=True)
class ForkExit:
    """How a forked process ended.

    Attributes:
        outcome: The outcome that it sent; None if it sent none.
        code: Its exit status, or the negative number of the signal that ended it; None if the server has died.
    """

    outcome: Outcome | None
    code: int | None


def start_server(modules: Sequence[str], environment: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], str]:
    """Start a server, which ends when the standard input of its process is closed or when this process ends.

    Its address is a name without a file (an abstract socket of Linux), so that a killed server leaves nothing behind.

    Args:
        modules: The modules that it imports before it forks. Clients that connect in the meantime wait.
        environment: The environment of the server and of the processes that it forks.

    Returns:
        The process, and the address for `run_forked`.
    """
    address = f"\0runner-{uuid.uuid4().hex}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(BACKLOG)
        process = subprocess.Popen(
            # -P: a package called `runner` or `plugins` in the current folder must not be imported instead of ours.
            [sys.executable, "-P", "-m", "runner.execute.fork_server", str(listener.fileno()), *modules],
            stdin=subprocess.PIPE,
            env=environment,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
    return process, address


def run_forked(address: str, request: ForkRequest) -> ForkExit:
    """Run steps in a process that a server forks; the process is killed if the caller ends.

    Raises:
        OSError: No server answers at this address.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        connection.sendall(json.dumps(asdict(request)).encode() + b"\n")
        with connection.makefile(encoding="utf-8") as lines:
            reply: dict[str, Any] = {}
            for line in lines:
                reply.update(json.loads(line))
    outcome = reply.get("outcome")
    return ForkExit(Outcome.from_json(outcome) if outcome else None, reply.get("code"))


class ForkServer:
    """Accepts requests, forks a process for each, and reports to the client how the process ended."""

    def __init__(self, listener: socket.socket, owner: int) -> None:
        """Initialize the server.

        Args:
            listener: A listening socket.
            owner: A file descriptor that reads as ended when the owner is gone.
        """
        self._listener, self._owner = listener, owner
        self._selector = selectors.DefaultSelector()
        self._num_running = 0

    def serve(self) -> None:
        """Serve until the owner is gone and no process is left."""
        self._watch(self._listener, self._accept)
        self._watch(self._owner, self._close)
        while self._num_running or self._listener.fileno() >= 0:
            for key, _ in self._selector.select():
                # An earlier action of this loop may have unregistered the file.
                if key.fd in self._selector.get_map():
                    key.data()

    def _watch(self, file: socket.socket | int, action: Callable[[], None]) -> None:
        self._selector.register(file, selectors.EVENT_READ, action)

    def _close(self) -> None:
        for file in (self._owner, self._listener):
            self._selector.unregister(file)
        self._listener.close()

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        if _user_of(connection) != os.getuid():
            connection.close()
            return
        with connection.makefile("rb") as lines:
            line = lines.readline()
        if not line.endswith(b"\n"):
            connection.close()
            return
        process = os.fork()
        if process == 0:
            self._selector.close()
            self._listener.close()
            run_and_exit(connection, ForkRequest(**json.loads(line)))
        self._num_running += 1
        process_file = os.pidfd_open(process)
        self._watch(connection, lambda: kill_process(process))
        self._watch(process_file, lambda: self._report_exit(process, process_file, connection))

    def _report_exit(self, process: int, process_file: int, connection: socket.socket) -> None:
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        for file in (connection, process_file):
            self._selector.unregister(file)
        os.close(process_file)
        with suppress(OSError):  # the client may be gone
            connection.sendall(json.dumps({"code": code}).encode() + b"\n")
        connection.close()
        self._num_running -= 1


def _user_of(connection: socket.socket) -> int:
    """The user id of the client's process; an abstract address has no file permissions that would restrict it."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    return int(CREDENTIALS.unpack(credentials)[1])


def kill_process(process: int) -> None:
    """Kill a process that was not waited for yet, and the processes that it started."""
    os.kill(process, signal.SIGKILL)
    with suppress(ProcessLookupError):  # it may not have created its process group yet
        os.killpg(process, signal.SIGKILL)


def _run_trial(request: ForkRequest) -> Outcome:
    visible = request.environment.get("CUDA_VISIBLE_DEVICES")
    try:
        check_torch_gpus(sys.modules.get("torch"), len(visible.split(",")) if visible else 0, os.environ)
        spec = read_plan(request.plan)
    except RunnerError as error:
        return Outcome("failed", error, traceback.format_exc())
    return outcome_of_trial(spec, Path(request.folder), request.steps)


def run_and_exit(connection: socket.socket, request: ForkRequest) -> None:
    """In the forked process: run the steps, send the outcome, and exit without returning."""
    status = 1
    try:
        _set_up_process(request)
        outcome = _run_trial(request)
        connection.sendall(json.dumps({"outcome": outcome.as_json()}).encode() + b"\n")
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        # The server's open files and exit handlers must not be closed or run by this process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _set_up_process(request: ForkRequest) -> None:
    """Give the process its own process group, output file and environment, and let it end with the server."""
    os.setsid()
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    output = os.open(Path(request.folder) / OUTPUT_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    faulthandler.enable()
    for name, value in request.environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def main(listener_file: int, modules: Sequence[str]) -> None:
    """Import the modules, then serve at a listening socket.

    Args:
        listener_file: The socket's file descriptor.
        modules: The modules to import.
    """
    with socket.socket(fileno=listener_file) as listener:
        # Imported objects are never collected: scanning them again and again would take a fifth of the time.
        gc.disable()
        for name in modules:
            # A module that cannot be imported fails in the trial that needs it, with its own message.
            with suppress(Exception):
                import_module(name)
        note_imported({name.partition(".")[0] for name in modules})
        # Frozen objects are not touched by the collector, so that their memory pages remain shared by all processes.
        gc.collect()
        gc.freeze()
        gc.enable()
        ForkServer(listener, sys.stdin.fileno()).serve()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
