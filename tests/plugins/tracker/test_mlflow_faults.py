"""Faults of MLflow's store and server are named with what to do; a large experiment is read as a whole."""

import os
import platform
import shutil
import socket
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service import utils

from plugins.tracker import mlflow_connection
from plugins.tracker.mlflow import MlflowTracker
from plugins.tracker.mlflow_options import MlflowOptions
from runner.errors import RequirementError
from runner.stages import DatasetInfo, TrackedRun


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    MlflowTracker(MlflowOptions(), folder)
    return folder


def tracked(storage, experiment, number=1):
    run_dir = storage / experiment / f"trial-{number:08}"
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "metrics.json").write_text("{}")
    dataset = DatasetInfo("mmre", "/data", "f" * 64, (), {})
    return TrackedRun(experiment, run_dir.name, f"{number:064}", run_dir, {"seed": 1}, dataset, run_dir / "spec.yaml")


def open_tracker(storage, **options):
    return MlflowTracker(MlflowOptions(**options), storage)


def test_all_pages_of_an_experiment_are_downloaded(storage, tmp_path, monkeypatch):
    for number in range(5):
        open_tracker(storage).start(tracked(storage, "many", number))
    search = MlflowClient.search_runs
    monkeypatch.setattr(MlflowClient, "search_runs", lambda *args, **options: search(*args, **options, max_results=2))
    folders = open_tracker(storage).download_runs("many", tmp_path)
    assert [folder.name for folder in folders] == [f"trial-{number:08}" for number in range(5)]


def test_an_experiment_that_another_launch_creates_at_the_same_time_is_used(storage, monkeypatch):
    """Launches with other folders of all runs, on other machines, do not share the lock."""
    create = MlflowClient.create_experiment

    def create_late(client, name, **options):
        create(client, name, **options)
        return create(client, name, **options)

    monkeypatch.setattr(MlflowClient, "create_experiment", create_late)
    store = open_tracker(storage)._store
    created = store.experiment("contested")
    assert created == store.client.get_experiment_by_name("contested").experiment_id


@pytest.fixture
def refusing(request):
    """A server that answers every request with a status and a text."""
    status, text = request.param

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_GET

        def log_message(self, *arguments): ...

    server = HTTPServer(("127.0.0.1", 0), Refusing)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("refusing", "advice"),
    [
        (
            (403, b"Invalid Host header - possible DNS rebinding attack detected"),
            "start the server with `--allowed-hosts`",
        ),
        ((403, b"Permission denied"), "check MLFLOW_TRACKING_USERNAME"),
        ((401, b"You are not authenticated"), "check MLFLOW_TRACKING_USERNAME"),
    ],
    indirect=["refusing"],
)
def test_a_refusal_is_told_by_its_cause(refusing, advice, tmp_path):
    with pytest.raises(RequirementError) as error:
        open_tracker(tmp_path, uri=refusing)
    assert advice in str(error.value)
    assert "start it" not in str(error.value)


def test_a_database_server_that_refuses_is_told_at_once(tmp_path):
    pytest.importorskip("psycopg2")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        uri = f"postgresql://ann@127.0.0.1:{closed.getsockname()[1]}/mlflow"
        started = time.monotonic()
        with pytest.raises(RequirementError, match=r"cannot be opened: .*refused"):
            open_tracker(tmp_path, uri=uri)
    assert time.monotonic() - started < mlflow_connection.CONNECT_SECONDS


def settings_of(command):
    return dict(word.split("=", 1) for word in command[1 : command.index(sys.executable)])


def test_pages_beyond_loopback_accept_the_names_of_this_machine(storage, monkeypatch):
    monkeypatch.delenv("MLFLOW_SERVER_ALLOWED_HOSTS", raising=False)
    tracker = open_tracker(storage)
    assert "MLFLOW_SERVER_ALLOWED_HOSTS" not in settings_of(tracker.serve_command("127.0.0.1", 5123))
    allowed = settings_of(tracker.serve_command("0.0.0.0", 5123, ["gpu.example.org"]))["MLFLOW_SERVER_ALLOWED_HOSTS"]
    names = allowed.split(",")
    for name in ("gpu.example.org", platform.node()):
        assert {name, f"{name}:5123"} <= set(names)
    assert {"localhost:*", "192.168.*"} <= set(names)
    assert "*" not in names and "0.0.0.0:5123" not in names
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "mine")
    assert "MLFLOW_SERVER_ALLOWED_HOSTS" not in settings_of(tracker.serve_command("0.0.0.0", 5123))


def test_pages_are_served_without_telemetry(storage, monkeypatch):
    tracker = open_tracker(storage)
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY")
    assert settings_of(tracker.serve_command("127.0.0.1", 1))["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_ui_opens_the_training_pages_and_warns_beyond_loopback(workplace, storage, monkeypatch):
    shown = []
    monkeypatch.setattr(os, "execve", lambda program, command, environment: shown.append(command))
    (workplace.folder / "runs").symlink_to(storage)
    inside = workplace.run("ui")
    assert "http://127.0.0.1:5000/#/experiments?workflowType=machine_learning" in inside.stderr
    assert "warning" not in inside.stderr
    outside = workplace.run("ui", "--host", "0.0.0.0", "--allowed-hosts", "gpu.example.org")
    assert "warning: anybody who can reach 0.0.0.0:5000 sees and can change all runs" in outside.stderr
    assert any("gpu.example.org:5000" in word for word in shown[1])


@pytest.mark.parametrize("command", ["launch", "attach a page", "download"])
def test_a_moved_folder_of_runs_has_its_artifacts_at_the_new_path(storage, tmp_path, command):
    before, after = tmp_path / "old é", tmp_path / "new"
    shutil.copytree(storage, before)
    tracker = open_tracker(before)
    first = tracker.start(tracked(before, "moved", 1))
    tracker.finish("finished")
    before.rename(after)
    utils._artifact_repos_cache.clear()  # as in a new process
    if command == "attach a page":
        open_tracker(after).log_file(first, after / "moved" / "trial-00000001" / "metrics.json", "")
    if command == "download":
        [folder] = open_tracker(after).download_runs("moved", tmp_path / "downloaded")
        assert (folder / "metrics.json").read_text() == "{}"
    assert not before.exists()
    second = open_tracker(after).start(tracked(after, "moved", 2))
    open_tracker(after).log_file(second, after / "moved" / "trial-00000002" / "metrics.json", "")
    assert not before.exists()
    client = MlflowClient(tracking_uri=f"sqlite:///{after}/mlflow.db")
    for run_id in (first, second):
        assert client.get_run(run_id).info.artifact_uri.startswith((after / "mlartifacts" / "moved").as_uri())
    assert (after / "mlartifacts" / "moved" / second / "artifacts" / "metrics.json").is_file()
    link = tmp_path / "link"
    link.symlink_to(after)
    open_tracker(link).start(tracked(link, "moved", 3))
    assert client.get_run(first).info.artifact_uri.startswith((after / "mlartifacts").as_uri())
