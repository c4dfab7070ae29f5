"""Launches on hosts with a network between them, and what they leave: for bench/hosts.py and its test."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "execute"))
from ray_on_hosts import HEAD, LAPTOP, SERVER, RayOnHosts  # noqa: E402 the path comes first

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
tracker: {type: mlflow, uri: URI}
"""
TRIAL = "compute: {workers: 2, cpus_per_worker: 1, max_retries: 10}\n"
SWEEP = """\
compute: {cpus_per_worker: 1, max_retries: 10}
sweep:
  space:
    optimizer.groups.rest.lr: {loguniform: [1.0e-4, 1.0e-2]}
  search: {type: random, seed: 5}
  objective: {metric: validation/loss, mode: min}
  budget: {trials: 6}
  parallel: 3
"""
VALIDATION = "save_steps: 5, validation_ratio: 0.2, eval_steps: 5}"
STEPS_BEFORE = 12
"""Optimizer steps after which a training is disturbed, so that a checkpoint exists."""
MINUTES = 60.0
INCOMPLETE = ("What is missing is uploaded", "not complete at the tracker")
"""What a launch says if the tracker lacks something."""
MLFLOW_PORT = 5000
SERVED, DIRECT = "served", "direct"
"""The database of MLflow's server, and one that launches use themselves."""
LAUNCH_MINUTES = 40
OTHER_ADDRESS = "10.83.0.99"
"""The address of the laptop after it has moved."""


