"""Kills parts of a sweep at random moments, and checks that it ends like an undisturbed sweep.

    python bench/sweep_kills.py [--kill driver worker server node] [--kills 10] [--search random|tpe] [--seed 0]

A sweep of quick trials runs once undisturbed. In further sweeps, SIGKILL hits one of these at a random moment: the
driver (alternately with all its child processes and alone), a worker, the MLflow server, which is restarted a few
seconds later, or a Ray node with everything on it. A sweep that lost its driver is launched again. Each sweep must end
with the same trials and bit-identical metrics. MLflow must have each trial once, under one run of the sweep, and each
step of each metric once. Prints a JSON document with an entry per kill; the exit status is 1 if anything differs.
`random` runs two trials in parallel, `tpe` one at a time.
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
SERVER_DOWN_SECONDS = 4.0
"""Seconds until a killed MLflow server is restarted."""
LAUNCH_TIMEOUT_SECONDS = 900

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
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def _kill_process(process: psutil.Process | subprocess.Popen[bytes], *, children: bool = True) -> None:
    """Kill a process, and by default its descendants."""
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(process.pid)
        for target in [root, *(root.children(recursive=True) if children else [])]:
            with suppress(psutil.NoSuchProcess):
                target.kill()
    if isinstance(process, subprocess.Popen):
        process.wait()


@dataclass
class Server:
    """An MLflow server with its own database."""

    folder: Path
    port: int = field(default_factory=_free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        artifacts = ["--artifacts-destination", str(self.folder / "artifacts")]
        store = ["--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}", *artifacts]
        network = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        with (self.folder / "server.log").open("ab") as log:
            command = [str(BIN / "mlflow"), "server", *store, *network]
            environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.2)

    def kill(self) -> None:
        """Kill the server with its workers."""
        assert self.process is not None
        _kill_process(self.process)


@dataclass
class Cluster:
    """A Ray cluster with token authentication: a head node without CPUs, and two nodes that run trials."""

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
        """Address of the head node."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the head node and the other nodes."""
        self._start_node("--head", f"--port={self.port}", "--include-dashboard=false", "--num-cpus=0")
        for _ in range(2):
            self._start_node(f"--address={self.address}", "--num-cpus=1")

    def _start_node(self, *arguments: str) -> None:
        log = self.folder / f"node-{len(self.nodes)}.log"
        command = [str(BIN / "ray"), "start", "--block", "--disable-usage-stats", "--object-store-memory=80000000"]
        with log.open("wb") as log_file:
            node = subprocess.Popen(
                [*command, *arguments], env=self.environment, stdout=log_file, stderr=log_file, start_new_session=True
            )
        self.nodes.append(node)
        while "Ray runtime started" not in log.read_text():
            if node.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(0.2)

    def close(self) -> None:
        """Kill all nodes."""
        for node in self.nodes:
            _kill_process(node)


@dataclass
class Sweep:
    """A sweep in its own folder; the generated data are shared."""

    folder: Path
    spec: str
    server: Server | None = None
    cluster: Cluster | None = None

    def start(self) -> subprocess.Popen[bytes]:
        """Launch the sweep."""
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
        """Launch the sweep and wait for its end."""
        self.wait(self.start())

    def wait(self, launch: subprocess.Popen[bytes], seconds: float = LAUNCH_TIMEOUT_SECONDS) -> None:
        """Wait for the end of a launch, which must succeed."""
        if launch.wait(seconds):
            raise SystemExit((self.folder / "output.txt").read_text()[-3000:])

    def trials(self) -> list[dict[str, Any]]:
        """Return the trials so far, from `sweep.json`."""
        file = self.folder / "runs" / "drill" / "sweep" / "sweep.json"
        return list(json.loads(file.read_text())["trials"]) if file.exists() else []

    def results(self) -> dict[str, Any]:
        """Return status, objective and metrics of each trial."""
        runs = self.folder / "runs" / "drill"
        return {
            trial["name"]: (
                trial["status"],
                trial["objective"],
                json.loads((runs / trial["name"] / "metrics.json").read_text()),
            )
            for trial in self.trials()
        }

    def check_mlflow(self) -> list[str]:
        """Return what is wrong in MLflow: missing or duplicate runs, wrong nesting, duplicate steps."""
        client = MlflowClient(self.server.uri if self.server else f"sqlite:///{self.folder}/runs/mlflow.db")
        experiment = client.get_experiment_by_name("drill")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id])
        parents = [run for run in runs if run.info.run_name.startswith("sweep-")]
        trials = [run for run in runs if run not in parents]
        errors = []
        if len(parents) != 1 or {run.data.tags.get("mlflow.parentRunId") for run in trials} != {parents[0].info.run_id}:
            errors.append("the runs of the trials are not nested under one run")
        if sorted(Path(run.data.tags["mmre.run_dir"]).name for run in trials) != sorted(
            trial["name"] for trial in self.trials()
        ):
            errors.append("the runs do not match the trials of the sweep")
        if {run.info.status for run in runs} != {"FINISHED"}:
            errors.append("a run does not have the status FINISHED")
        for run in runs:
            # The metrics of the best point on the sweep's run are logged again when another point becomes the best.
            for key in ["objective"] if run in parents else run.data.metrics:
                steps = [metric.step for metric in client.get_metric_history(run.info.run_id, key)]
                if len(set(steps)) != len(steps):
                    errors.append(f"{run.info.run_name}: {key} has a duplicate step")
        if len(client.get_metric_history(parents[0].info.run_id, "objective")) != len(trials):
            errors.append("the run of the sweep does not have one objective value per trial")
        return errors


