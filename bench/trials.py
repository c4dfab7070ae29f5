"""What does a trial cost that has nothing to train, here and with Ray Tune's default function trainable?

    python bench/trials.py [--trials 16] [--repeats 3]

The two take turns in one run. Each starts a Ray of its own and runs one-worker trials, as many at a time as there are
cores; each trial needs torch, transformers and accelerate. Ours is a whole trial without training (fixed answers to
two samples, scored, with its run directory); Tune's function imports the same module and reports a number. Cost is CPU
time of all processes, Ray's own included, and wall time, from when Ray runs to when the last trial has ended. Prints a
JSON document: of each way the costs of each repeat and their medians, and the ratio of the medians.
"""

from __future__ import annotations

# ruff: noqa: PLC0415 - each way imports what it needs in a process of its own, where that is measured
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


class Quiet:
    """Who is told nothing."""

    def progress(self, done: int, total: int, **shown: float) -> None:
        """Say nothing."""


def run_ours(trials: int) -> None:
    """Run trials as `runner launch` does."""
    from runner.execute.ray.ray_executor import RayExecutor
    from runner.plan import plan_json, resolve
    from runner.spec.load import load_spec
    from runner.trial.run_directory import RunDirectory

    Path("idle.yaml").write_text(SPEC)
    plan = resolve(load_spec(Path("idle.yaml")).spec, Quiet())
    executor = patiently(RayExecutor)
    _say("ready")
    waiting, running = [Path(f"runs/{number}").resolve() for number in range(trials)], []
    while waiting or running:
        while waiting:
            run = RunDirectory(waiting[0])
            run.begin(plan, SPEC, [])
            started = executor.start(plan_json(plan), run.path, plan.spec.compute)
            if started is None:
                break
            running.append((waiting.pop(0), started))
        for each in list(running):
            outcome = each[1].outcome()
            if outcome is not None:
                assert outcome.status == "finished", outcome.error
                assert RunDirectory(each[0]).read_metrics()
                running.remove(each)
        time.sleep(POLL_SECONDS)
    _say("done")
    executor.close()


def run_tune(trials: int) -> None:
    """Run trials as Ray Tune does by default."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray import tune

    def train(config: dict[str, Any]) -> dict[str, float]:
        import idle  # noqa: F401 - as above

        return {"value": float(config["number"])}

    own = {"include_dashboard": False, "log_to_driver": False, "object_store_memory": 200_000_000}
    patiently(lambda: ray.init(address="local", **own))
    _say("ready")
    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space={"number": tune.grid_search(list(range(trials)))},
        run_config=tune.RunConfig(storage_path=str(Path("tune").resolve()), verbose=0),
    )
    values = sorted(result.metrics["value"] for result in tuner.fit())
    assert values == list(map(float, range(trials))), values
    _say("done")
    ray.shutdown()


def patiently(begin: Callable[[], Any]) -> Any:
    """Begin again where Ray takes longer to start than it allows itself, as on a machine that is busy."""
    for _ in range(ATTEMPTS):
        try:
            return begin()
        except Exception as error:
            failure = error
    raise failure


def _say(what: str) -> None:
    print(f"bench {what}", flush=True)
    sys.stdin.readline()


def measure(way: str, trials: int, folder: Path) -> dict[str, float]:
    """Run one way in a process of its own, and add up what all its processes cost."""
    place = folder / f"{way}-{time.monotonic_ns()}"
    place.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, str(Path(__file__).resolve()), "--trials", str(trials), "--way", way]
    with (place / "errors.log").open("wb") as errors:
        process = subprocess.Popen(
            command, cwd=place, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        tree = Tree(process.pid)
        _wait_for(process, "ready", place)
        before, began = tree.cpu_seconds(), time.monotonic()
        process.stdin.write("\n")
        process.stdin.flush()
        os.set_blocking(process.stdout.fileno(), False)
        while "bench done" not in (process.stdout.readline() or ""):
            tree.cpu_seconds()
            time.sleep(SAMPLE_SECONDS)
            if process.poll() is not None:
                raise SystemExit((place / "errors.log").read_text())
        cost = {"cpu": tree.cpu_seconds() - before, "wall": time.monotonic() - began}
        process.communicate("\n")
    return cost


def _wait_for(process: subprocess.Popen[str], what: str, place: Path) -> None:
    for line in process.stdout:
        if line.strip() == f"bench {what}":
            return
    raise SystemExit((place / "errors.log").read_text())


class Tree:
    """The processes below one, and what they have cost so far."""

    def __init__(self, root: int) -> None:
        """Begin."""
        self._root = psutil.Process(root)
        self._seen: dict[tuple[int, float], float] = {}

    def cpu_seconds(self) -> float:
        """CPU time of all processes so far.

        Each process is counted as it was last seen, or, where that is more, the living ones with the children that
        they waited for: Ray waits for some of its workers only.
        """
        with_children = 0.0
        for process in [self._root, *self._root.children(recursive=True)]:
            try:
                times, born = process.cpu_times(), process.create_time()
            except psutil.NoSuchProcess:
                continue
            self._seen[process.pid, born] = times.user + times.system
            with_children += times.user + times.system + times.children_user + times.children_system
        return max(with_children, sum(self._seen.values()))


def main() -> None:
    """Measure both ways in turns and print what they cost."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--trials", type=int, default=16)
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    told = arguments.parse_args()
    if told.setup:
        WAYS[told.setup](told.trials)
        return
    costs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="trials-") as name:
        folder = Path(name)
        (folder / "idle.py").write_text(IDLE)
        (folder / "idle-1.dist-info").mkdir()
        (folder / "idle-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: idle\nVersion: 1\n")
        (folder / "idle-1.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
        for _ in range(told.repeats):
            for way in WAYS:
                costs[way].append(measure(way, told.trials, folder))
    medians = {way: {kind: median(each[kind] for each in costs[way]) for kind in ("cpu", "wall")} for way in WAYS}
    shares = {kind: medians["ours"][kind] / medians["tune"][kind] for kind in ("cpu", "wall")}
    print(json.dumps({"trials": told.trials, "costs": costs, "medians": medians, "ours_to_tune": shares}, indent=2))


WAYS = {"ours": run_ours, "tune": run_tune}

if __name__ == "__main__":
    main()
