import json
import logging
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient
from pydantic import ValidationError

from plugins.tracker.mlflow import MlflowTracker
from plugins.tracker.mlflow_content import LoggedMetrics, parameters, valid_key
from plugins.tracker.mlflow_options import MlflowOptions
from runner.errors import RequirementError
from runner.stages import DatasetInfo, LocatedStr, TrackedRun

FINGERPRINT = "0123456789abcdef" * 4
REFERENCE = '{"summary": "r"}'


@pytest.fixture(scope="session")
def storage(tmp_path_factory):
    """The folder of all runs, with one store for all tests, because creating its tables takes seconds."""
    folder = tmp_path_factory.mktemp("runs")
    MlflowTracker(MlflowOptions(), folder)
    return folder


@pytest.fixture
def tracked(storage, request):
    """A trial of a new experiment, with the files of a finished trial."""
    run_dir = storage / request.node.name / "trial-01234567"
    (run_dir / "model").mkdir(parents=True)
    (run_dir / "model" / "model.safetensors").write_bytes(b"weights")
    (run_dir / "spec.yaml").write_text("name: demo\n")
    for name in ("plan.json", "record.json", "metrics.json"):
        (run_dir / name).write_text("{}")
    write_predictions(run_dir, {"1": "an answer\u2028in two lines", "2": ""})
    return TrackedRun(
        experiment=request.node.name,
        trial="trial-01234567",
        fingerprint=FINGERPRINT,
        run_dir=run_dir,
        parameters={"seed": 42, "trainer.precision": "fp32", "adapter.tasks": ["ner", "match"], "name": "é"},
        dataset=DatasetInfo("mmre", "/data/mmre", "f" * 64, ("person", "other"), {"train": 7, "test": 3}),
        spec_file=run_dir / "spec.yaml",
    )