@contextmanager
def _create_services(kind: str, folder: Path) -> Iterator[tuple[Server | None, Cluster | None]]:
    with ExitStack() as cleanup:
        server, cluster = None, None
        if kind == "server":
            server = Server(folder)
            server.start()
            cleanup.callback(server.kill)
        if kind == "node":
            cluster = Cluster(folder)
            cleanup.callback(cluster.close)
            cluster.start()
        yield server, cluster


def _wait_for_trials(sweep: Sweep, launch: subprocess.Popen[bytes], count: int = 1) -> None:
    """Wait until this number of trials has started; seconds alone mean little on a shared machine."""
    while launch.poll() is None and len(sweep.trials()) < count:
        time.sleep(0.05)


def _find_workers(launch: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return the processes that were forked for trials."""
    workers = []
    for process in psutil.Process(launch.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            parent = process.parent()
            if parent and all("runner.execute.fork_server" in member.cmdline() for member in (process, parent)):
                workers.append(process)
    return workers


def _inject_kill(kind: str, sweep: Sweep, launch: subprocess.Popen[bytes], rng: random.Random, count: int) -> bool:
    """Kill, and return whether there was still something to kill."""
    if kind == "driver":
        _kill_process(launch, children=count % 2 == 0)
    elif kind == "worker":
        while launch.poll() is None and not (workers := _find_workers(launch)):
            time.sleep(0.05)
        if launch.poll() is not None:
            return False
        _kill_process(rng.choice(workers))
    elif kind == "server":
        assert sweep.server is not None
        sweep.server.kill()
        time.sleep(SERVER_DOWN_SECONDS)
        sweep.server.start()
    else:
        assert sweep.cluster is not None
        _kill_process(sweep.cluster.nodes[rng.choice([1, 2])])
    return True


def run_drill(kind: str, spec: str, count: int, rng: random.Random, reference: tuple[Sweep, float]) -> dict[str, Any]:
    """Disturb one sweep, and compare its end with the undisturbed one; see the module.

    A sweep that has ended before the kill is repeated, with a kill after half the seconds.
    """
    undisturbed, duration = reference
    num_trials = len(undisturbed.trials())
    trials_begun, seconds = rng.randint(1, num_trials - 1), rng.uniform(0, duration / num_trials)
    while (disturbed := _disturb(kind, spec, count, rng, trials_begun, seconds, undisturbed)) is None:
        seconds /= 2
    states, errors = disturbed
    result = {
        "kill": kind,
        "trials_begun": trials_begun,
        "seconds_later": round(seconds, 1),
        "states": states,
        "wrong": errors,
    }
    print(result, file=sys.stderr, flush=True)
    return result


def _disturb(
    kind: str, spec: str, count: int, rng: random.Random, trials_begun: int, seconds: float, undisturbed: Sweep
) -> tuple[list[str], list[str]] | None:
    """Run a sweep with a kill.

    Returns:
        The states of the trials at the kill, and what is wrong at the end; None if the sweep had ended before the kill.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{kind}-{count}-", dir=undisturbed.folder.parent))
    with _create_services(kind, folder) as (server, cluster):
        sweep = Sweep(folder, spec, server, cluster)
        launch = sweep.start()
        _wait_for_trials(sweep, launch, trials_begun)
        with suppress(subprocess.TimeoutExpired):
            sweep.wait(launch, seconds)
            return None
        states = [str(trial["status"]) for trial in sweep.trials()]
        if not _inject_kill(kind, sweep, launch, rng, count):
            return None
        if kind != "driver":
            sweep.wait(launch)
        sweep.finish()  # Finished trials are reported again, and MLflow gets what it missed.
        errors = sweep.check_mlflow()
        if sweep.results() != undisturbed.results():
            errors.append("trials or metrics differ from the undisturbed sweep")
    return states, errors


def run_undisturbed(spec: str, folder: Path) -> tuple[Sweep, float]:
    """Run the sweep without a kill.

    Returns:
        The sweep, and the seconds from its first trial to its end.
    """
    sweep = Sweep(folder / "undisturbed", spec)
    launch = sweep.start()
    _wait_for_trials(sweep, launch)
    started = time.monotonic()
    sweep.wait(launch)
    if errors := sweep.check_mlflow():
        raise SystemExit(f"the undisturbed sweep is wrong in MLflow: {errors}")
    return sweep, time.monotonic() - started


def main() -> None:
    """Run the drills and print their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kill", nargs="+", choices=KILLS, default=list(KILLS))
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--search", choices=sorted(PARALLEL), default="random")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    spec = SPEC.replace("SEARCH", arguments.search).replace("TRIALS", str(arguments.trials))
    spec += f"  parallel: {PARALLEL[arguments.search]}\n"
    rng = random.Random(f"{arguments.seed} {arguments.search}")
    with tempfile.TemporaryDirectory() as folder:
        reference = run_undisturbed(spec, Path(folder))
        results = [
            run_drill(kind, spec, count, rng, reference) for kind in arguments.kill for count in range(arguments.kills)
        ]
    print(json.dumps({"search": arguments.search, "seconds": round(reference[1], 1), "kills": results}, indent=2))
    sys.exit(any(kill["wrong"] for kill in results))


if __name__ == "__main__":
    main()
