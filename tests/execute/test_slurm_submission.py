"""`runner launch --slurm`, and `status`, `logs` and `stop` of its job, with fake commands of Slurm."""

import json
import math
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.execute.doctor import check_slurm
from runner.execute.slurm import (
    RAY_BYTES,
    RESOURCES,
    option_names,
    resource_options,
    script_without_resources,
)
from runner.spec.experiment_spec import ComputeOptions

COMPUTE = st.builds(
    ComputeOptions,
    workers=st.integers(1, 64),
    gpus_per_worker=st.integers(0, 2),
    cpus_per_worker=st.none() | st.integers(1, 32),
    memory=st.none() | st.integers(1, 200).map("{}GB".format),
)
MEBIBYTE = 2**20


def amounts(options):
    return {name: value for name, _, value in (option.partition("=") for option in options)}


@given(COMPUTE, st.integers(1, 16), st.sampled_from(["--nodes={}", "-N{}", "--nodes={}-64"]))
def test_the_nodes_together_hold_all_workers_of_a_trial_and_no_whole_node_is_idle(compute, num_nodes, wording):
    given_options = ["--partition=gpu", wording.format(num_nodes)]
    asked = amounts(resource_options(compute, given_options, is_sweep=False))
    workers = math.ceil(compute.workers / num_nodes)
    assert workers * num_nodes >= compute.workers > (workers - 1) * num_nodes
    assert "--nodes" not in asked  # the user has said it
    assert int(asked.get("--gpus-per-node", 0)) == workers * compute.gpus_per_worker
    assert int(asked.get("--cpus-per-task", 0)) == workers * (compute.cpus_per_worker or 0)
    if compute.memory_bytes is not None:
        megabytes = int(asked["--mem"].removesuffix("M"))
        needed = workers * compute.memory_bytes + RAY_BYTES
        assert needed <= megabytes * MEBIBYTE < needed + MEBIBYTE


@given(COMPUTE, st.integers(1, 16))
def test_each_node_of_a_sweep_holds_a_whole_trial(compute, num_nodes):
    of_sweep = amounts(resource_options(compute, ["-N", str(num_nodes)], is_sweep=True))
    of_one_node = amounts(resource_options(compute, [], is_sweep=False))
    assert of_one_node.pop("--nodes") == "1"
    assert of_sweep == of_one_node


def test_the_users_options_replace_those_of_the_spec():
    compute = ComputeOptions(workers=4, gpus_per_worker=1, cpus_per_worker=6, memory="20GB")
    shared = ComputeOptions(gpus_per_worker=0.5)
    assert len(resource_options(compute, [], is_sweep=False)) == 4
    assert resource_options(compute, ["--gres=gpu:a100:4", "-c8", "--mem-per-gpu=9G", "-N", "1"], is_sweep=False) == []
    assert resource_options(shared, [], is_sweep=False) == ["--nodes=1", "--gpus-per-node=1"]
    assert option_names(["-N2", "-N", "2", "--time=8:00", "gpu"]) == {"-N", "--time"}


def test_the_job_runs_the_script_of_the_documentation(project):
    shipped = (project.folder / "docs" / "cluster" / "slurm.sbatch").read_text()
    text = script_without_resources()
    missing = set(shipped.splitlines()) - set(text.splitlines())
    assert {line.split("=")[0] for line in missing} == {f"#SBATCH {name}" for name in RESOURCES}


FAKES = {
    # Keeps what it is called with, and the script.
    "sbatch": """
printf '%s\\n' "$@" > {folder}/sbatch.called
[[ ! -e {folder}/refuses ]] || {{ echo "sbatch: error: Requested node configuration is not available" >&2; exit 1; }}
for word in "$@"; do [[ $word != *.sbatch ]] || cp "$word" {folder}/script; done
echo "$RUNNER_ENVIRONMENT" > {folder}/environment
echo "17;cluster"
""",
    "squeue": """
[[ ! -e {folder}/queue ]] || exec cat {folder}/queue
echo "slurm_load_jobs error: Invalid job id specified" >&2
exit 1
""",
    "scancel": 'echo "$@" >> {folder}/scancel.called',
}


@pytest.fixture
def slurm(workplace):
    folder = workplace.folder / "bin"
    folder.mkdir()
    for name, text in FAKES.items():
        (folder / name).write_text("#!/bin/bash\n" + text.format(folder=workplace.folder))
        (folder / name).chmod(0o755)
    workplace.environment["PATH"] = f"{folder}:{os.environ['PATH']}"
    return workplace


def queue(slurm, state, reason="None"):
    (slurm.folder / "queue").write_text(f"17  {state}  0  2026-12-01T12:00:00  {reason}\n")


