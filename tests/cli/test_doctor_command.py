"""The command `runner doctor`: findings as text and as JSON, the exit status, and nothing left behind."""

import json
from types import SimpleNamespace

import pytest

from plugins.tracker import mlflow_connection
from plugins.tracker.mlflow_connection import Store
from runner.execute.doctor import check_tracker
from runner.spec.load import load_spec
from runner.stages import StoreDescription
from tests.conftest import ROOT

DEAD = "http://127.0.0.1:9"
"""The port `discard`, on which nothing listens."""


def _topics(findings):
    return {finding["topic"]: finding["level"] for finding in findings}


def test_a_machine_on_which_a_launch_works(emoji):
    before = sorted(emoji.folder.iterdir())
    done = emoji.run("doctor", "emoji.yaml")
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert lines[0].startswith("ok      software: Python 3.")
    assert any(line.startswith("ok      tracker: the first launch creates a database in ") for line in lines)
    assert sorted(emoji.folder.iterdir()) == before


def test_an_existing_store_is_described_and_json_holds_everything(emoji):
    assert emoji.run("launch", "emoji.yaml", "--local").returncode == 0
    done = emoji.run("doctor", "emoji.yaml", "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["level"]) in {(0, "ok"), (0, "warning")}  # a busy disk is slow
    [store] = [finding["text"] for finding in document["findings"] if finding["topic"] == "tracker"]
    assert "mlflow.db, schema " in store
    assert "; MLflow 3." in store


def test_problems_end_with_status_1_and_say_what_to_do(emoji):
    done = emoji.run(
        "doctor", "emoji.yaml", "--set", f"tracker.uri={DEAD}", "--set", "compute.gpus_per_worker=2", "--json"
    )
    document = json.loads(done.stdout)
    assert done.returncode == 1
    assert document["level"] == "problem"
    assert _topics(document["findings"])["tracker"] == "problem"
    assert _topics(document["findings"])["gpus"] == "problem"
    assert all(finding["remedy"] for finding in document["findings"] if finding["level"] != "ok")


def test_a_cluster_that_does_not_answer_is_a_problem(emoji):
    for address in ("127.0.0.1:9", DEAD):
        done = emoji.run("doctor", "emoji.yaml", "--address", address)
        assert done.returncode == 1
        assert f"PROBLEM cluster: no cluster answers at {address}" in done.stdout
    assert done.stdout.splitlines()[-1] == "a launch would fail; solve the problems first"


def test_a_launch_that_does_not_start_names_the_command(emoji):
    done = emoji.run("launch", "emoji.yaml", "--local", "--set", f"tracker.uri={DEAD}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("(`runner doctor SPEC` shows what else a launch lacks here)")


def test_values_of_a_spec_need_a_spec(workplace):
    done = workplace.run("doctor", "--set", "seed=1")
    assert done.returncode == 2
    assert "needs a SPEC" in done.stderr


@pytest.mark.parametrize(("server", "is_older"), [("2.0.0", True), ("99.0", False)])
def test_a_server_that_is_older_than_the_client_is_told(tmp_path, monkeypatch, server, is_older):
    store = Store(None, tmp_path)
    store.is_server = True
    monkeypatch.setattr(mlflow_connection, "http_request", lambda *_, **__: SimpleNamespace(text=f"{server}\n"))
    description = store.describe()
    assert f"MLflow {server}; MLflow 3." in description.text
    assert bool(description.warning) == is_older


def test_a_warning_of_the_tracker_is_a_warning(tmp_path, monkeypatch):
    spec = load_spec(ROOT / "specs" / "tiny_mmre.yaml").spec
    described = StoreDescription("a server", "it is older")
    monkeypatch.setattr("plugins.tracker.mlflow.MlflowTracker.describe_store", lambda _: described)
    [finding] = check_tracker(spec.tracker, tmp_path, keeps_database=False)
    assert (finding.level, finding.text) == ("warning", "a server: it is older")
