"""Disturbs launches on a real Slurm cluster of three nodes on this machine, and compares them with an undisturbed one.

    python bench/slurm.py [--cases finish limit node cancel stop array]

It needs the rights of root and Debian's packages slurmctld, slurmd, slurm-client and munge; see
tests/execute/slurm_cluster.py. Each case submits `docs/cluster/slurm.sbatch` as shipped, for a trial with two workers
on two nodes:

    finish  nothing happens
    limit   the time limit comes near in the training: the trial saves, goes back into the queue, and finishes
    node    the second node is killed in the training; Slurm puts the job back into the queue when it misses the node
    cancel  `scancel` in the training; the same launch is then submitted again
    stop    the launch is submitted with `runner launch --slurm`, stopped with `runner stop`, and submitted again
    array   two tasks of a job array with other names run at the same time, each on one node

Prints one JSON document: for each case the seconds, how often Slurm started the job, and whether weights and metrics
are those of the undisturbed launch. Exits with 1 if one differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "execute"))
from slurm_cluster import SlurmCluster, lacking  # noqa: E402 the path comes first

SCRIPT = ROOT / "docs" / "cluster" / "slurm.sbatch"
SPEC = """\
name: rack
seed: 5
data: {type: synthetic, path: data, train: 48, test: 8}
adapter: {type: pfa, tasks: [ner, match], images: lettered}
model: {type: qwen2_5_vl, size: smoke}
optimizer: {type: adamw, groups: {vision: {match: "*visual*", lr: 1e-3}, rest: {match: "*", lr: 1e-3}}}
trainer: {type: sft, epochs: EPOCHS, global_batch_size: 4, precision: fp32, save_steps: 5}
generator: {type: transformers, max_new_tokens: 8}
metrics: [{type: ner_f1}, {type: rouge}]
tracker: {type: mlflow}
compute: {workers: 2, gpus_per_worker: 4, cpus_per_worker: 1}
"""
EPOCHS = 30
"""Epochs of the training: enough that it is disturbed before it ends."""
STEPS_BEFORE = 12
"""Optimizer steps after which a training is disturbed, so that a checkpoint exists."""
UNFINISHED = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "NODE_FAIL", "SUSPENDED"}
MINUTES = 60.0
NUM_TASKS = 2
"""Tasks of the job array; each takes a node."""


class Bench:
    """The cluster, and the folder that all of its nodes share."""

    def __init__(self, cluster: SlurmCluster, folder: Path, epochs: int = EPOCHS) -> None:
        """Write the spec; every case has a storage of its own."""
        self.cluster, self.folder = cluster, folder
        (folder / "rack.yaml").write_text(SPEC.replace("EPOCHS", str(epochs)), encoding="utf-8")
        cluster.environment["RUNNER_ENVIRONMENT"] = sys.prefix

    def submit(self, case: str, *settings: str, options: tuple[str, ...] = ()) -> str:
        """Submit a launch; return the number of the job."""
        command = ("sbatch", "--parsable", "--nodes=2", *options, SCRIPT, self.folder / "rack.yaml")
        return self.cluster.run(*command, *self._sets(case, settings), folder=self.folder).strip()

    def submit_from_login_node(self, case: str, *settings: str, options: tuple[str, ...] = ()) -> str:
        """Submit a launch with `runner launch --slurm`; return the number of the job."""
        sets = self._sets(case, settings)
        printed = self.runner("launch", self.folder / "rack.yaml", "--slurm", "--json", *sets, "--", *options)
        return str(json.loads(printed)["job"]).removeprefix("slurm-")

    def runner(self, *arguments: object) -> str:
        """Run a `runner` command where Slurm's commands are; return what it prints."""
        return self.cluster.run(Path(sys.prefix) / "bin" / "runner", *arguments, folder=self.folder)

    def _sets(self, case: str, settings: tuple[str, ...]) -> list[str]:
        return [part for setting in (f"compute.storage={self.folder / case}", *settings) for part in ("--set", setting)]

    def wait_until(self, is_reached: Callable[[], bool], what: str, minutes: float = 20) -> None:
        """Wait for a condition.

        Raises:
            TimeoutError: It is not reached in time; with the output of all jobs.
        """
        deadline = time.monotonic() + minutes * MINUTES
        while not is_reached():
            if time.monotonic() > deadline:
                outputs = "\n".join(f"{file.name}:\n{file.read_text()}" for file in self.folder.glob("**/*.out"))
                raise TimeoutError(f"{what} within {minutes:g} minutes\n{self.cluster.run('squeue')}\n{outputs}")
            time.sleep(0.5)

    def wait_for_steps(self, case: str, job: str) -> None:
        """Wait until the training of a job has done `STEPS_BEFORE` optimizer steps, and not all of them.

        Raises:
            RuntimeError: The job ended before.
        """

        def is_reached() -> bool:
            if self.cluster.job_state(job) not in UNFINISHED:
                raise RuntimeError(f"{case}: the job ended before it was disturbed; raise EPOCHS")
            return self.num_steps(case) >= STEPS_BEFORE

        self.wait_until(is_reached, f"{case}: no {STEPS_BEFORE} steps")

    def num_steps(self, case: str) -> int:
        """Count the optimizer steps in the log of a case's trial."""
        logs = (self.folder / case).glob("rack*/trial-*/events.jsonl")
        return sum(log.read_text(encoding="utf-8").count('"train/loss"') for log in logs)

    def finish(self, job: str) -> None:
        """Wait until a job has ended for good.

        Raises:
            RuntimeError: It failed; with what it printed.
        """
        self.wait_until(lambda: self.cluster.job_state(job) not in UNFINISHED, f"job {job} does not end")
        if (state := self.cluster.job_state(job)) != "COMPLETED":
            outputs = [file.read_text(encoding="utf-8") for file in self.folder.glob(f"**/*{job}.out")]
            raise RuntimeError(f"job {job} ended as {state}\n{''.join(outputs)}")

    def num_starts(self, job: str) -> int:
        """Return how often Slurm has started a job."""
        shown = self.cluster.run("scontrol", "--oneliner", "show", "job", job)
        return 1 + int(dict(word.partition("=")[::2] for word in shown.split())["Restarts"])

    def results(self, case: str, experiment: str = "rack") -> dict[str, Any]:
        """Return the metrics of a case's trial, and the hash of its weights."""
        [run] = (self.folder / case / experiment).glob("trial-*")
        weights = hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()
        return {"metrics": json.loads((run / "metrics.json").read_text(encoding="utf-8")), "weights": weights}


