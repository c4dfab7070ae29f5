import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import mlflow
import pytest
from mlflow import MlflowClient

from plugins.tracker import mlflow_connection
from plugins.tracker.mlflow_connection import Store

LIFE = """
import sys
from pathlib import Path
from plugins.tracker.mlflow import MlflowTracker
from plugins.tracker.mlflow_options import MlflowOptions
from runner.stages import DatasetInfo, TrackedRun

storage, fingerprint = Path(sys.argv[1]), sys.argv[2]
run_dir = storage / "demo" / fingerprint[:8]
dataset = DatasetInfo("mmre", "/data/mmre", "f" * 64, ("person", "other"), {"train": 7, "test": 3})
trial = TrackedRun("demo", run_dir.name, fingerprint, run_dir, {"seed": 1}, dataset, run_dir / "spec.yaml")
tracker = MlflowTracker(MlflowOptions(), storage)
print(tracker.start(trial))
event = {"time": "2026-11-23T10:00:00.000+00:00", "kind": "metrics", "step": 1, "values": {"loss": 1.0}}
tracker.log_events([event])
tracker.finish("finished")
"""

KILLED_WHILE_TABLES_ARE_MADE = """
import os, signal
from sqlalchemy import Engine, event
@event.listens_for(Engine, "after_cursor_execute")
def cut_short(connection, cursor, statement, *others):
    if "CREATE TABLE _alembic_tmp_datasets" in statement:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def live(storage, fingerprint):
    """Log a finished trial in a separate process; return the run's id."""
    run_dir = storage / "demo" / fingerprint[:8]
    (run_dir / "model").mkdir(parents=True, exist_ok=True)
    (run_dir / "model" / "model.safetensors").write_bytes(b"weights")
    score = {
        "id": "1",
        "ending": "clean",
        "notes": [],
        "counts": {"ner_f1": {"matched": 1}},
        "reference": {"summary": "r"},
    }
    (run_dir / "scores.jsonl").write_text(json.dumps(score) + "\n")
    (run_dir / "predictions.jsonl").write_text('{"id": "1", "output": "an answer"}\n')
    command = [sys.executable, "-c", LIFE, str(storage), fingerprint]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_two_processes_create_one_store_and_a_third_finds_its_run(tmp_path):
    storage = tmp_path / "all runs ü"
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(lambda fingerprint: live(storage, fingerprint), ["1" * 64, "2" * 64])
    assert first != second
    assert live(storage, "1" * 64) == first
    client = MlflowClient(tracking_uri=f"sqlite:///{storage / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("demo")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.run_id: run.info.status for run in runs} == {first: "FINISHED", second: "FINISHED"}
    inputs = client.get_run(first).inputs.dataset_inputs
    assert [data.dataset.digest for data in inputs] == ["f" * 36] * 2, "one a split, each once"
    assert [each.step for each in client.get_metric_history(first, "loss")] == [1]


@pytest.mark.slow
def test_a_kill_during_table_creation_does_not_prevent_a_new_start(tmp_path):
    command = [sys.executable, "-c", KILLED_WHILE_TABLES_ARE_MADE + LIFE, str(tmp_path), "1" * 64]
    none_kept = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    killed = subprocess.run(command, capture_output=True, env=none_kept, check=False)
    assert killed.returncode == -signal.SIGKILL
    run_id = live(tmp_path, "1" * 64)
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert client.get_run(run_id).info.status == "FINISHED"
    assert not list(tmp_path.glob(".mlflow.db*"))


def test_an_empty_database_is_cached_for_the_next_store_of_this_version(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(mlflow_connection, "MlflowClient", counted := Mock(wraps=mlflow_connection.MlflowClient))
    kept = tmp_path / "cache" / "mmre-runner" / f"mlflow-{mlflow.__version__}.db"

    def made(name):
        """Return the databases that MLflow itself opened to create a store."""
        counted.reset_mock()
        Store(None, tmp_path / name)
        return len(counted.call_args_list)

    assert made("first") == 2
    assert kept.is_file()
    assert made("second") == 1
    assert (tmp_path / "second" / "mlflow.db").read_bytes()[:16] == b"SQLite format 3\0"
    kept.write_bytes(kept.read_bytes()[: kept.stat().st_size // 2])
    assert made("third") == 2, "a damaged one is made anew"
    assert made("fourth") == 1
    (tmp_path / "cache" / "mmre-runner").rename(tmp_path / "gone")
    (tmp_path / "cache" / "mmre-runner").write_text("no folder")
    assert made("fifth") == 2, "without a place for it each is made"
