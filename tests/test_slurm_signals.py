"""What the Slurm script does with signals and arguments. Slurm, Ray and the launch are fakes: this takes seconds."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

FAKES = {
    "scontrol": """
if [[ $1 == show ]]; then echo localhost; else echo "$@" >> scontrol.log; fi
""",
    # The step of a node: what it would run, until the script ends it.
    "srun": """
echo "$@" >> srun.log
exec sleep 600
""",
    "ray": """
[[ ! -e is_up ]] || printf 'Active:\\n 1 node_1\\nPending:\\n'
""",
    # The launch: `ends` is the exit status without a signal.
    "runner": """
echo "$RUNNER_JOB: $*" > runner.log
[[ ! -e ends ]] || exit "$(cat ends)"
# No bash: it cannot catch a signal that was ignored when it started, as in a background process.
exec python -c 'import signal, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
open("is_ready", "w").write("yes")
time.sleep(600)'
""",
}


@pytest.fixture
def start(tmp_path, project):
    """Return a function that starts the script in a folder with fakes."""
    (tmp_path / "bin").mkdir()
    for name, text in FAKES.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash{text}")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "bin" / "python").symlink_to(shutil.which("python3") or sys.executable)
    started = []

    def start(*arguments, **variables):
        environment = {"PATH": os.environ["PATH"], "RUNNER_ENVIRONMENT": ".", "SLURM_JOB_ID": "4711"}
        environment |= {"SLURM_JOB_NODELIST": "localhost", **variables}
        script = project.folder / "docs" / "cluster" / "slurm.sbatch"
        # With signals as Slurm starts it: a process inherits those that this one ignores.
        command = ["env", "--default-signal=TERM", "bash", script, *arguments]
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for(file: Path) -> str:
    deadline = time.monotonic() + 60
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < deadline, f"no {file.name}"
        time.sleep(0.05)
    return file.read_text()


@pytest.mark.parametrize(("number", "requeues"), [(signal.SIGUSR1, True), (signal.SIGUSR2, False)])
@pytest.mark.parametrize("in_launch", [True, False])
def test_both_signals_end_the_launch_and_the_first_one_requeues(start, tmp_path, number, requeues, in_launch):
    if in_launch:
        (tmp_path / "is_up").touch()
    process = start("spec.yaml")
    wait_for(tmp_path / ("is_ready" if in_launch else "srun.log"))
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert (tmp_path / "runner.log").exists() == in_launch
    assert (tmp_path / "scontrol.log").exists() == requeues
    if requeues:
        assert (tmp_path / "scontrol.log").read_text() == "requeue 4711\n"
    assert not list(tmp_path.glob(".ray-*"))


@pytest.mark.parametrize("status", [0, 1, 130])
def test_a_launch_that_ends_by_itself_is_not_requeued(start, tmp_path, status):
    (tmp_path / "is_up").touch()
    (tmp_path / "ends").write_text(str(status))
    process = start("part-%a.yaml", "--set", "name=part-%a", SLURM_ARRAY_TASK_ID="3")
    process.communicate(timeout=60)
    assert process.returncode == status
    assert not (tmp_path / "scontrol.log").exists()
    launched = (tmp_path / "runner.log").read_text()
    assert launched == "slurm-4711: launch part-3.yaml --set name=part-3 --address localhost:29422\n"


def test_jobs_that_share_a_node_have_other_ports_and_folders(start, tmp_path):
    (tmp_path / "is_up").touch()
    (tmp_path / "ends").write_text("0")
    used = []
    for job in range(100, 103):
        start("spec.yaml", SLURM_JOB_ID=str(job)).communicate(timeout=60)
        words = (tmp_path / "srun.log").read_text().splitlines()[-1].split()
        values = dict(word.partition("=")[::2] for word in words if word.startswith("--"))
        names = ("--port", "--ray-client-server-port", "--temp-dir")
        used += [values[name] for name in names]
        assert [values[name] for name in ("--min-worker-port", "--dashboard-agent-listen-port")] == ["0", "0"]
    assert len(set(used)) == len(used)
