"""Launches on a real Slurm cluster of three nodes on this machine."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "bench"))
sys.path.insert(0, str(ROOT / "tests" / "execute"))
from slurm import UNFINISHED, Bench, SlurmCluster, array, finish, lacking
from slurm_cluster import has_accounting

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    if reason := lacking():
        pytest.skip(reason)
    cluster = SlurmCluster()
    try:
        yield Bench(cluster, tmp_path_factory.mktemp("slurm"), epochs=1)
    finally:
        cluster.close()


def test_the_shipped_script_trains_on_two_nodes(bench):
    job = finish(bench)
    output = (bench.folder / f"mmre-runner-{job}.out").read_text()
    assert bench.results("finish")["metrics"].keys() >= {"ner_f1"}
    assert "training 12/12" in output
    assert not list(bench.folder.glob(".ray-*"))


def test_tasks_of_a_job_array_run_at_the_same_time(bench):
    array(bench)
    assert not list(bench.folder.glob(".ray-*"))


def test_ray_gets_the_cores_gpus_and_memory_that_slurm_has_allocated(bench):
    """The spec asks for more than `sbatch` is told, so that the launch says what there is."""
    settings = ("compute.workers=1", "compute.gpus_per_worker=2", "compute.cpus_per_worker=64", "compute.memory=1GB")
    job = bench.submit_from_login_node("cores", *settings, options=("--cpus-per-task=3", "--mem=2000M"))
    storage = ("--storage", bench.folder / "cores")
    output = bench.runner("logs", f"slurm-{job}", "--follow", *storage)
    assert "Its nodes: 2 GPUs, 3 CPUs, 2 GB of memory" in output
    bench.wait_until(lambda: bench.cluster.job_state(job) not in UNFINISHED, "the job does not end")
    [shown] = json.loads(bench.runner("status", *storage, "--json"))["jobs"]
    assert (shown["name"], shown["status"]) == (f"slurm-{job}", "failed")


def test_sacct_shows_what_a_job_has_used(bench):
    if not has_accounting():
        pytest.skip("not installed: slurmdbd mariadb-server-core mariadb-client-core")
    job = bench.submit_from_login_node("used", "compute.workers=1", options=("--cpus-per-task=3", "--mem=2500M"))
    bench.finish(job)
    # The batch step runs the launch, and step 0 Ray with the worker.
    columns = ("--noheader", "--parsable2", "--units=M", "--format=JobID,AllocTRES,MaxRSS")
    lines = bench.cluster.run("sacct", f"--jobs={job}", *columns).splitlines()
    used = {step: (allocated.split(","), memory) for step, allocated, memory in (line.split("|") for line in lines)}
    assert {"cpu=3", "gres/gpu=4", "mem=2500M"} <= set(used[job][0])
    print({step: memory for step, (_, memory) in used.items()})
    assert all(100 < float(used[f"{job}.{step}"][1].removesuffix("M")) < 2500 for step in ("batch", "0"))
