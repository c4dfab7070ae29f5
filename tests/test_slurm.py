"""The Slurm script with fake Slurm commands that run everything on this machine; Ray and the launch are real."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent

SRUN = """\
#!/bin/bash
# Drops srun's own options, and keeps the ports of several nodes on one machine apart.
while [[ $1 == --* ]]; do shift; done
extra=(--min-worker-port=0 --max-worker-port=0 --object-store-memory=100000000)
port() { python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'; }
extra+=(--dashboard-agent-listen-port="$(port)")
[[ " $* " == *" --head "* ]] && extra+=(--ray-client-server-port="$(port)" --dashboard-port="$(port)")
exec "$@" "${extra[@]}"
"""

SCONTROL = """\
#!/bin/bash
if [[ $1 == show ]]; then printf 'localhost\\n%.0s' $(seq "$SLURM_JOB_NUM_NODES"); else echo "$@" >> scontrol.log; fi
"""


@pytest.fixture
def slurm(emoji, project):
    """Return a function that starts the script in the experiment's folder like Slurm."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("activate", f"export PATH={BIN}:$PATH\n")):
        file = emoji.folder / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)
    with socket.socket() as free:
        free.bind(("", 0))
        job = free.getsockname()[1]
    environment = {
        **emoji.environment,
        "PATH": f"{emoji.folder / 'bin'}:{os.environ['PATH']}",
        "RUNNER_ENVIRONMENT": ".",
        "SLURM_JOB_ID": str(job),
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_CPUS_ON_NODE": "2",
    }

    def start(*arguments, nodes, stderr=None):
        script = project.folder / "docs" / "cluster" / "slurm.sbatch"
        command = ["bash", script, "emoji.yaml", "--set", "compute.storage=shared", *arguments]
        return subprocess.Popen(
            command,
            cwd=emoji.folder,
            env={**environment, "SLURM_JOB_NUM_NODES": str(nodes)},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )

    yield emoji.folder, job, start
    shutil.rmtree(f"/tmp/ray-{job}", ignore_errors=True)


def test_node_start_is_tried_three_times(slurm):
    """Ray gives up after thirty seconds, and a busy machine may need longer."""
    folder, _, start = slurm
    (folder / "bin" / "srun").write_text("#!/bin/bash\necho started >> srun.log\nexit 1\n")
    process = start(nodes=2, stderr=subprocess.PIPE)
    _, stderr = process.communicate()
    assert process.returncode == 1
    assert "ray start ended 3 times on localhost" in stderr
    assert (folder / "srun.log").read_text().split() == ["started"] * 3
    assert not list(folder.glob(".ray-token-*"))


def test_trial_finishes_and_the_session_leaves_nothing(slurm):
    folder, job, start = slurm
    process = start("--json", nodes=2)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    [trial] = json.loads(printed[printed.index('{"experiment"') :])["trials"]
    assert trial["status"] == "finished"
    assert trial["run_dir"].startswith(str(folder / "shared"))
    assert not list(folder.glob(".ray-token-*"))
    assert not _processes(job)


def test_signal_before_the_time_limit_saves_and_requeues(slurm):
    folder, job, start = slurm
    process = start("--set", "trainer.epochs=4000", nodes=1)
    logs = folder / "shared" / "emoji"
    while not any('"train/loss"' in log.read_text() for log in logs.glob("trial-*/events.jsonl")):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.2)
    process.send_signal(signal.SIGUSR1)
    printed, _ = process.communicate()
    assert process.returncode == 130, printed
    assert "run the same command again to resume" in printed
    assert (folder / "scontrol.log").read_text() == f"requeue {job}\n"
    assert not _processes(job)


def _processes(job):
    """List the processes of the session's Ray, whose command lines contain its folder."""
    listed = subprocess.run(["pgrep", "-f", f"/tmp/ray-{job}/"], capture_output=True, text=True, check=False)
    return listed.stdout.split()