def write_predictions(run_dir, outputs):
    predictions = [{"id": each, "output": output, "finished": True} for each, output in outputs.items()]
    counts = {"ner_f1": {"matched": 1}}
    scores = [
        {"id": each, "ending": "clean", "notes": ["a", "b"], "counts": counts, "reference": {"summary": "r"}}
        for each in outputs
    ]
    for name, rows in (("predictions", predictions), ("scores", scores)):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (run_dir / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def open_tracker(storage, **options):
    return MlflowTracker(MlflowOptions(**options), storage)


def client_of(storage):
    return MlflowClient(tracking_uri=f"sqlite:///{storage / 'mlflow.db'}")


def metrics(step, second=0, **values):
    return {"time": f"2026-11-23T10:00:{second:02}.500+00:00", "kind": "metrics", "step": step, "values": values}


def history(storage, run_id, key):
    return [(each.step, each.value) for each in client_of(storage).get_metric_history(run_id, key)]


def read_table(storage, run_id):
    return json.loads(Path(client_of(storage).download_artifacts(run_id, "predictions.json")).read_text())


def test_run_shows_parameters_data_set_tags_and_files(storage, tracked):
    tracker = open_tracker(storage)
    run_id = tracker.start(tracked)
    client = client_of(storage)
    assert client.get_run(run_id).info.status == "RUNNING"
    tracker.finish("finished")
    run = client.get_run(run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "trial-01234567")
    assert run.data.tags["mmre.fingerprint"] == FINGERPRINT
    assert run.data.params == {
        "seed": "42",
        "trainer.precision": "fp32",
        "adapter.tasks": '["ner", "match"]',
        "name": "é",
    }
    inputs = {data.dataset.name: data for data in run.inputs.dataset_inputs}
    assert {name: data.tags[0].value for name, data in inputs.items()} == {
        "mmre/train": "training",
        "mmre/test": "testing",
    }
    tested = inputs["mmre/test"].dataset
    assert tested.digest == "f" * 36 and json.loads(tested.source) == {"uri": "/data/mmre"}
    assert json.loads(tested.profile) == {
        "num_samples": 3,
        "split": "test",
        "labels": ["person", "other"],
        "fingerprint": "f" * 64,
    }
    files = {entry.path for entry in client.list_artifacts(run_id)}
    assert files == {
        "spec.yaml",
        "plan.json",
        "record.json",
        "metrics.json",
        "scores.jsonl",
        "predictions.jsonl",
        "predictions.json",
        "model",
    }
    assert [entry.path for entry in client.list_artifacts(run_id, "model")] == ["model/model.safetensors"]
    assert Path(run.info.artifact_uri.removeprefix("file://")).is_relative_to(storage)


def test_predictions_are_a_table_that_a_later_launch_replaces(storage, tracked):
    tracker = open_tracker(storage)
    run_id = tracker.start(tracked)
    tracker.finish("finished")
    assert read_table(storage, run_id) == {
        "columns": ["id", "output", "reference", "parse", "notes", "ner_f1.matched"],
        "data": [
            ["1", "an answer\u2028in two lines", REFERENCE, "clean", "a; b", 1],
            ["2", "", REFERENCE, "clean", "a; b", 1],
        ],
    }
    listed = json.loads(client_of(storage).get_run(run_id).data.tags["mlflow.loggedArtifacts"])
    assert listed == [{"path": "predictions.json", "type": "table"}], "there are no mistakes to be shown"
    write_predictions(tracked.run_dir, {"3": "other"})
    tracker.finish("finished")
    assert [row[0] for row in read_table(storage, run_id)["data"]] == ["3"]


def test_metrics_are_logged_with_step_and_time_except_null_values(storage, tracked):
    tracker = open_tracker(storage)
    run_id = tracker.start(tracked)
    tracker.log_events(
        [
            {"time": "2026-11-23T10:00:00.000+00:00", "kind": "state", "step": "train", "state": "started"},
            metrics(1, 1, loss=2.0, lr=1e-5),
            {"time": "2026-11-23T10:00:01.000+00:00", "kind": "progress", "done": 1, "total": 2},
            metrics(2, 2, loss=float("nan"), lr=5e-6),
            metrics(None, 9, **{"ner_f1": 0.5, "bleu": None, "published/ner_f1": 0.25, "parse/clean": 3}),
        ]
    )
    tracker.finish("failed")
    run = client_of(storage).get_run(run_id)
    assert run.info.status == "FAILED" and run.info.end_time == 1795428009500
    assert run.data.metrics.keys() == {"loss", "lr", "ner_f1", "published/ner_f1", "parse/clean"}
    assert history(storage, run_id, "lr") == [(1, 1e-5), (2, 5e-6)]
    assert history(storage, run_id, "ner_f1") == [(0, 0.5)]
    (first, _) = client_of(storage).get_metric_history(run_id, "lr")
    assert first.timestamp == 1795428001500


def test_a_resumed_run_is_the_same_and_has_each_step_once(storage, tracked):
    tracker = open_tracker(storage)
    run_id = tracker.start(tracked)
    events = [metrics(1, 1, loss=3.0), metrics(2, 2, loss=2.0), metrics(2, 2, loss=2.0), metrics(0, 0, extra=1)]
    tracker.log_events(events)
    tracker.log_events(events)
    tracker.finish("interrupted")
    assert client_of(storage).get_run(run_id).info.status == "KILLED"

    resumed = open_tracker(storage)
    assert resumed.start(tracked) == run_id
    assert client_of(storage).get_run(run_id).info.status == "RUNNING"
    resumed.log_events([metrics(2, 12, loss=2.1), metrics(3, 13, loss=1.0), metrics(None, 14, ner_f1=0.9)])
    resumed.log_events([metrics(3, 13, loss=1.0), metrics(None, 15, ner_f1=0.9), metrics(0, 16, extra=2)])
    resumed.finish("finished")
    assert history(storage, run_id, "loss") == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert history(storage, run_id, "ner_f1") == [(0, 0.9)]
    assert history(storage, run_id, "extra") == [(0, 1.0)]
    assert client_of(storage).get_run(run_id).info.status == "FINISHED"


def test_a_changed_result_is_logged_and_a_repeated_one_is_not(storage, tracked):
    tracker = open_tracker(storage)
    run_id = tracker.start(tracked)
    events = [metrics(None, 1, ner_f1=0.5), metrics(None, 2, ner_f1=0.6)]
    tracker.log_events(events)
    again = open_tracker(storage)
    again.start(tracked)
    again.log_events(events)
    assert history(storage, run_id, "ner_f1") == [(0, 0.5), (0, 0.6)]
    assert client_of(storage).get_run(run_id).data.metrics == {"ner_f1": 0.6}


def test_many_metrics_and_long_or_unusual_parameters(storage, tracked):
    plan = {f"group.{index}": index for index in range(250)} | {"long": "x" * 10_000, "a//*../b?": None}
    tracked = replace(tracked, parameters=plan)
    tracker = open_tracker(storage)
    run_id = tracker.start(tracked)
    tracker.log_events([metrics(step, loss=step / 7, lr=1.0) for step in range(1, 1301)])
    run = client_of(storage).get_run(run_id)
    assert len(run.data.params) == 252
    assert run.data.params["long"] == "x" * 5999 + "…"
    assert [value for key, value in run.data.params.items() if key.startswith("a/_../b_-")] == ["null"]
    assert len(history(storage, run_id, "loss")) == 1300
    open_tracker(storage).start(tracked)


def test_names_fit_what_mlflow_allows():
    assert valid_key("a.b-c_d:e f/g") == "a.b-c_d:e f/g"
    assert re.fullmatch("a/b-[0-9a-f]{6}", valid_key("/a/../b//"))
    assert re.fullmatch("_-[0-9a-f]{6}", valid_key(".."))
    assert len(valid_key("k" * 400)) == 250 == len(valid_key("k" * 400 + "l"))
    assert len({valid_key(name) for name in ("a?", "a*", "a_", "k" * 400, "k" * 401)}) == 5
    assert [(each.key, each.value) for each in parameters({"flag": True, "text": ""})] == [
        ("flag", "true"),
        ("text", ""),
    ]


def test_the_path_of_a_large_model_is_logged_instead_of_the_model(storage, tracked):
    tracker = open_tracker(storage, max_artifact_mb=1e-6)
    run_id = tracker.start(tracked)
    tracker.finish("finished")
    client = client_of(storage)
    assert "model" not in {entry.path for entry in client.list_artifacts(run_id)}
    assert client.get_run(run_id).data.tags["mmre.model_uri"] == (tracked.run_dir / "model").as_uri()


@pytest.mark.parametrize("limit", [200, 1e-6])
def test_a_profile_is_uploaded_unless_it_is_large(storage, tracked, limit):
    (tracked.run_dir / "profile").mkdir()
    (tracked.run_dir / "profile" / "trace.json.gz").write_bytes(b"a trace")
    tracker = open_tracker(storage, max_artifact_mb=limit)
    run_id = tracker.start(tracked)
    tracker.finish("interrupted")
    stored = {entry.path for entry in client_of(storage).list_artifacts(run_id, "profile")}
    assert stored == ({"profile/trace.json.gz"} if limit == 200 else set())


def test_failure_of_an_artifact_still_sets_the_status(storage, tracked):
    tracker = open_tracker(storage)
    run_id = tracker.start(tracked)
    (tracked.run_dir / "scores.jsonl").write_text("no JSON\n")
    with pytest.raises(ValueError):
        tracker.finish("finished")
    assert client_of(storage).get_run(run_id).info.status == "FINISHED"


def test_a_deleted_experiment_is_refused_and_its_deleted_runs_stay_deleted(storage, tracked):
    run_id = open_tracker(storage).start(tracked)
    client = client_of(storage)
    client.delete_run(run_id)
    experiment = client.get_experiment_by_name(tracked.experiment)
    client.delete_experiment(experiment.experiment_id)
    with pytest.raises(RequirementError, match=rf"was deleted in MLflow.* restore -x {experiment.experiment_id}"):
        open_tracker(storage).start(tracked)
    assert client.get_run(run_id).info.lifecycle_stage == "deleted"
    client.restore_experiment(experiment.experiment_id)
    assert open_tracker(storage).start(tracked) == run_id


def test_a_run_is_looked_up_by_its_id(storage, tracked):
    run_id = open_tracker(storage).start(tracked)
    assert open_tracker(storage).find_run(run_id) == "present"
    client_of(storage).delete_run(run_id)
    assert open_tracker(storage).find_run(run_id) == "deleted"
    assert open_tracker(storage).find_run("0" * 32) == "missing"


def test_link_names_the_run_and_the_command(storage, tracked, monkeypatch):
    tracker = open_tracker(storage)
    run_id = tracker.start(tracked)
    assert tracker.link().startswith("http://127.0.0.1:5000/#/experiments/")
    assert tracker.link().endswith(
        f"/runs/{run_id}?workflowType=machine_learning while `runner ui SPEC` serves sqlite:///{storage}/mlflow.db"
    )
    (storage.parent / "runs").symlink_to(storage)
    monkeypatch.chdir(storage.parent)
    assert "`runner ui`" in tracker.link()


@pytest.mark.parametrize("trouble", ["no database", "folder"])
def test_an_unusable_database_is_refused_at_once_in_one_line(tmp_path, trouble, capfd):
    file = tmp_path / "other.db"
    if trouble == "folder":
        file.mkdir()
    else:
        file.write_bytes(b"something else entirely" * 100)
    started = time.monotonic()
    with pytest.raises(RequirementError) as caught:
        open_tracker(tmp_path, uri=f"sqlite:///{file}")
    assert time.monotonic() - started < 60, "MLflow's own retries last longer"
    assert str(file) in str(caught.value) and "tracker.uri" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_the_error_for_an_unreachable_server_has_no_password(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RequirementError) as caught:
        open_tracker(tmp_path, uri="http://ann:secret@127.0.0.1:9")
    assert "127.0.0.1" in str(caught.value) and "\n" not in str(caught.value)
    assert "ann:secret" not in str(caught.value)


def test_opening_a_new_store_prints_nothing(tmp_path):
    code = (
        "import sys; from pathlib import Path; from plugins.tracker.mlflow import MlflowTracker;"
        "from plugins.tracker.mlflow_options import MlflowOptions;"
        "MlflowTracker(MlflowOptions(), Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "runs")], capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""
    assert {entry.name for entry in tmp_path.iterdir()} == {"runs"}


def test_other_loggers_keep_their_levels(storage):
    assert logging.getLogger().level == logging.WARNING
    assert logging.getLogger("sqlalchemy.pool").level == logging.NOTSET


@pytest.mark.parametrize("uri", ["file:///tmp/x", "./mlruns", "mlflow.db", "ftp://host/x", ""])
def test_an_unsupported_uri_is_refused(uri):
    with pytest.raises(ValidationError, match=r"sqlite:///runs/mlflow\.db"):
        MlflowOptions(uri=uri)


@pytest.mark.parametrize("uri", ["http://[::1:5000", "postgresql://me:a[b@host/db"])
def test_an_address_that_cannot_be_read_is_refused(uri):
    with pytest.raises(ValidationError, match=r"is not an address: Invalid IPv6 URL; in a user or password, write \["):
        MlflowOptions(uri=uri)


@pytest.mark.parametrize("uri", ["ftp://me:secret@host/db", "http://me:secret@[::1"])
def test_the_error_of_an_address_does_not_show_its_password(uri):
    with pytest.raises(ValidationError) as raised:
        MlflowOptions(uri=uri)
    assert "secret" not in raised.value.errors()[0]["msg"]


def test_relative_database_is_beside_the_spec(tmp_path):
    assert MlflowOptions(uri=LocatedStr("sqlite:///a/m.db", tmp_path)).uri == f"sqlite:///{tmp_path}/a/m.db"
    assert MlflowOptions(uri="sqlite:///m.db").uri == f"sqlite:///{Path.cwd()}/m.db"
    assert MlflowOptions(uri="http://host:5000").uri == "http://host:5000"


def test_serve_command_names_store_and_port(storage, monkeypatch):
    tracker = open_tracker(storage)
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "true")
    command = tracker.serve_command("127.0.0.1", 5123)
    assert command[:4] == (sys.executable, "-m", "mlflow", "server"), "MLFLOW_DISABLE_TELEMETRY is inherited"
    assert f"sqlite:///{storage}/mlflow.db" in command and "5123" in command


def test_pages_are_served_without_job_processes_unless_enabled(storage, monkeypatch):
    monkeypatch.delenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", raising=False)
    command = open_tracker(storage).serve_command("127.0.0.1", 5123)
    assert command[:3] == ("/usr/bin/env", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false", sys.executable)


@pytest.mark.slow
def test_a_served_store_shows_the_run_and_accepts_another_over_http(storage, tracked, tmp_path, unused_port):
    tracker = open_tracker(storage)
    run_id = tracker.start(tracked)
    tracker.finish("finished")
    command = tracker.serve_command("127.0.0.1", unused_port)
    address = f"http://127.0.0.1:{unused_port}"
    server = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"{address}/health")
        query = f"{address}/get-artifact?path=spec.yaml&run_uuid={run_id}"
        assert urllib.request.urlopen(query).read() == b"name: demo\n"
        remote = open_tracker(tmp_path, uri=address)
        assert remote.start(tracked) == run_id
        remote.log_events([metrics(1, loss=1.0)])
        remote.finish("finished")
        remote.finish("finished")
        assert remote.link() == (
            f"{address}/#/experiments/{remote._run.info.experiment_id}/runs/{run_id}?workflowType=machine_learning"
        )
        assert history(storage, run_id, "loss") == [(1, 1.0)]
        with pytest.raises(RequirementError, match="open http"):
            remote.serve_command("127.0.0.1", 1)
    finally:
        server.terminate()
        server.wait(600)


@pytest.fixture
def unused_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(address, seconds=180):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(address)
            return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"{address} did not answer in {seconds} s")