def test_a_launch_is_submitted_followed_and_stopped(slurm):
    slurm.run("init", "rack")
    done = slurm.run(
        *("launch", "rack.yaml", "--slurm", "--set", "compute.gpus_per_worker=2", "--set", "seed=7", "--json"),
        *("--", "--partition=gpu", "--time=8:00:00"),
    )
    folder = slurm.folder / "runs" / "rack" / "slurm"
    assert json.loads(done.stdout) == {
        "job": "slurm-17",
        "experiment": "rack",
        "storage": str(slurm.folder / "runs"),
        "output": str(folder / "17.out"),
        "options": ["--nodes=1", "--gpus-per-node=2", "--partition=gpu", "--time=8:00:00"],
    }
    called = (slurm.folder / "sbatch.called").read_text().split()
    [copy] = folder.glob("rack-*.json")
    assert called[-1] == str(copy)
    assert json.loads(copy.read_text())["seed"] == 7
    assert {"--partition=gpu", "--job-name=rack", f"--output={folder}/%j.out"} <= set(called)
    assert (slurm.folder / "script").read_text() == script_without_resources()
    assert Path((slurm.folder / "environment").read_text().strip(), "bin", "runner").exists()

    queue(slurm, "PENDING", "ReqNodeNotAvail, UnavailableNodes:node3")
    assert "pending (ReqNodeNotAvail, UnavailableNodes:node3)" in slurm.run("status", "rack").stdout
    [job] = json.loads(slurm.run("status", "--json").stdout)["jobs"]
    assert (job["name"], job["status"], job["started"]) == ("slurm-17", "pending", None)
    assert "has printed nothing yet: it is pending" in slurm.run("logs", "slurm-17").stderr
    (folder / "17.out").write_text("training 5/12\n")
    queue(slurm, "RUNNING")
    assert slurm.run("logs", "slurm-17").stdout == "training 5/12\n"
    assert "save and end" in slurm.run("stop", "rack").stdout
    assert "was ended" in slurm.run("stop", "slurm-17", "--now").stdout
    queue(slurm, "PENDING", "Resources")
    assert "removed from the queue" in slurm.run("stop", "slurm-17").stdout
    assert (slurm.folder / "scancel.called").read_text() == "--batch --signal=USR2 17\n17\n17\n"


def test_a_job_whose_record_is_damaged_is_listed_and_stopped(slurm):
    slurm.run("init", "rack")
    slurm.run("launch", "rack.yaml", "--slurm")
    queue(slurm, "RUNNING")
    [job] = json.loads(slurm.run("status", "--json").stdout)["jobs"]
    (slurm.folder / "runs" / "rack" / "slurm" / "17.json").write_text("{")
    assert json.loads(slurm.run("status", "--json").stdout)["jobs"] == [job | {"submitted": None}]
    assert "save and end" in slurm.run("stop", "rack").stdout


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("COMPLETED 0", "finished"),
        ("FAILED 256", "failed"),
        ("FAILED 33280", "interrupted"),  # exit status 130
        ("OUT_OF_MEMORY 9", "failed"),
        (None, "ended"),
    ],
)
def test_a_job_that_has_ended_has_a_word_of_a_trial(slurm, line, status):
    slurm.run("init", "rack")
    slurm.run("launch", "rack.yaml", "--slurm")
    if line:
        (slurm.folder / "queue").write_text(f"17 {line} 2026-12-01T12:00:00 None\n")
    [job] = json.loads(slurm.run("status", "rack", "--json").stdout)["jobs"]
    assert job["status"] == status
    assert f"slurm-17 is not running: it is {status}" in slurm.run("stop", "slurm-17").stderr


def test_what_cannot_be_submitted_is_an_error_of_one_line(slurm, tmp_path):
    slurm.run("init", "rack")
    (slurm.folder / "refuses").touch()
    for arguments, message in [
        (("--slurm",), "Slurm refuses: sbatch: error: Requested node configuration is not available"),
        (("--slurm", "--local"), "--slurm excludes --local"),
        (("--slurm", "--rerun", "score"), "--slurm excludes --rerun: a job that returns"),
        (("--slurm", "--", "--array=1-3"), "--slurm excludes --array"),
        (("--slurm", "--set", "tracker.uri=postgresql://me:secret@host/db"), "holds a password"),
        (("--", "--partition=gpu"), "options of sbatch need --slurm"),
    ]:
        done = slurm.run("launch", "rack.yaml", *arguments)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert message in done.stderr
        assert not list(slurm.folder.glob("runs/rack/slurm/*"))
    slurm.environment["PATH"] = str(tmp_path)
    assert "this machine has no `sbatch`" in slurm.run("launch", "rack.yaml", "--slurm").stderr


def test_doctor_shows_the_partitions_of_a_login_node(slurm, monkeypatch):
    monkeypatch.setenv("PATH", str(slurm.folder))
    assert list(check_slurm()) == []
    monkeypatch.setenv("PATH", slurm.environment["PATH"])
    sinfo = slurm.folder / "bin" / "sinfo"
    for text, level, expected in [
        (
            "echo 'gpu* 2 x 64 cores, 500000 MB, gpu:4'; echo 'cpu 9 x 32 cores, 90000 MB, (null)'",
            "ok",
            "gpu:4; cpu 9 x 32",
        ),
        ("echo 'sinfo: error: Unable to contact slurm controller' >&2; exit 1", "warning", "Unable to contact"),
    ]:
        sinfo.write_text(f"#!/bin/bash\n{text}\n")
        sinfo.chmod(0o755)
        [finding] = check_slurm()
        assert (finding.topic, finding.level) == ("slurm", level)
        assert expected in finding.text


def test_the_script_passes_the_number_of_the_task_on(project):
    """What bash makes of the arguments, without a cluster."""
    script = (project.folder / "docs" / "cluster" / "slurm.sbatch").read_text()
    [line] = [line for line in script.splitlines() if "runner launch" in line and not line.startswith("#")]
    words = line[line.index('"${@') :].partition(" --address")[0]
    for environment, expected in [({"SLURM_ARRAY_TASK_ID": "3"}, "part-3.yaml a 3 b"), ({}, "part-%a.yaml a %a b")]:
        command = ["bash", "-c", f"printf '%s ' {words}", "bash", "part-%a.yaml", "a %a b"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == f"{expected} "
