"""Trials in processes forked on this machine, one after another, without Ray."""

import os
import signal
import sys
import time
from types import SimpleNamespace

import psutil
import pytest

from runner.errors import LostWorkerError, RequirementError
from runner.execute.fork_executor import ForkedExecutor, needed_keys
from runner.execute.in_process_executor import LocalExecutor
from runner.execute.launch import make_executor
from runner.resolved_plan import resolve
from runner.spec.experiment_spec import ComputeOptions
from runner.spec.load import load_spec
from runner.trial.run_directory_and_events import RunDirectory

SPEC = """\
name: forked
data: {type: synthetic, path: data, train: 2, test: 2}
adapter: {type: pfa, tasks: [ner]}
model: none
trainer: none
generator: {type: constant}
metrics: [{type: ner_f1}]
tracker: {type: mlflow}
compute: {cpus_per_worker: 1}
"""


SERVED = SPEC.replace("{type: constant}", "{type: openai_compatible, model: m, api_key_env: CHAT_KEY}")


class Silent:
    def progress(self, done, total, **shown): ...

    def warn(self, message): ...


@pytest.fixture
def trial(tmp_path):
    """A function that prepares a trial's folder; returns its plan, the folder and the `compute` section."""
    (tmp_path / "spec.yaml").write_text(SPEC)

    def trial(name):
        plan = resolve(load_spec(tmp_path / "spec.yaml").spec, Silent())
        run = RunDirectory(tmp_path / "runs" / "forked" / name)
        run.create(plan, SPEC, ())
        return plan.spec, run.path, plan.spec.compute

    return trial


@pytest.fixture
def executor():
    executor = ForkedExecutor()
    yield executor
    executor.close()


def test_only_the_step_that_asks_a_server_gets_its_key(tmp_path):
    (tmp_path / "spec.yaml").write_text(SPEC)
    (tmp_path / "served.yaml").write_text(SERVED)
    constant, served = (load_spec(tmp_path / name).spec for name in ("spec.yaml", "served.yaml"))
    assert needed_keys(served, ["generate", "score"]) == ("CHAT_KEY",)
    assert needed_keys(served, ["score"]) == ()
    assert needed_keys(constant, ["train", "generate", "score"]) == ()


def _outcome(running):
    deadline = time.monotonic() + 600
    while (outcome := running.outcome()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return outcome


def test_trials_run_one_after_the_other_in_processes_of_one_server(executor, trial):
    first, second = trial("one"), trial("two")
    running = executor.start(*first)
    assert running._request.environment == {"CUDA_VISIBLE_DEVICES": ""}  # the spec asks for no GPUs
    assert executor.start(*second) is None
    assert _outcome(running).status == "finished"
    assert RunDirectory(first[1]).is_finished("score")
    [server] = [child for child in psutil.Process().children() if "runner.execute.fork_server" in child.cmdline()]
    assert _outcome(executor.start(*second)).status == "finished"
    assert server.is_running()
    executor.close()
    assert not server.is_running()


def test_a_killed_trial_is_interrupted_and_the_next_one_runs(executor, trial):
    running = executor.start(*trial("one"))
    running.kill()
    assert running.outcome().status == "interrupted"
    assert _outcome(executor.start(*trial("two"))).status == "finished"


def test_a_killed_server_is_reported_as_a_lost_worker(executor, trial, monkeypatch):
    plan, folder, compute = trial("one")
    server, _ = executor._get_server([], 1, with_cloud=False)
    monkeypatch.setattr(executor, "_get_server", lambda *_, **__: (server, executor._server[1]))
    os.kill(server.pid, signal.SIGKILL)
    server.wait()
    assert isinstance(_outcome(executor.start(plan, folder, compute)).error, LostWorkerError)


def test_a_trial_that_needs_ray_is_refused(executor):
    for options in ({"workers": 2}, {"gpus_per_worker": 1}):
        with pytest.raises(RequirementError, match="runs on Ray"):
            executor.check_placeable(ComputeOptions(**options))


def test_a_smoke_run_without_an_address_needs_no_ray():
    assert isinstance(make_executor(None, local=False, smoke=True), ForkedExecutor)
    assert isinstance(make_executor(None, local=True, smoke=True), LocalExecutor)


def test_a_trial_of_this_process_is_refused_if_torch_cannot_use_the_gpus_that_it_asks_for(trial, monkeypatch):
    cuda = SimpleNamespace(is_available=lambda: False)
    torch = SimpleNamespace(cuda=cuda, version=SimpleNamespace(cuda=None, hip=None), __version__="2.13.0")
    monkeypatch.setitem(sys.modules, "torch", torch)
    spec, folder, compute = trial("one")
    outcome = LocalExecutor().start(spec, folder, compute.model_copy(update={"gpus_per_worker": 0.5})).outcome()
    assert isinstance(outcome.error, RequirementError)
    assert "is a build for CPUs" in str(outcome.error)
    assert LocalExecutor().start(spec, folder, compute).outcome().status == "finished"