def test_trials_nest_under_the_run_of_their_sweep_and_move_to_a_later_one(storage, tracked):
    parents = []
    for name in ("sweep-1", "sweep-2"):
        sweep = replace(tracked, trial=name, fingerprint=name)
        parents.append(open_tracker(storage).start(sweep))
        changed = replace(tracked, parent=parents[-1], tags={"group": "point-1", "seed": "7"})
        run_id = open_tracker(storage).start(changed)
        tags = client_of(storage).get_run(run_id).data.tags
        assert tags["mlflow.parentRunId"] == parents[-1]
        assert (tags["mmre.group"], tags["mmre.seed"]) == ("point-1", "7")
    assert len({run_id, *parents}) == 3


def test_objective_values_of_a_sweep_are_logged_once_in_any_order(storage, tracked):
    tracker = open_tracker(storage)
    run_id = tracker.start(tracked)
    events = [metrics(2, 1, objective=0.3), metrics(0, 2, objective=0.1)]
    tracker.log_events(events)
    again = open_tracker(storage)
    again.start(tracked)
    again.log_events([*events, metrics(1, 3, objective=0.2)])
    assert sorted(history(storage, run_id, "objective")) == [(0, 0.1), (1, 0.2), (2, 0.3)]


def test_a_pruned_trial_is_finished_with_a_tag(storage, tracked):
    tracker = open_tracker(storage)
    run_id = tracker.start(tracked)
    tracker.finish("pruned")
    run = client_of(storage).get_run(run_id)
    assert (run.info.status, run.data.tags["mmre.status"]) == ("FINISHED", "pruned")
    assert "model" not in {entry.path for entry in client_of(storage).list_artifacts(run_id)}