class Bench:
    """The cluster, and the specs that every host sees."""

    def __init__(self, cluster: RayOnHosts, epochs: int, *, has_server: bool = True) -> None:
        """Write the specs, and start a server of MLflow with PostgreSQL unless a test goes without."""
        self.cluster, self.folder = cluster, cluster.shared
        self.uri = f"http://{SERVER}:{MLFLOW_PORT}"
        text = SPEC.replace("EPOCHS", str(epochs)).replace(", uri: URI", f", uri: {self.uri}" if has_server else "")
        (self.folder / "rack.yaml").write_text(text + TRIAL, encoding="utf-8")
        (self.folder / "sweep.yaml").write_text(text.replace("save_steps: 5}", VALIDATION) + SWEEP, encoding="utf-8")
        if has_server:
            self._start_postgres()
            self._start_mlflow()

    def _start_postgres(self) -> None:
        programs = postgres_programs()
        assert programs is not None
        cluster, data = self.cluster, self.cluster.own / "postgres" / "data"
        home = cluster.folder / SERVER / "postgres"
        home.mkdir()
        for folder in (cluster.folder, cluster.folder / SERVER):
            folder.chmod(0o711)
        cluster.run(SERVER, "chown", "postgres", data.parent)
        as_postgres = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")
        options = ("--username=ann", "--auth=trust", "--no-sync", "-E", "UTF8")
        cluster.run(SERVER, *as_postgres, programs / "initdb", "-D", data, *options)
        # Nothing but these hosts can reach the database.
        with (home / "data" / "pg_hba.conf").open("a", encoding="utf-8") as rules:
            rules.write("host all all 10.83.0.0/24 trust\n")
        settings = ("-c", "listen_addresses=*", "-c", "unix_socket_directories=", "-c", "fsync=off")
        cluster.start(SERVER, *as_postgres, programs / "postgres", "-D", data, *settings, log="postgres.log")
        create = (programs / "createdb", "-h", "127.0.0.1", "-U", "ann")
        for database in (SERVED, DIRECT):
            made = lambda name=database: cluster.run(SERVER, *create, name, check=False).returncode == 0  # noqa: E731
            cluster.wait_until(made, "PostgreSQL does not start", 2 * MINUTES)

    def _start_mlflow(self) -> None:
        store = ("--backend-store-uri", f"postgresql+psycopg2://ann@127.0.0.1/{SERVED}")
        store += ("--artifacts-destination", str(self.cluster.own / "artifacts"))
        network = ("--host", "0.0.0.0", "--port", MLFLOW_PORT, "--workers", 1, "--allowed-hosts", "*")
        environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.cluster.start(SERVER, "mlflow", "server", *store, *network, log="mlflow.log", environment=environment)
        ask = ("python", "-c", f"import urllib.request as u; u.urlopen('{self.uri}/health', timeout=5)")
        answers = lambda: self.cluster.run(HEAD, *ask, check=False).returncode == 0  # noqa: E731
        self.cluster.wait_until(answers, "MLflow does not start", 5 * MINUTES)

    def command(self, case: str, *options: object, spec: str = "rack") -> list[object]:
        """Return the command that launches a spec with a case's storage."""
        storage = f"compute.storage={self.folder / case}"
        return ["runner", "launch", self.folder / f"{spec}.yaml", "--set", storage, *options]

    def start(self, case: str, *options: object, spec: str = "rack") -> subprocess.Popen[bytes]:
        """Launch a spec on the cluster, from the head."""
        command = self.command(case, "--address", self.cluster.address, *options, spec=spec)
        return self.cluster.start(HEAD, *command, log=f"{case}.out")

    def finish(self, case: str, launch: subprocess.Popen[bytes]) -> None:
        """Wait until a launch has ended well.

        Raises:
            RuntimeError: It failed; with what it printed.
        """
        if launch.wait(LAUNCH_MINUTES * MINUTES):
            raise RuntimeError(f"{case}\n{self.output(case)[-3000:]}")

    def deliver(self, case: str) -> bool:
        """Run `runner sync` if a launch has said that the tracker lacks something; return whether it has."""
        if not any(text in self.output(case) for text in INCOMPLETE):
            return False
        self.cluster.run(HEAD, "runner", "sync", "--storage", self.folder / case, "--to", self.folder / "rack.yaml")
        return True

    def output(self, case: str) -> str:
        """Return what a launch has printed so far."""
        return "".join(file.read_text(errors="replace") for file in self.cluster.folder.glob(f"*/{case}.out"))

    def runs(self, case: str) -> list[Path]:
        """Return the run directories of a case."""
        return sorted((self.folder / case / "rack").glob("trial-*"))

    def events(self, case: str) -> list[dict[str, Any]]:
        """Return the events of a case's trials so far, without an incomplete last line."""
        texts = [log.read_text(encoding="utf-8") for run in self.runs(case) for log in run.glob("events.jsonl")]
        return [json.loads(line) for text in texts for line in text.rpartition("\n")[0].splitlines()]

    def num_steps(self, case: str) -> int:
        """Count the optimizer steps in the logs of a case's trials."""
        return sum(map(is_loss, self.events(case)))

    def wait_for_steps(self, case: str, launch: subprocess.Popen[bytes], number: int = STEPS_BEFORE) -> None:
        """Wait until the training of a launch has done this number of optimizer steps.

        Raises:
            RuntimeError: The launch ended before.
        """

        def is_reached() -> bool:
            if launch.poll() is not None:
                raise RuntimeError(f"{case}: ended before it was disturbed\n{self.output(case)[-3000:]}")
            return self.num_steps(case) >= number

        self.cluster.wait_until(is_reached, f"{case}: no {number} steps", 10 * MINUTES)

    def workers(self, case: str) -> dict[int, str]:
        """Return the processes that train a case's trials, with the host of each.

        Raises:
            RuntimeError: There is none.
        """
        outputs = {(run / "output.log").resolve() for run in self.runs(case)}
        found: dict[int, str] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (folder / "fd" / "1").resolve() in outputs and (host := self.cluster.host_of(int(folder.name))):
                    found[int(folder.name)] = host
        if not found:
            raise RuntimeError(f"{case}: no worker runs\n{self.output(case)[-3000:]}")
        return found

    def node(self, case: str) -> str:
        """Return the last of the nodes that train a case's trial."""
        return max(self.workers(case).values())

    def run_detached(self, case: str, dashboard: str) -> None:
        """Send a detached launch from the laptop to an address of the dashboard, and wait until it has ended."""
        self.cluster.run(LAPTOP, *self.command(case, "--detach", "--address", dashboard))
        self.wait_for_job(case, dashboard)

    def wait_for_job(self, case: str, dashboard: str) -> None:
        """Ask from the laptop, at an address of the dashboard, for a detached launch until it has ended.

        Raises:
            RuntimeError: It has not finished.
        """

        def status() -> str:
            shown = self.cluster.run(LAPTOP, "runner", "status", "--address", dashboard, "--json")
            jobs = json.loads(shown.stdout)["jobs"]
            [found] = [str(job["status"]) for job in jobs if job["storage"] == str(self.folder / case)]
            return found

        self.cluster.wait_until(
            lambda: status() not in {"pending", "running"}, f"{case}: does not end", LAUNCH_MINUTES * MINUTES
        )
        if (ended := status()) != "finished":
            raise RuntimeError(f"{case}: the job is {ended}")

    def results(self, case: str) -> dict[str, Any]:
        """Return metrics, hash of the weights, and losses by step of each trial; a repeated step has its loss once."""
        found: dict[str, Any] = {}
        for run in self.runs(case):
            weights = (run / "model" / "model.safetensors").read_bytes()
            events = [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines()]
            losses = {(event["step"], event["values"]["train/loss"]) for event in events if is_loss(event)}
            metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
            digest = hashlib.sha256(weights).hexdigest()
            found[run.name] = {"metrics": metrics, "weights": digest, "losses": sorted(losses)}
        return found

    def tracked(self, case: str, uri: str) -> dict[str, Any]:
        """Return what MLflow holds of a case's trials: the status, and the steps of each metric of each run."""
        command = ("python", Path(__file__).with_name("hosts.py"), "--tracked", uri, self.folder / case)
        return dict(json.loads(self.cluster.run(HEAD, *command).stdout.splitlines()[-1]))


