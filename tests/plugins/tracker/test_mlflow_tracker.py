import json
import logging
import re
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
from plugins.tracker.mlflow_content import fitted_key, parameters
from plugins.tracker.mlflow_options import MlflowOptions
from runner.errors import RequirementError
from runner.stages import DatasetInfo, LocatedStr, TrackedRun

FINGERPRINT = "0123456789abcdef" * 4
REFERENCE = '{"summary": "r"}'


@pytest.fixture(scope="session")
def storage(tmp_path_factory):
    """The folder of all runs, with one store for all tests: making its tables takes seconds."""
    folder = tmp_path_factory.mktemp("runs")
    MlflowTracker(MlflowOptions(), folder)
    return folder


@pytest.fixture
def tracked(storage, request):
    """A trial of an experiment of its own, with the files that a finished one leaves."""
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


def test_metrics_are_logged_at_their_step_and_time_and_null_ones_are_not(storage, tracked):
    tracker = open_tracker(storage)
    run_id = tracker.start(tracked)
    tracker.deliver(
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


def test_resumed_run_is_the_same_and_gets_each_step_once(storage, tracked):
    tracker = open_tracker(storage)
    run_id = tracker.start(tracked)
    events = [metrics(1, 1, loss=3.0), metrics(2, 2, loss=2.0), metrics(2, 2, loss=2.0), metrics(0, 0, extra=1)]
    tracker.deliver(events)
    tracker.deliver(events)
    tracker.finish("interrupted")
    assert client_of(storage).get_run(run_id).info.status == "KILLED"

    resumed = open_tracker(storage)
    assert resumed.start(tracked) == run_id
    assert client_of(storage).get_run(run_id).info.status == "RUNNING"
    resumed.deliver([metrics(2, 12, loss=2.1), metrics(3, 13, loss=1.0), metrics(None, 14, ner_f1=0.9)])
    resumed.deliver([metrics(3, 13, loss=1.0), metrics(None, 15, ner_f1=0.9), metrics(0, 16, extra=2)])
    resumed.finish("finished")
    assert history(storage, run_id, "loss") == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert history(storage, run_id, "ner_f1") == [(0, 0.9)]
    assert history(storage, run_id, "extra") == [(0, 1.0)]
    assert client_of(storage).get_run(run_id).info.status == "FINISHED"


def test_result_that_changed_is_shown_and_its_repetition_is_not(storage, tracked):
    tracker = open_tracker(storage)
    run_id = tracker.start(tracked)
    events = [metrics(None, 1, ner_f1=0.5), metrics(None, 2, ner_f1=0.6)]
    tracker.deliver(events)
    again = open_tracker(storage)
    again.start(tracked)
    again.deliver(events)
    assert history(storage, run_id, "ner_f1") == [(0, 0.5), (0, 0.6)]
    assert client_of(storage).get_run(run_id).data.metrics == {"ner_f1": 0.6}


def test_many_metrics_and_long_or_odd_parameters_are_no_obstacle(storage, tracked):
    plan = {f"group.{index}": index for index in range(250)} | {"long": "x" * 10_000, "a//*../b?": None}
    tracked = replace(tracked, parameters=plan)
    tracker = open_tracker(storage)
    run_id = tracker.start(tracked)
    tracker.deliver([metrics(step, loss=step / 7, lr=1.0) for step in range(1, 1301)])
    run = client_of(storage).get_run(run_id)
    assert len(run.data.params) == 252
    assert run.data.params["long"] == "x" * 5999 + "…"
    assert [value for key, value in run.data.params.items() if key.startswith("a/_../b_-")] == ["null"]
    assert len(history(storage, run_id, "loss")) == 1300
    open_tracker(storage).start(tracked)


def test_names_fit_what_mlflow_allows():
    assert fitted_key("a.b-c_d:e f/g") == "a.b-c_d:e f/g"
    assert re.fullmatch("a/b-[0-9a-f]{6}", fitted_key("/a/../b//"))
    assert re.fullmatch("_-[0-9a-f]{6}", fitted_key(".."))
    assert len(fitted_key("k" * 400)) == 250 == len(fitted_key("k" * 400 + "l"))
    assert len({fitted_key(name) for name in ("a?", "a*", "a_", "k" * 400, "k" * 401)}) == 5
    assert [(each.key, each.value) for each in parameters({"flag": True, "text": ""})] == [
        ("flag", "true"),
        ("text", ""),
    ]


def test_large_model_is_noted_and_not_copied(storage, tracked):
    tracker = open_tracker(storage, max_artifact_mb=1e-6)
    run_id = tracker.start(tracked)
    tracker.finish("finished")
    client = client_of(storage)
    assert "model" not in {entry.path for entry in client.list_artifacts(run_id)}
    assert client.get_run(run_id).data.tags["mmre.model_uri"] == (tracked.run_dir / "model").as_uri()


def test_failure_of_an_artifact_still_sets_the_status(storage, tracked):
    tracker = open_tracker(storage)
    run_id = tracker.start(tracked)
    (tracked.run_dir / "scores.jsonl").write_text("no JSON\n")
    with pytest.raises(ValueError):
        tracker.finish("finished")
    assert client_of(storage).get_run(run_id).info.status == "FINISHED"


def test_deleted_experiment_comes_back_with_its_run(storage, tracked):
    run_id = open_tracker(storage).start(tracked)
    client = client_of(storage)
    client.delete_experiment(client.get_experiment_by_name(tracked.experiment).experiment_id)
    assert open_tracker(storage).start(tracked) == run_id


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
def test_database_that_cannot_be_used_is_refused_at_once_in_one_line(tmp_path, trouble, capfd):
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


def test_server_that_is_away_is_refused_without_its_password(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RequirementError) as caught:
        open_tracker(tmp_path, uri="http://ann:secret@127.0.0.1:9")
    assert "127.0.0.1" in str(caught.value) and "\n" not in str(caught.value)
    assert "ann:secret" not in str(caught.value)


def test_opening_a_new_store_says_nothing(tmp_path):
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
def test_uri_that_mlflow_does_not_take_is_refused(uri):
    with pytest.raises(ValidationError, match=r"sqlite:///runs/mlflow\.db"):
        MlflowOptions(uri=uri)


def test_relative_database_is_beside_the_spec(tmp_path):
    assert MlflowOptions(uri=LocatedStr("sqlite:///a/m.db", tmp_path)).uri == f"sqlite:///{tmp_path}/a/m.db"
    assert MlflowOptions(uri="sqlite:///m.db").uri == f"sqlite:///{Path.cwd()}/m.db"
    assert MlflowOptions(uri="http://host:5000").uri == "http://host:5000"


def test_serve_command_names_store_and_port(storage, monkeypatch):
    tracker = open_tracker(storage)
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "true")
    command = tracker.serve_command("127.0.0.1", 5123)
    assert command[:4] == (sys.executable, "-m", "mlflow", "server")
    assert f"sqlite:///{storage}/mlflow.db" in command and "5123" in command