def test_a_spec_run_in_two_folders_is_two_runs_and_a_moved_folder_keeps_its_run(storage, tracked, tmp_path):
    first = open_tracker(storage).start(tracked)
    elsewhere = replace(tracked, run_dir=tmp_path)
    second = open_tracker(storage).start(elsewhere)
    assert second != first
    moved = replace(tracked, run_dir=tmp_path / "moved", existing_run_id=first)
    assert open_tracker(storage).start(moved) == first


def test_a_run_that_was_created_twice_is_reduced_to_one(storage, tracked):
    tracker = open_tracker(storage)
    run_id = tracker.start(tracked)
    double = tracker._create(client_of(storage).get_run(run_id).info.experiment_id).info.run_id
    assert open_tracker(storage).start(tracked) == run_id
    assert client_of(storage).get_run(double).info.lifecycle_stage == "deleted"


def test_tags_and_description_of_a_run(storage, tracked):
    (tracked.run_dir / "record.json").write_text('{"workspace": {"commit": "c0ffee", "branch": "work"}}')
    changed = replace(tracked, tags={"seed": "3", "arm": "alone", "trial": "0"}, non_default={"trainer.precision"})
    client = client_of(storage)
    run_id = open_tracker(storage).start(changed)
    tags = client.get_run(run_id).data.tags
    for name, value in (("seed", "3"), ("arm", "alone"), ("trial", "0"), ("status", "running")):
        assert tags[f"mmre.{name}"] == value
    assert (tags["mlflow.source.git.commit"], tags["mlflow.source.git.branch"]) == ("c0ffee", "work")
    assert "| `trainer.precision` | `fp32` |" in tags["mlflow.note.content"]
    client.set_tag(run_id, "mlflow.note.content", "my own words")
    open_tracker(storage).start(changed)
    assert client.get_run(run_id).data.tags["mlflow.note.content"] == "my own words"


