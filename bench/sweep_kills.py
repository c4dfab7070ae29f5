"""Does a sweep in which something is killed end as one that nobody disturbed?

    python bench/sweep_kills.py [--kill driver worker server node] [--kills 10] [--search random|tpe] [--seed 0]

A sweep of quick trials runs undisturbed once. Then, at random moments of further ones, something is killed by SIGKILL:
the driver (each second time alone, else with every process that it started), a worker, the MLflow server, which comes
back after a few seconds, or a Ray node with all that runs on it. A sweep that lost its driver is launched again. Every
sweep must end with the same trials and the same metrics, to the last bit, and MLflow must show each trial once, under
one run of the sweep, with each step of each metric once. Prints a JSON document with an entry a kill; the exit status
is 1 where anything differs. `random` runs two trials side by side, `tpe` one at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from mlflow import MlflowClient

BIN = Path(sys.executable).parent
KILLS = ("driver", "worker", "server", "node")
AWAY_SECONDS = 4.0
"""How long the MLflow server stays away."""
LIMIT_SECONDS = 900

SPEC = """\
name: drill
seed: 3
data: {type: synthetic, path: ../data, train: 24, test: 2}
adapter: {type: pfa, tasks: [ner]}
model: {type: qwen2_5_vl, size: smoke}
optimizer: {type: adamw, groups: {vision: {match: "*visual*", lr: 1e-3}, rest: {match: "*", lr: 1e-3}}}
trainer: {type: sft, epochs: 2, global_batch_size: 4, precision: fp32, save_steps: 2,
          validation_ratio: 0.2, eval_steps: 2}
generator: {type: transformers, max_new_tokens: 2}
metrics: [{type: ner_f1}]
tracker: {type: mlflow}
compute: {cpus_per_worker: 1}
sweep:
  space:
    optimizer.groups.vision.lr: {loguniform: [1.0e-4, 1.0e-2]}
    optimizer.groups.rest.lr: {loguniform: [1.0e-4, 1.0e-2]}
  search: {type: SEARCH, seed: 5}
  objective: {metric: validation/loss, mode: min}
  enqueue: [{}]
  budget: {trials: TRIALS}
"""
PARALLEL = {"random": 2, "tpe": 1}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _kill(process: psutil.Process | subprocess.Popen[bytes], *, children: bool = True) -> None:
    """End a process, and by default all that it started."""
    with suppress(psutil.NoSuchProcess):
        known = psutil.Process(process.pid)
        for each in [known, *(known.children(recursive=True) if children else [])]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
    if isinstance(process, subprocess.Popen):
        process.wait()


@dataclass
class Server:
    """An MLflow server on a database of its own."""

    folder: Path
    port: int = field(default_factory=_free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        store = ["--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}", "--artifacts-destination"]
        place = [str(self.folder / "artifacts"), "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        with (self.folder / "server.log").open("ab") as log:
            command = [str(BIN / "mlflow"), "server", *store, *place]
            environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.2)

    def kill(self) -> None:
        """Kill it with its workers."""
        assert self.process is not None
        _kill(self.process)


@dataclass
class Cluster:
    """A head that runs no trial, and two nodes that do, with token authentication on."""

    folder: Path
    port: int = field(default_factory=_free_port)
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    environment: dict[str, str] = field(
        default_factory=lambda: {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_prestart_worker_first_driver": "0",
            "RAY_health_check_period_ms": "500",
            "RAY_health_check_failure_threshold": "3",
        }
    )

    @property
    def address(self) -> str:
        """Where the head answers."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start head and nodes."""
        self._start("--head", f"--port={self.port}", "--include-dashboard=false", "--num-cpus=0")
        for _ in range(2):
            self._start(f"--address={self.address}", "--num-cpus=1")

    def _start(self, *arguments: str) -> None:
        log = self.folder / f"node-{len(self.nodes)}.log"
        command = [str(BIN / "ray"), "start", "--block", "--disable-usage-stats", "--object-store-memory=80000000"]
        with log.open("wb") as told:
            node = subprocess.Popen(
                [*command, *arguments], env=self.environment, stdout=told, stderr=told, start_new_session=True
            )
        self.nodes.append(node)
        while "Ray runtime started" not in log.read_text():
            if node.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(0.2)

    def close(self) -> None:
        """End all of it."""
        for node in self.nodes:
            _kill(node)