def is_loss(event: dict[str, Any]) -> bool:
    """Whether an event reports the loss of an optimizer step."""
    return event["kind"] == "metrics" and "train/loss" in event["values"]


def postgres_programs() -> Path | None:
    """Return the folder of PostgreSQL's programs, where Debian installs them; None if there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


def print_tracked(uri: str, storage: str) -> None:
    """Print, as JSON, the runs of a storage that MLflow holds: this part runs on a host."""
    from mlflow import MlflowClient  # noqa: PLC0415 only here

    client = MlflowClient(uri.replace("postgresql://", "postgresql+psycopg2://"))
    experiment = client.get_experiment_by_name("rack")
    held: dict[str, list[Any]] = {}
    for run in client.search_runs([experiment.experiment_id]) if experiment else []:
        folder = Path(run.data.tags.get("mmre.run_dir", ""))
        if folder.parent != Path(storage) / "rack" or not folder.name.startswith("trial-"):
            continue
        # The use of the machine is measured by the clock, and the objective belongs to the sweep.
        names = sorted(name for name in run.data.metrics if name.startswith(("train/loss", "validation/loss")))
        steps = {name: [each.step for each in client.get_metric_history(run.info.run_id, name)] for name in names}
        scores = {name: value for name, value in run.data.metrics.items() if "ner_f1" in name or "rouge" in name}
        held.setdefault(folder.name, []).append({"status": run.info.status, "steps": steps, "scores": scores})
    print(json.dumps(held))


def database_uri() -> str:
    """The address of the database that launches use themselves."""
    return f"postgresql://ann@{SERVER}/{DIRECT}"


def run_undisturbed(bench: Bench, spec: str) -> str:
    """Launch a spec on one host without the cluster; return the name of the case."""
    case = f"undisturbed-{spec}"
    bench.cluster.run(SERVER, *bench.command(case, spec=spec))
    return case