def test_mistakes_are_a_table_with_images_that_is_uploaded_once(storage, tracked):
    (tracked.run_dir / "mistakes").mkdir()
    (tracked.run_dir / "mistakes" / "1.jpg").write_bytes(b"picture")
    row = {"id": "1", "pictures": "mistakes/1.jpg", "text": "a tweet", "output": "é"}
    (tracked.run_dir / "mistakes.jsonl").write_text(json.dumps(row) + "\n")
    tracker = open_tracker(storage)
    run_id = tracker.start(tracked)
    tracker.finish("finished")
    tracker.finish("finished")
    client = client_of(storage)
    assert [entry.path for entry in client.list_artifacts(run_id, "mistakes")] == ["mistakes/1.jpg"]
    cell = {"type": "image", "filepath": "mistakes/1.jpg", "compressed_filepath": "mistakes/1.jpg"}
    table = json.loads(Path(client.download_artifacts(run_id, "mistakes.json")).read_text())
    assert table == {"columns": ["pictures", "id", "text", "output"], "data": [[cell, "1", "a tweet", "é"]]}
    listed = json.loads(client.get_run(run_id).data.tags["mlflow.loggedArtifacts"])
    assert listed == [{"path": f"{name}.json", "type": "table"} for name in ("mistakes", "predictions")]