def finish(bench: Bench) -> str:
    """Let a launch run to its end."""
    job = bench.submit("finish")
    bench.finish(job)
    return job


def limit(bench: Bench) -> str:
    """Send the signal that announces the time limit, by a limit that is shorter than the training."""
    # Slurm counts time limits in minutes; the signal comes at once when the job has run for a minute.
    job = bench.submit("limit", options=("--signal=B:USR1@60", "--time=2"))
    bench.wait_until(lambda: bench.num_starts(job) > 1, "limit: the job does not go back into the queue")
    bench.cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    release(bench, job)
    bench.finish(job)
    return job


def node(bench: Bench) -> str:
    """Kill the second node, and bring it back."""
    job = bench.submit("node")
    bench.wait_for_steps("node", job)
    bench.cluster.kill_node("node2")
    bench.wait_until(lambda: bench.num_starts(job) > 1, "node: the job does not go back into the queue")
    bench.cluster.start_node("node2")
    release(bench, job)
    bench.finish(job)
    return job


def cancel(bench: Bench) -> str:
    """Cancel a launch, and submit it again."""
    job = bench.submit("cancel")
    bench.wait_for_steps("cancel", job)
    bench.cluster.run("scancel", job)
    bench.wait_until(lambda: bench.cluster.job_state(job) not in UNFINISHED, "cancel: the job does not end")
    again = bench.submit("cancel")
    bench.finish(again)
    return again


def stop(bench: Bench) -> str:
    """Stop a launch so that it saves, and submit it again, without a script."""
    nodes = ("--nodes=2",)
    job = bench.submit_from_login_node("stop", options=nodes)
    bench.wait_for_steps("stop", job)
    bench.runner("stop", f"slurm-{job}", "--storage", bench.folder / "stop")
    bench.wait_until(lambda: bench.cluster.job_state(job) not in UNFINISHED, "stop: the job does not end")
    [shown] = json.loads(bench.runner("status", "--storage", bench.folder / "stop", "--json"))["jobs"]
    if shown["status"] != "interrupted":
        raise RuntimeError(f"stop: the job is {shown['status']} after `runner stop`")
    again = bench.submit_from_login_node("stop", options=nodes)
    bench.finish(again)
    return again


def array(bench: Bench) -> str:
    """Run two launches at the same time; their nodes are one machine, so that their ports could clash."""
    options = ("--nodes=1", f"--array=1-{NUM_TASKS}", "--output=mmre-runner-%A_%a.out")
    array = bench.submit("array", "name=rack%a", "compute.gpus_per_worker=2", options=options)
    tasks = [f"{array}_{number + 1}" for number in range(NUM_TASKS)]
    for task in tasks:
        bench.finish(task)
    results = [bench.results("array", f"rack{number + 1}") for number in range(NUM_TASKS)]
    if any(result != results[0] for result in results):
        raise RuntimeError("array: the tasks have different results")
    (bench.folder / "array" / "rack1").rename(bench.folder / "array" / "rack")
    return tasks[0]


def release(bench: Bench, job: str) -> None:
    """Start a requeued job now: Slurm lets it wait for two minutes, from when its last processes have ended."""
    bench.wait_until(lambda: bench.cluster.job_state(job) in {"PENDING", "RUNNING"}, f"job {job} does not come back")
    bench.cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")


CASES = {case.__name__: case for case in (finish, limit, node, cancel, stop, array)}


def run_cases(bench: Bench, names: list[str]) -> dict[str, Any]:
    """Run cases; return for each its seconds, the starts of its job, and whether its results are as undisturbed."""
    report: dict[str, Any] = {}
    expected: dict[str, Any] = {}
    for name in ["finish", *(name for name in names if name != "finish")]:
        began = time.monotonic()
        job = CASES[name](bench)
        results = bench.results(name)
        expected = expected or results
        report[name] = {
            "seconds": round(time.monotonic() - began),
            "starts": bench.num_starts(job),
            "is_equal": results == expected,
        }
        print(json.dumps({name: report[name]}), file=sys.stderr, flush=True)
    return report


def main() -> None:
    """Run the cases that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    arguments = parser.parse_args()
    if reason := lacking():
        sys.exit(reason)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no daemon stays behind
    with tempfile.TemporaryDirectory(prefix="launches-") as folder:
        cluster = SlurmCluster()
        try:
            report = run_cases(Bench(cluster, Path(folder)), arguments.cases)
        finally:
            cluster.close()
    print(json.dumps(report, indent=2))
    sys.exit(0 if all(case["is_equal"] for case in report.values()) else 1)


if __name__ == "__main__":
    main()
