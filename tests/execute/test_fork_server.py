"""A forked process has its own environment, and its end does not affect other processes."""

import json
import os
import signal
import socket
import threading
import time
from contextlib import chdir, contextmanager
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from runner.errors import LostConnectionError, LostWorkerError, OutOfMemoryError, RequirementError, StepError
from runner.execute.fork_executor import failure_cause
from runner.execute.fork_server import OUTPUT_FILE, ForkExit, ForkRequest, run_forked, start_server

ACTS = """\
import __main__, os, signal, sys, time
from pathlib import Path
from runner.errors import StepError
from types import SimpleNamespace
from runner.trial.run_trial import Outcome

cuda = SimpleNamespace(is_available=lambda: False)
sys.modules["torch"] = SimpleNamespace(cuda=cuda, version=SimpleNamespace(cuda=None, hip=None), __version__="2.13.0")

def act(plan, folder, steps):
    (folder / "pid").write_text(str(os.getpid()))
    print("the plan is", plan)
    if plan == "environment":
        return Outcome("failed", StepError(f"{os.environ.get('CHANGED')} {os.environ.get('UNSET')}"))
    if plan == "wait":
        time.sleep(600)
    if plan == "exit":
        sys.exit(3)
    if plan == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    return Outcome("finished")

__main__.outcome_of_trial = act
__main__.read_plan = str
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server whose trials perform the action that their plan names.

    A package in the current folder must not replace the runner's own package of this name.
    """
    folder = tmp_path_factory.mktemp("server")
    (folder / "acts.py").write_text(ACTS)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "runner").mkdir()
    (elsewhere / "runner" / "__init__.py").write_text("raise ImportError('the wrong package')")
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    with chdir(elsewhere):
        process, address = start_server(["acts", "no_such_module"], {**os.environ, "PYTHONPATH": path, "UNSET": "seen"})
    with process:
        yield address
        process.stdin.close()
        assert process.wait(timeout=60) == 0
    with pytest.raises(ConnectionRefusedError):
        run_forked(address, ForkRequest("finish", str(folder), [], {}))


def _wait(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _run(server, plan, folder, **environment):
    return run_forked(server, ForkRequest(plan, str(folder), [], environment))


@contextmanager
def _waiting(server, folder):
    """A waiting trial's process id, and the list that will hold its `ForkExit`."""
    ends = []
    thread = threading.Thread(target=lambda: ends.append(_run(server, "wait", folder)))
    thread.start()
    pid = folder / "pid"
    _wait(lambda: pid.exists() and pid.read_text())
    yield int(pid.read_text()), ends
    thread.join(timeout=60)


def test_the_outcome_and_the_output_are_returned(server, tmp_path):
    fork_exit = _run(server, "finish", tmp_path)
    assert (fork_exit.outcome.status, fork_exit.code) == ("finished", 0)
    assert "the plan is finish" in (tmp_path / OUTPUT_FILE).read_text()


def test_each_process_has_the_environment_of_its_request(server, tmp_path):
    assert str(_run(server, "environment", tmp_path, CHANGED="1", UNSET=None).outcome.error) == "1 None"
    assert str(_run(server, "environment", tmp_path).outcome.error) == "None seen"


def test_a_process_with_gpus_that_its_torch_cannot_use_is_refused(server, tmp_path):
    refused = _run(server, "finish", tmp_path, CUDA_VISIBLE_DEVICES="0,1").outcome
    assert isinstance(refused.error, RequirementError)
    assert "is a build for CPUs" in str(refused.error)
    assert _run(server, "finish", tmp_path, CUDA_VISIBLE_DEVICES="").outcome.status == "finished"
    pretended = _run(server, "finish", tmp_path, CUDA_VISIBLE_DEVICES="0,1", RUNNER_FAKE_GPUS="1")
    assert pretended.outcome.status == "finished"


def test_a_process_that_exits_by_itself_reports_its_status(server, tmp_path):
    assert _run(server, "exit", tmp_path) == ForkExit(None, 1)
    assert _run(server, "crash", tmp_path) == ForkExit(None, -signal.SIGSEGV)
    assert "Segmentation fault" in (tmp_path / OUTPUT_FILE).read_text()


def test_a_killed_process_does_not_affect_others(server, tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    with (
        _waiting(server, tmp_path / "one") as (one, exits_of_one),
        _waiting(server, tmp_path / "other") as (other, exits_of_other),
    ):
        os.kill(one, signal.SIGKILL)
        _wait(lambda: exits_of_one)
        assert exits_of_one == [ForkExit(None, -signal.SIGKILL)]
        assert _run(server, "finish", tmp_path).outcome.status == "finished"
        assert psutil.pid_exists(other)
        assert not exits_of_other
        os.kill(other, signal.SIGTERM)


def test_a_process_ends_with_its_client(server, tmp_path):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(server)
    request = asdict(ForkRequest("wait", str(tmp_path), [], {}))
    connection.sendall(json.dumps(request).encode() + b"\n")
    pid = tmp_path / "pid"
    _wait(lambda: pid.exists() and pid.read_text())
    assert psutil.pid_exists(int(pid.read_text()))
    connection.close()
    _wait(lambda: not psutil.pid_exists(int(pid.read_text())))


def test_a_client_without_a_request_is_harmless(server, tmp_path):
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
        (-signal.SIGSEGV, True, LostWorkerError),
        (-signal.SIGBUS, False, LostWorkerError),
        (-signal.SIGABRT, False, LostConnectionError),
        (-signal.SIGILL, False, StepError),
        (1, False, StepError),
    ],
)
def test_the_cause_for_a_process_without_an_outcome(code, memory_ran_out, kind):
    error = failure_cause(ForkExit(None, code), str(Path("runs")), memory_ran_out=memory_ran_out)
    assert type(error) is kind