def test_files_are_attached_and_fetched(storage, tracked, tmp_path):
    tracker = open_tracker(storage)
    run_id = tracker.start(tracked)
    tracker.finish("finished")
    page = tmp_path / "page.html"
    page.write_text("<p>")
    open_tracker(storage).log_file(run_id, page, "comparisons")
    attached = client_of(storage).list_artifacts(run_id, "comparisons")
    assert [entry.path for entry in attached] == ["comparisons/page.html"]
    [folder] = open_tracker(storage).download_runs(tracked.experiment, tmp_path / "here")
    assert folder == tmp_path / "here" / "trial-01234567"
    for name in ("predictions.jsonl", "scores.jsonl", "plan.json"):
        assert (folder / name).read_bytes() == (tracked.run_dir / name).read_bytes()
    with pytest.raises(RequirementError, match="no experiment 'other'"):
        tracker.download_runs("other", tmp_path)


@pytest.mark.parametrize("status", [401, 403, 500, 503])
def test_the_error_for_a_refusing_server_is_one_line_without_password(tmp_path, monkeypatch, status):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(status)

        do_POST = do_GET

        def log_message(self, *arguments): ...

    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(RequirementError, match=str(status)) as caught:
            open_tracker(tmp_path, uri=f"http://ann:s3cret@127.0.0.1:{server.server_port}")
        server.shutdown()
    assert "\n" not in str(caught.value) and "s3cret" not in str(caught.value)


def test_the_end_time_of_a_run_is_that_of_its_last_event(storage, tracked):
    tracker = open_tracker(storage)
    run_id = tracker.start(tracked)
    lines = [json.dumps(metrics(1, 1, loss=1.0)), json.dumps(metrics(2, 2, loss=1.0)), '{"torn']
    (tracked.run_dir / "events.jsonl").write_text("\n".join(lines))
    tracker.finish("interrupted")
    assert client_of(storage).get_run(run_id).info.end_time == 1795428002500


@pytest.fixture
def sweep(storage, tracked):
    """A sweep with two points of two trials each, in folders next to its own."""
    folder = storage / tracked.experiment / "sweep"
    folder.mkdir()
    write_sweep(folder, {"low": [0.2, 0.4], "high": [0.6, 0.8]})
    return replace(tracked, trial="sweep-01234567", fingerprint="sweep", run_dir=folder)


