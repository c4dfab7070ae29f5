"""A cluster with a token: launches are handed over to it, and shown, followed and stopped through it."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from runner.status.status import experiment_status, find_experiments

BIN = Path(sys.executable).parent
LONG = ("--set", "trainer.epochs=4000", "--set", "trainer.save_steps=5")


def free_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Head:
    """A head node on loopback that asks for a token."""

    def __init__(self, environment, folder):
        self.folder = Path(folder)
        self.token = secrets.token_hex(16)
        self.port, self.dashboard, *others = free_ports(4)
        self.environment = {
            **environment,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
        }
        options = {
            "port": self.port,
            "dashboard-port": self.dashboard,
            "ray-client-server-port": others[0],
            "dashboard-agent-listen-port": others[1],
            "min-worker-port": 0,
            "max-worker-port": 0,
            "num-cpus": 4,
            "temp-dir": folder,
            "object-store-memory": 100_000_000,
        }
        self.command = [BIN / "ray", "start", "--head", "--block"]
        self.command += [f"--{name}={value}" for name, value in options.items()]
        self._start()

    def _start(self):
        """Ray gives up on a node that is not there after thirty seconds, which a busy machine may need."""
        while True:
            # A session of its own: `ray stop` would end every cluster of this machine.
            with (self.folder / "start.log").open("w+") as told:
                self.process = subprocess.Popen(
                    self.command, env=self.environment, stdout=told, stderr=told, start_new_session=True
                )
                if self._answers():
                    return
                told.seek(0)
                assert "timed out during startup" in told.read()

    def _answers(self):
        while self.process.poll() is None:
            if "Ray runtime started" in (self.folder / "start.log").read_text():
                return True
            time.sleep(0.5)
        return False

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


@pytest.fixture(scope="module")
def head(emoji_at, tmp_path_factory):
    """The cluster; its folder is short, as it holds sockets."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    workplace = emoji_at(tmp_path_factory.mktemp("head"))
    head = Head(workplace.environment, folder)
    yield head
    head.close()
    shutil.rmtree(folder, ignore_errors=True)


def through_dashboard(head):
    return f"http://127.0.0.1:{head.dashboard}"


def through_head(head):
    return f"127.0.0.1:{head.port}"


class Laptop:
    """Commands on a machine that has the token and no runs."""

    def __init__(self, workplace, head, address):
        self.workplace, self.address, self.storage = workplace, address, workplace.folder / "shared"
        shown = {name: head.environment[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
        self.workplace.environment.update(shown)
        self.elsewhere = workplace.folder / "laptop"
        self.elsewhere.mkdir()

    def run(self, *arguments, status=0):
        done = subprocess.run(
            self.workplace.command(*arguments, "--address", self.address),
            cwd=self.elsewhere,
            env=self.workplace.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    def detach(self, *settings):
        chosen = ("../emoji.yaml", "--set", f"compute.storage={self.storage}", "--set", "compute.cpus_per_worker=1")
        return json.loads(self.run("launch", *chosen, *settings, "--detach", "--json"))["job"]

    def experiment_status(self, *, through_cluster=False):
        """The one trial, as the cluster tells of it, or as its folder does."""
        if through_cluster:
            return json.loads(self.run("status", "emoji", "--storage", str(self.storage), "--json"))
        selections = find_experiments(["emoji"], self.storage)
        return {"experiments": [experiment_status(selection).as_json() for selection in selections]}

    def trial(self):
        return self.experiment_status()["experiments"][0]["trials"][0]

    def wait_for_step(self, step):
        """Wait until the training of the one trial is beyond a step."""
        while not list(self.storage.glob("emoji/trial-*/plan.json")) or self._step() <= step:
            time.sleep(0.2)

    def _step(self):
        trial = self.trial()
        return trial["done"] if (trial["status"], trial["stage"]) == ("running", "train") else 0


@pytest.fixture(params=[through_dashboard])
def laptop(emoji, head, request):
    return Laptop(emoji, head, request.param(head))


@pytest.mark.slow
def test_a_launch_is_submitted_and_followed_to_its_end(laptop):
    job = laptop.detach()
    printed = laptop.run("logs", job, "--follow")
    assert "parsed as published" in printed
    assert "Running entrypoint" not in printed
    told = laptop.experiment_status(through_cluster=True)
    [trial] = told["experiments"][0]["trials"]
    assert trial["status"] == "finished"
    assert trial["metrics"] == json.loads((Path(trial["run_dir"]) / "metrics.json").read_text())
    [listed] = [each for each in told["jobs"] if each["name"] == job]
    assert (listed["status"], listed["storage"]) == ("finished", str(laptop.storage))
    # Only launches are listed, not the questions about them.
    assert {each["experiment"] for each in told["jobs"]} == {"emoji"}
    assert not list(laptop.elsewhere.iterdir())
    lines = laptop.run("logs", trial["name"], "--follow", "--storage", str(laptop.storage)).splitlines()
    assert any("training finished" in line for line in lines)
    assert any("scoring finished" in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("laptop", [through_head], indirect=True)
def test_a_stopped_launch_continues_when_submitted_again(laptop):
    job = laptop.detach(*LONG)
    laptop.wait_for_step(0)
    laptop.run("stop", job)
    # It is at its end when its output is.
    assert "run the same command again to resume" in laptop.run("logs", job, "--follow")
    trial = laptop.trial()
    assert trial["status"] == "interrupted"
    laptop.run("stop", job, status=2)
    again = laptop.detach(*LONG)
    laptop.wait_for_step(trial["done"])
    laptop.run("stop", again, "--now")
    laptop.run("logs", again, "--follow")


@pytest.mark.slow
@pytest.mark.parametrize("laptop", [through_head], indirect=True)
def test_a_missing_token_is_an_error_of_one_line(laptop):
    for changed, told in [
        ({"RAY_AUTH_MODE": "disabled"}, "set RAY_AUTH_MODE=token"),
        ({"RAY_AUTH_TOKEN": "f" * 32}, "does not accept this machine's token"),
        ({"RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": "/nowhere"}, "/nowhere holds none"),
    ]:
        done = subprocess.run(
            laptop.workplace.command("status", "--address", laptop.address),
            env={**laptop.workplace.environment, **changed},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert told in done.stderr.splitlines()[-1]
