"""A forked process has its own environment, and its end concerns nobody else."""

import json
import os
import signal
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from runner.errors import LostWorkerError, OutOfMemoryError, StepError
from runner.execute.executor import failure_cause
from runner.execute.fork_server import OUTPUT, ForkExit, ForkRequest, run_forked, start_server

ACTS = """\
import __main__, os, signal, sys, time
from pathlib import Path
from runner.errors import StepError
from runner.trial.run_trial import Outcome

def act(plan, folder, steps):
    (folder / "pid").write_text(str(os.getpid()))
    print("the plan is", plan)
    if plan == "environment":
        return Outcome("failed", StepError(f"{os.environ.get('GIVEN')} {os.environ.get('TAKEN')}"))
    if plan == "wait":
        time.sleep(600)
    if plan == "exit":
        sys.exit(3)
    if plan == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    return Outcome("finished")

__main__.outcome_of_trial = act
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server whose trials do what their plan names."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "acts.py").write_text(ACTS)
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    process, address = start_server(["acts", "no_such_module"], {**os.environ, "PYTHONPATH": path, "TAKEN": "seen"})
    with process:
        yield address
        process.stdin.close()
        assert process.wait(timeout=60) == 0
    with pytest.raises(ConnectionRefusedError):
        run_forked(address, ForkRequest("finish", str(folder), [], {}))


def _wait(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def _run(server, plan, folder, **environment):
    return run_forked(server, ForkRequest(plan, str(folder), [], environment))


@contextmanager
def _waiting(server, folder):
    """A trial that waits, and the list in which its end will stand."""
    ends = []
    thread = threading.Thread(target=lambda: ends.append(_run(server, "wait", folder)))
    thread.start()
    pid = folder / "pid"
    _wait(lambda: pid.exists() and pid.read_text())
    yield int(pid.read_text()), ends
    thread.join(timeout=60)


def test_the_outcome_and_what_is_printed_come_back(server, tmp_path):
    ended = _run(server, "finish", tmp_path)
    assert (ended.outcome.status, ended.code) == ("finished", 0)
    assert "the plan is finish" in (tmp_path / OUTPUT).read_text()


def test_each_process_has_the_environment_that_was_asked_for(server, tmp_path):
    assert str(_run(server, "environment", tmp_path, GIVEN="1", TAKEN=None).outcome.error) == "1 None"
    assert str(_run(server, "environment", tmp_path).outcome.error) == "None seen"


def test_a_process_that_ends_by_itself_says_how(server, tmp_path):
    assert _run(server, "exit", tmp_path) == ForkExit(None, 1)
    assert _run(server, "crash", tmp_path) == ForkExit(None, -signal.SIGSEGV)
    assert "Segmentation fault" in (tmp_path / OUTPUT).read_text()


def test_one_that_is_killed_takes_nobody_along(server, tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    with (
        _waiting(server, tmp_path / "one") as (one, its_end),
        _waiting(server, tmp_path / "other") as (other, others_end),
    ):
        os.kill(one, signal.SIGKILL)
        _wait(lambda: its_end)
        assert its_end == [ForkExit(None, -signal.SIGKILL)]
        assert _run(server, "finish", tmp_path).outcome.status == "finished"
        assert psutil.pid_exists(other)
        assert not others_end
        os.kill(other, signal.SIGTERM)


def test_a_process_ends_with_who_asked_for_it(server, tmp_path):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(server)
    told = asdict(ForkRequest("wait", str(tmp_path), [], {}))
    connection.sendall(json.dumps(told).encode() + b"\n")
    pid = tmp_path / "pid"
    _wait(lambda: pid.exists() and pid.read_text())
    assert psutil.pid_exists(int(pid.read_text()))
    connection.close()
    _wait(lambda: not psutil.pid_exists(int(pid.read_text())))


def test_who_connects_and_asks_nothing_does_no_harm(server, tmp_path):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(server)
    assert _run(server, "finish", tmp_path).outcome.status == "finished"


@pytest.mark.parametrize(
    ("code", "memory_ran_out", "kind"),
    [
        (-signal.SIGKILL, True, OutOfMemoryError),
        (-signal.SIGKILL, False, LostWorkerError),
        (-signal.SIGTERM, False, LostWorkerError),
        (None, False, LostWorkerError),
        (-signal.SIGSEGV, True, StepError),
        (1, False, StepError),
    ],
)
def test_why_a_process_ended_that_told_nothing(code, memory_ran_out, kind):
    error = failure_cause(ForkExit(None, code), str(Path("runs")), memory_ran_out=memory_ran_out)
    assert type(error) is kind