def write_sweep(folder, points, mode="max", **changed):
    """`sweep.json` of trials with these values of the objective, and the metrics of each."""
    trials = []
    for group, values in points.items():
        for seed, value in enumerate(values, start=1):
            name = f"{group}-{seed}"
            state = {"status": "finished", "objective": value, **changed.get(name, {})}
            parameters = {"optimizer.lr": group, "seed": seed}
            trials.append({"number": len(trials), "name": name, "group": group, "parameters": parameters, **state})
            (folder.parent / name).mkdir(exist_ok=True)
            metrics = {"published/ner_f1": 0.0, "ner_f1": value / 2, "bleu": None, "rouge1": seed / 4}
            (folder.parent / name / "metrics.json").write_text(json.dumps(metrics))
    objective = {"metric": "validation/ner_f1", "mode": mode}
    (folder / "sweep.json").write_text(json.dumps({"objective": objective, "trials": trials}))


def best_tags(storage, run_id):
    tags = client_of(storage).get_run(run_id).data.tags
    return {name: value for name, value in tags.items() if name.startswith("mmre.best")}


def test_row_of_a_sweep_shows_parameters_and_the_metrics_of_its_best_point(storage, sweep):
    tracker = open_tracker(storage)
    run_id = tracker.start(sweep)
    tracker.finish("finished")
    data = client_of(storage).get_run(run_id).data
    assert data.params["trainer.precision"] == "fp32"
    expected = {"ner_f1": 0.35, "rouge1": 0.375, "published/ner_f1": 0, "validation/ner_f1": 0.7}
    assert data.metrics == pytest.approx(expected)
    assert best_tags(storage, run_id) == {"mmre.best": "high-1, high-2", "mmre.best.optimizer.lr": "high"}


def test_row_of_a_sweep_follows_a_better_point_and_its_direction(storage, sweep):
    tracker = open_tracker(storage)
    run_id = tracker.start(sweep)
    tracker.finish("interrupted")
    write_sweep(sweep.run_dir, {"low": [0.2, 0.4], "high": [0.6, 0.8]}, mode="min")
    later = open_tracker(storage)
    later.start(sweep)
    later.finish("finished")
    later.finish("finished")
    assert [value for _, value in history(storage, run_id, "validation/ner_f1")] == pytest.approx([0.7, 0.3])
    assert client_of(storage).get_run(run_id).data.metrics["ner_f1"] == pytest.approx(0.15)
    assert best_tags(storage, run_id) == {"mmre.best": "low-1, low-2", "mmre.best.optimizer.lr": "low"}


def test_a_point_with_a_trial_that_has_no_value_is_not_the_best(storage, sweep):
    unfinished = {"status": "failed", "objective": None}
    write_sweep(sweep.run_dir, {"low": [0.2, 0.4], "high": [0.6, 0.8]}, **{"high-2": unfinished})
    tracker = open_tracker(storage)
    run_id = tracker.start(sweep)
    tracker.finish("failed")
    assert best_tags(storage, run_id)["mmre.best"] == "low-1, low-2"


def test_damaged_metrics_of_a_trial_do_not_keep_the_sweep_from_being_uploaded(storage, sweep):
    (sweep.run_dir.parent / "high-2" / "metrics.json").write_text("")
    tracker = open_tracker(storage)
    run_id = tracker.start(sweep)
    tracker.finish("finished")
    assert client_of(storage).get_run(run_id).data.metrics == pytest.approx({"validation/ner_f1": 0.7})


def test_a_sweep_without_an_objective_has_no_best_point(storage, sweep):
    content = json.loads((sweep.run_dir / "sweep.json").read_text())
    (sweep.run_dir / "sweep.json").write_text(json.dumps(content | {"objective": None}))
    tracker = open_tracker(storage)
    run_id = tracker.start(sweep)
    tracker.finish("finished")
    assert client_of(storage).get_run(run_id).data.metrics == {} == best_tags(storage, run_id)


def test_trials_of_a_sweep_are_named_by_arm_and_seed(storage, tracked):
    def name(**tags):
        run_id = open_tracker(storage).start(replace(tracked, tags=tags))
        return run_id, client_of(storage).get_run(run_id).info.run_name

    run_id, alone = name(seed="1")
    assert alone == "trial-01234567"
    assert name(seed="1", group="baseline", arm="baseline", trial="0") == (run_id, "baseline, seed 1")
    assert name(seed="1", group="point-2", trial="3") == (run_id, "point-2, seed 1")
    client_of(storage).update_run(run_id, name="my favourite")
    assert name(seed="1", group="point-3", trial="3") == (run_id, "my favourite")


