"""Compares the cost of a trial without training with that of Ray Tune's function trainable.

    python bench/trials.py [--trials 16] [--repeats 3]

The two alternate. Each starts its own Ray and runs one-worker trials, as many in parallel as there are cores. Each
trial imports torch, transformers and accelerate. A trial of this project is complete except for training: it generates
constant answers for two samples, scores them, and writes its run directory. Tune's function imports the same modules
and reports a number. Costs are CPU seconds of all processes, including Ray's, and wall time, from the start of Ray to
the end of the last trial. Prints a JSON document: for each of the two the costs of each repeat and their medians, and
the ratio of the medians.
"""

from __future__ import annotations

# ruff: noqa: PLC0415 - each framework is imported in its own process, where its import is measured
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import psutil

SAMPLE_SECONDS = POLL_SECONDS = 0.1
ATTEMPTS = 5

IDLE = """\
import accelerate, torch
from transformers import AutoModelForImageTextToText, Qwen2_5_VLForConditionalGeneration
from plugins.generator.constant import ConstantGenerator as Idle
"""
ENTRY_POINTS = """\
[runner.generator.options]
idle = plugins.generator.constant:ConstantOptions
[runner.generator]
idle = idle:Idle
"""
SPEC = """\
name: idle
data: {type: synthetic, path: data, train: 2, test: 2}
adapter: {type: pfa}
model: none
trainer: none
generator: {type: idle}
metrics: [{type: ner_f1}]
tracker: {type: mlflow}
compute: {cpus_per_worker: 1}
"""


class SilentReporter:
    """A reporter that prints nothing."""

    def progress(self, done: int, total: int, **shown: float) -> None:
        """Ignore progress."""


def run_ours(trials: int) -> None:
    """Run trials with this project's Ray executor, as `runner launch` does."""
    from runner.execute.ray.ray_executor import RayExecutor
    from runner.resolved_plan import resolve
    from runner.spec.load import load_spec
    from runner.trial.run_directory_and_events import RunDirectory

    Path("idle.yaml").write_text(SPEC)
    plan = resolve(load_spec(Path("idle.yaml")).spec, SilentReporter())
    executor = retry(RayExecutor)
    _signal("ready")
    pending, running = [Path(f"runs/{number}").resolve() for number in range(trials)], []
    while pending or running:
        while pending:
            run = RunDirectory(pending[0])
            run.create(plan, SPEC, [])
            trial = executor.start(plan.spec, run.path, plan.spec.compute)
            if trial is None:
                break
            running.append((pending.pop(0), trial))
        for path, trial in list(running):
            outcome = trial.outcome()
            if outcome is not None:
                assert outcome.status == "finished", outcome.error
                assert RunDirectory(path).read_metrics()
                running.remove((path, trial))
        time.sleep(POLL_SECONDS)
    _signal("done")
    executor.close()


def run_tune(trials: int) -> None:
    """Run trials as Ray Tune does by default."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray import tune

    def train(config: dict[str, Any]) -> dict[str, float]:
        import idle  # noqa: F401 - imported for its cost

        return {"value": float(config["number"])}

    settings = {"include_dashboard": False, "log_to_driver": False, "object_store_memory": 200_000_000}
    retry(lambda: ray.init(address="local", **settings))
    _signal("ready")
    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space={"number": tune.grid_search(list(range(trials)))},
        run_config=tune.RunConfig(storage_path=str(Path("tune").resolve()), verbose=0),
    )
    values = sorted(result.metrics["value"] for result in tuner.fit())
    assert values == list(map(float, range(trials))), values
    _signal("done")
    ray.shutdown()


def retry(start: Callable[[], Any]) -> Any:
    """Call a function that starts Ray until it succeeds: on a busy machine Ray exceeds its own start timeout."""
    for _ in range(ATTEMPTS):
        try:
            return start()
        except Exception as error:
            failure = error
    raise failure


def _signal(state: str) -> None:
    """Print a state, and wait until the measuring process allows to continue."""
    print(f"bench {state}", flush=True)
    sys.stdin.readline()


def measure(framework: str, trials: int, folder: Path) -> dict[str, float]:
    """Run the trials of one framework in its own process, and return the costs of the whole process tree."""
    run_folder = folder / f"{framework}-{time.monotonic_ns()}"
    run_folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, str(Path(__file__).resolve()), "--trials", str(trials), "--way", framework]
    with (run_folder / "errors.log").open("wb") as errors:
        process = subprocess.Popen(
            command,
            cwd=run_folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        tree = ProcessTree(process.pid)
        _wait_for(process, "ready", run_folder)
        cpu_before, started = tree.cpu_seconds(), time.monotonic()
        process.stdin.write("\n")
        process.stdin.flush()
        os.set_blocking(process.stdout.fileno(), False)
        while "bench done" not in (process.stdout.readline() or ""):
            tree.cpu_seconds()
            time.sleep(SAMPLE_SECONDS)
            if process.poll() is not None:
                raise SystemExit((run_folder / "errors.log").read_text())
        cost = {"cpu": tree.cpu_seconds() - cpu_before, "wall": time.monotonic() - started}
        process.communicate("\n")
    return cost


def _wait_for(process: subprocess.Popen[str], state: str, run_folder: Path) -> None:
    for line in process.stdout:
        if line.strip() == f"bench {state}":
            return
    raise SystemExit((run_folder / "errors.log").read_text())


class ProcessTree:
    """A process with its descendants, and their CPU time so far."""

    def __init__(self, root: int) -> None:
        """Watch the tree below a process id."""
        self._root = psutil.Process(root)
        self._last_seconds: dict[tuple[int, float], float] = {}

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of all processes so far.

        This is the larger of two sums, as Ray waits only for some of its workers: the last known time of each process,
        and the time of living processes including children that they waited for.
        """
        with_children = 0.0
        for process in [self._root, *self._root.children(recursive=True)]:
            try:
                times, created = process.cpu_times(), process.create_time()
            except psutil.NoSuchProcess:
                continue
            self._last_seconds[process.pid, created] = times.user + times.system
            with_children += times.user + times.system + times.children_user + times.children_system
        return max(with_children, sum(self._last_seconds.values()))


def main() -> None:
    """Measure both frameworks alternately and print their costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--way", choices=FRAMEWORKS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        FRAMEWORKS[arguments.way](arguments.trials)
        return
    costs: dict[str, list[dict[str, float]]] = {framework: [] for framework in FRAMEWORKS}
    with tempfile.TemporaryDirectory(prefix="trials-") as name:
        folder = Path(name)
        (folder / "idle.py").write_text(IDLE)
        (folder / "idle-1.dist-info").mkdir()
        (folder / "idle-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: idle\nVersion: 1\n")
        (folder / "idle-1.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
        for _ in range(arguments.repeats):
            for framework in FRAMEWORKS:
                costs[framework].append(measure(framework, arguments.trials, folder))
    medians = {
        framework: {kind: median(cost[kind] for cost in costs[framework]) for kind in ("cpu", "wall")}
        for framework in FRAMEWORKS
    }
    ratios = {kind: medians["ours"][kind] / medians["tune"][kind] for kind in ("cpu", "wall")}
    print(
        json.dumps({"trials": arguments.trials, "costs": costs, "medians": medians, "ours_to_tune": ratios}, indent=2)
    )


FRAMEWORKS = {"ours": run_ours, "tune": run_tune}

if __name__ == "__main__":
    main()