def test_pages_are_served_without_the_processes_of_jobs_unless_they_are_asked_for(storage, monkeypatch):
    monkeypatch.delenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", raising=False)
    command = open_tracker(storage).serve_command("127.0.0.1", 5123)
    assert command[:3] == ("/usr/bin/env", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false", sys.executable)


@pytest.mark.slow
def test_served_store_shows_the_run_and_takes_another_over_http(storage, tracked, tmp_path, unused_port):
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
        remote.deliver([metrics(1, loss=1.0)])
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
        told = replace(tracked, parent=parents[-1], tags={"group": "point-1", "seed": "7"})
        run_id = open_tracker(storage).start(told)
        tags = client_of(storage).get_run(run_id).data.tags
        assert tags["mlflow.parentRunId"] == parents[-1]
        assert (tags["mmre.group"], tags["mmre.seed"]) == ("point-1", "7")
    assert len({run_id, *parents}) == 3


def test_values_of_a_sweep_come_in_any_order_of_trials_and_each_once(storage, tracked):
    tracker = open_tracker(storage)
    run_id = tracker.start(tracked)
    events = [metrics(2, 1, objective=0.3), metrics(0, 2, objective=0.1)]
    tracker.deliver(events)
    again = open_tracker(storage)
    again.start(tracked)
    again.deliver([*events, metrics(1, 3, objective=0.2)])
    assert sorted(history(storage, run_id, "objective")) == [(0, 0.1), (1, 0.2), (2, 0.3)]


def test_a_pruned_trial_is_finished_with_a_tag(storage, tracked):
    tracker = open_tracker(storage)
    run_id = tracker.start(tracked)
    tracker.finish("pruned")
    run = client_of(storage).get_run(run_id)
    assert (run.info.status, run.data.tags["mmre.status"]) == ("FINISHED", "pruned")
    assert "model" not in {entry.path for entry in client_of(storage).list_artifacts(run_id)}


def test_one_spec_run_in_two_places_is_two_runs_and_a_folder_that_moved_keeps_its_own(storage, tracked, tmp_path):
    first = open_tracker(storage).start(tracked)
    elsewhere = replace(tracked, run_dir=tmp_path)
    second = open_tracker(storage).start(elsewhere)
    assert second != first
    moved = replace(tracked, run_dir=tmp_path / "moved", known_as=first)
    assert open_tracker(storage).start(moved) == first


def test_a_run_that_was_made_twice_by_a_request_taken_for_lost_is_one(storage, tracked):
    tracker = open_tracker(storage)
    run_id = tracker.start(tracked)
    double = tracker._create(client_of(storage).get_run(run_id).info.experiment_id).info.run_id
    assert open_tracker(storage).start(tracked) == run_id
    assert client_of(storage).get_run(double).info.lifecycle_stage == "deleted"


def test_tags_and_description_say_what_a_run_is(storage, tracked):
    (tracked.run_dir / "record.json").write_text('{"workspace": {"commit": "c0ffee", "branch": "work"}}')
    told = replace(tracked, tags={"seed": "3", "arm": "alone", "trial": "0"}, chosen={"trainer.precision"})
    client = client_of(storage)
    run_id = open_tracker(storage).start(told)
    tags = client.get_run(run_id).data.tags
    for name, value in (("seed", "3"), ("arm", "alone"), ("trial", "0"), ("status", "running")):
        assert tags[f"mmre.{name}"] == value
    assert (tags["mlflow.source.git.commit"], tags["mlflow.source.git.branch"]) == ("c0ffee", "work")
    assert "| `trainer.precision` | fp32 |" in tags["mlflow.note.content"]
    client.set_tag(run_id, "mlflow.note.content", "my own words")
    open_tracker(storage).start(told)
    assert client.get_run(run_id).data.tags["mlflow.note.content"] == "my own words"


def test_mistakes_are_a_table_with_pictures_that_is_sent_once(storage, tracked):
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
    open_tracker(storage).attach(run_id, page, "comparisons")
    attached = client_of(storage).list_artifacts(run_id, "comparisons")
    assert [entry.path for entry in attached] == ["comparisons/page.html"]
    [folder] = open_tracker(storage).fetch(tracked.experiment, tmp_path / "here")
    assert folder == tmp_path / "here" / "trial-01234567"
    for name in ("predictions.jsonl", "scores.jsonl", "plan.json"):
        assert (folder / name).read_bytes() == (tracked.run_dir / name).read_bytes()
    with pytest.raises(RequirementError, match="no experiment 'other'"):
        tracker.fetch("other", tmp_path)


@pytest.mark.parametrize("status", [401, 403, 500, 503])
def test_a_server_that_refuses_is_told_in_a_line_without_the_password(tmp_path, monkeypatch, status):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(status)

        do_POST = do_GET

        def log_message(self, *told): ...

    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(RequirementError, match=str(status)) as caught:
            open_tracker(tmp_path, uri=f"http://ann:s3cret@127.0.0.1:{server.server_port}")
        server.shutdown()
    assert "\n" not in str(caught.value) and "s3cret" not in str(caught.value)


def test_a_run_ends_when_its_log_does(storage, tracked):
    tracker = open_tracker(storage)
    run_id = tracker.start(tracked)
    lines = [json.dumps(metrics(1, 1, loss=1.0)), json.dumps(metrics(2, 2, loss=1.0)), '{"torn']
    (tracked.run_dir / "events.jsonl").write_text("\n".join(lines))
    tracker.finish("interrupted")
    assert client_of(storage).get_run(run_id).info.end_time == 1795428002500