def test_main_metrics_come_before_those_of_the_other_parse_mode():
    event = metrics(None, 9, **{"published/ner_f1": 0.25, "ner_f1": 0.5, "published/bleu": 0.1, "bleu": 0.2})
    names = [metric.key for metric in LoggedMetrics().select_new([event])]
    assert names == ["ner_f1", "bleu", "published/ner_f1", "published/bleu"]


def test_a_copied_database_whose_artifacts_lie_on_another_machine_gets_nothing(tmp_path, tracked):
    runs = tmp_path / "copied"
    open_tracker(runs)
    client_of(runs).create_experiment(tracked.experiment, artifact_location="s3://stranger/artifacts")
    with pytest.raises(RequirementError, match="sends artifacts to s3://stranger"):
        open_tracker(runs).start(tracked)
    [run] = client_of(runs).search_runs([client_of(runs).get_experiment_by_name(tracked.experiment).experiment_id])
    with pytest.raises(RequirementError, match="sends artifacts to s3://stranger"):
        open_tracker(runs).log_file(run.info.run_id, tmp_path / "page.html", "")


@pytest.mark.parametrize("place", ["another folder", "a link to a folder", "a link to a file"])
def test_artifacts_of_a_copied_database_are_written_nowhere_else(tmp_path, tracked, place):
    runs, private = tmp_path / "copied", tmp_path / "private"
    private.mkdir()
    (private / "spec.yaml").write_text("private")
    open_tracker(runs)
    folder = private if place == "another folder" else runs / "mlartifacts" / tracked.experiment
    folder.parent.mkdir(parents=True, exist_ok=True)
    location = folder.as_uri()
    experiment = client_of(runs).create_experiment(tracked.experiment, artifact_location=location)
    if place == "a link to a folder":
        folder.symlink_to(private)
    run_id = open_tracker(runs)._client.create_run(experiment).info.run_id
    if place == "a link to a file":
        folder = folder / run_id / "artifacts"
        folder.mkdir(parents=True)
        (folder / "page.html").symlink_to(private / "spec.yaml")
    (tmp_path / "page.html").write_text("page")
    with pytest.raises(RequirementError, match=r"sends artifacts to file:|is a link"):
        open_tracker(runs).log_file(run_id, tmp_path / "page.html", "")
    assert [path.name for path in private.rglob("*")] == ["spec.yaml"]
    assert (private / "spec.yaml").read_text() == "private"


@pytest.mark.parametrize("folder", ["/", "/some/.."])
def test_a_run_whose_folder_has_no_name_is_not_downloaded(storage, tracked, tmp_path, folder):
    tracker = open_tracker(storage)
    run_id = tracker.start(tracked)
    tracker.finish("finished")
    client_of(storage).set_tag(run_id, "mmre.run_dir", folder)
    with pytest.raises(RequirementError, match=f"{run_id}: its tag mmre.run_dir names no folder"):
        tracker.download_runs(tracked.experiment, tmp_path / "here")
    client_of(storage).set_tag(run_id, "mmre.run_dir", str(tracked.run_dir))


@pytest.mark.parametrize("name", ["predictions.jsonl", "mistakes.jsonl", "model", "model/notes.txt", "mistakes"])
def test_links_in_the_folder_of_a_run_are_not_uploaded(storage, tracked, tmp_path, name):
    private = tmp_path / "private"
    private.mkdir()
    (private / "notes.txt").write_text("private")
    link = tracked.run_dir / name
    (tracked.run_dir / "model").mkdir(exist_ok=True)
    if link.is_dir():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.symlink_to(private / "notes.txt" if "." in name else private)
    tracker = open_tracker(storage)
    tracker.start(tracked)
    with pytest.raises(RequirementError, match=re.escape(f"{link}: is a link")):
        tracker.finish("finished")
    uploaded = (storage / "mlartifacts" / tracked.experiment).rglob("*")
    assert b"private" not in {path.read_bytes() for path in uploaded if path.is_file()}