@dataclass
class Sweep:
    """A sweep in a folder of its own; the generated data are shared."""

    folder: Path
    spec: str
    server: Server | None = None
    cluster: Cluster | None = None

    def start(self) -> subprocess.Popen[bytes]:
        """Launch it."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / "drill.yaml").write_text(self.spec)
        command = [str(BIN / "runner"), "launch", "drill.yaml"]
        if self.server is not None:
            command += ["--set", f"tracker.uri={self.server.uri}"]
        if self.cluster is not None:
            command += ["--address", self.cluster.address]
        environment = self.cluster.environment if self.cluster else dict(os.environ)
        with (self.folder / "output.txt").open("ab") as output:
            return subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=output, stderr=output, start_new_session=True
            )

    def finish(self) -> None:
        """Launch it to its end."""
        self.end(self.start())

    def end(self, launched: subprocess.Popen[bytes]) -> None:
        """Wait for the end of a launch, which must be a good one."""
        if launched.wait(LIMIT_SECONDS):
            raise SystemExit((self.folder / "output.txt").read_text()[-3000:])

    def trials(self) -> list[dict[str, Any]]:
        """The trials so far, as `sweep.json` tells them."""
        file = self.folder / "runs" / "drill" / "sweep" / "sweep.json"
        return list(json.loads(file.read_text())["trials"]) if file.exists() else []

    def found(self) -> dict[str, Any]:
        """What the sweep ended with: of each trial its state, value and metrics."""
        runs = self.folder / "runs" / "drill"
        return {
            trial["name"]: (
                trial["status"],
                trial["objective"],
                json.loads((runs / trial["name"] / "metrics.json").read_text()),
            )
            for trial in self.trials()
        }

    def shown(self) -> list[str]:
        """What is wrong in MLflow: runs that lack or stand twice, that do not nest, steps that stand twice."""
        client = MlflowClient(self.server.uri if self.server else f"sqlite:///{self.folder}/runs/mlflow.db")
        experiment = client.get_experiment_by_name("drill")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id])
        parents = [run for run in runs if run.info.run_name.startswith("sweep-")]
        trials = [run for run in runs if run not in parents]
        wrong = []
        if len(parents) != 1 or {run.data.tags.get("mlflow.parentRunId") for run in trials} != {parents[0].info.run_id}:
            wrong.append("trials are not nested under one run")
        if sorted(run.info.run_name for run in trials) != sorted(trial["name"] for trial in self.trials()):
            wrong.append("the trials are not those of the sweep")
        if {run.info.status for run in runs} != {"FINISHED"}:
            wrong.append("a run is not finished")
        for run in runs:
            for key in run.data.metrics:
                steps = [metric.step for metric in client.get_metric_history(run.info.run_id, key)]
                if len(set(steps)) != len(steps):
                    wrong.append(f"{run.info.run_name}: {key} has a step twice")
        if len(client.get_metric_history(parents[0].info.run_id, "objective")) != len(trials):
            wrong.append("the sweep's run lacks a value")
        return wrong


@contextmanager
def _surroundings(kind: str, folder: Path) -> Iterator[tuple[Server | None, Cluster | None]]:
    with ExitStack() as started:
        server, cluster = None, None
        if kind == "server":
            server = Server(folder)
            server.start()
            started.callback(server.kill)
        if kind == "node":
            cluster = Cluster(folder)
            started.callback(cluster.close)
            cluster.start()
        yield server, cluster


def _wait_for_trials(sweep: Sweep, launched: subprocess.Popen[bytes], count: int = 1) -> None:
    """Wait until so many trials have begun; seconds alone would mean little on a machine that others use too."""
    while launched.poll() is None and len(sweep.trials()) < count:
        time.sleep(0.05)


def _workers(launched: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes that were forked for trials."""
    found = []
    for process in psutil.Process(launched.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            parent = process.parent()
            if parent and all("runner.execute.fork_server" in each.cmdline() for each in (process, parent)):
                found.append(process)
    return found


def _kill_one(kind: str, sweep: Sweep, launched: subprocess.Popen[bytes], draw: random.Random, count: int) -> None:
    if kind == "driver":
        _kill(launched, children=count % 2 == 0)
    elif kind == "worker":
        while launched.poll() is None and not (workers := _workers(launched)):
            time.sleep(0.05)
        if launched.poll() is None:
            _kill(draw.choice(workers))
    elif kind == "server":
        assert sweep.server is not None
        sweep.server.kill()
        time.sleep(AWAY_SECONDS)
        sweep.server.start()
    else:
        assert sweep.cluster is not None
        _kill(sweep.cluster.nodes[draw.choice([1, 2])])


def drill(kind: str, spec: str, count: int, draw: random.Random, reference: tuple[Sweep, float]) -> dict[str, Any]:
    """Disturb one sweep, and compare how it ended; see the module."""
    undisturbed, length = reference
    num_trials = len(undisturbed.trials())
    begun, seconds = draw.randint(1, num_trials - 1), draw.uniform(0, length / num_trials)
    folder = undisturbed.folder.parent / f"{kind}-{count}"
    folder.mkdir()
    with _surroundings(kind, folder) as (server, cluster):
        sweep = Sweep(folder, spec, server, cluster)
        launched = sweep.start()
        _wait_for_trials(sweep, launched, begun)
        with suppress(subprocess.TimeoutExpired):
            launched.wait(seconds)
        states = [trial["status"] for trial in sweep.trials()]
        was_over = launched.poll() is not None
        _kill_one(kind, sweep, launched, draw, count)
        if kind != "driver":
            sweep.end(launched)
        sweep.finish()  # What is finished is reported; MLflow is told what it missed.
        wrong = sweep.shown()
        if sweep.found() != undisturbed.found():
            wrong.append("other trials or metrics than undisturbed")
    told = {
        "kill": kind,
        "trials_begun": begun,
        "seconds_later": round(seconds, 1),
        "was_over": was_over,
        "states": states,
        "wrong": wrong,
    }
    print(told, file=sys.stderr, flush=True)
    return told


def undisturbed(spec: str, folder: Path) -> tuple[Sweep, float]:
    """Run the sweep in peace.

    Returns:
        The sweep, and the seconds from its first trial to its end.
    """
    sweep = Sweep(folder / "undisturbed", spec)
    launched = sweep.start()
    _wait_for_trials(sweep, launched)
    began = time.monotonic()
    sweep.end(launched)
    if wrong := sweep.shown():
        raise SystemExit(f"undisturbed: {wrong}")
    return sweep, time.monotonic() - began


def main() -> None:
    """Run the drills and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kill", nargs="+", choices=KILLS, default=list(KILLS))
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--search", choices=sorted(PARALLEL), default="random")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    spec = SPEC.replace("SEARCH", asked.search).replace("TRIALS", str(asked.trials))
    spec += f"  parallel: {PARALLEL[asked.search]}\n"
    draw = random.Random(f"{asked.seed} {asked.search}")
    with tempfile.TemporaryDirectory() as folder:
        reference = undisturbed(spec, Path(folder))
        told = [drill(kind, spec, count, draw, reference) for kind in asked.kill for count in range(asked.kills)]
    print(json.dumps({"search": asked.search, "seconds": round(reference[1], 1), "kills": told}, indent=2))
    sys.exit(any(kill["wrong"] for kill in told))


if __name__ == "__main__":
    main()
