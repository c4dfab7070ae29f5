"""A server that is down during a training, and two sweeps in one database: everything is logged once."""

import hashlib
import json
import time
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from servers import Server

pytestmark = pytest.mark.slow

SHORT = ("--local", "--set", "trainer.epochs=1", "--set", "compute.usage_interval=1")
VARYING = {"train/tokens_per_second", "train/memory_gb"}
"""Metrics of the machine, which differ between trainings."""
GROWN = {"events.jsonl", "record.json", "plan.json"}
"""Files that contain times and paths."""
SWEEP = """\
extends: emoji.yaml
name: {name}
trainer: {{type: sft, epochs: 1, global_batch_size: 2, precision: fp32}}
sweep: {{seeds: [1, 2]}}
"""


@pytest.fixture
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


def trial_of(workplace, experiment="emoji"):
    [folder] = (workplace.folder / "runs" / experiment).glob("trial-*")
    return folder


def told_by(folder):
    """Return name and step of each metric in a run's log; results have step 0."""
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    prefixes = {"metrics": "", "system": "system/"}
    values = {
        (prefixes[event["kind"]] + name, event["step"] or 0)
        for event in events
        if event["kind"] in prefixes
        for name, value in event["values"].items()
        if value is not None
    }
    return sorted(values)


def histories(client, run):
    return {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}


def artifacts(client, run_id, into, folder=None):
    """Yield the files of a run with their hashes, duplicates included."""
    for entry in client.list_artifacts(run_id, folder):
        if entry.is_dir:
            yield from artifacts(client, run_id, into, entry.path)
        else:
            content = Path(client.download_artifacts(run_id, entry.path, str(into))).read_bytes()
            yield entry.path, hashlib.sha256(content).hexdigest() if entry.path not in GROWN else ""


def all_of(client, folder, into):
    """Return a run's content in the tracker without values that differ between runs; check that none is duplicated."""
    run = client.get_run(json.loads((folder / "tracker.json").read_text())["run_id"])
    kept = histories(client, run)
    assert sorted((key, metric.step) for key, values in kept.items() for metric in values) == told_by(folder)
    for values in kept.values():
        assert [metric.step for metric in values] == sorted(metric.step for metric in values), "in order"
    into.mkdir()
    return {
        "status": (run.info.status, run.data.tags["mmre.status"]),
        "params": {key: value for key, value in run.data.params.items() if key != "data.path"},
        "metrics": {
            key: [(metric.step, metric.value) for metric in values]
            for key, values in kept.items()
            if key not in VARYING and not key.startswith("system/")
        },
        # Somebody may edit this project while its tests run.
        "artifacts": sorted(each for each in artifacts(client, run.info.run_id, into) if each[0] != "code.diff"),
        "inputs": sorted((each.dataset.name, each.dataset.digest) for each in run.inputs.dataset_inputs),
    }


def launch_while_the_server_is_dead(workplace, server):
    started = workplace.start("launch", "emoji.yaml", *SHORT, "--set", f"tracker.uri={server.uri}", "--json")
    while not list(workplace.folder.glob("runs/emoji/*/tracker.json")):
        assert started.poll() is None, started.communicate()
        time.sleep(0.02)
    server.kill()
    output, errors = started.communicate(timeout=1800)
    assert started.returncode == 0, errors
    assert "runner sync" in errors and "Traceback" not in errors
    return json.loads(output)


def test_a_server_that_was_down_during_a_training_gets_everything_later(server, emoji_at, tmp_path):
    there = ("launch", "emoji.yaml", *SHORT, "--set", f"tracker.uri={server.uri}")
    places = {name: tmp_path / name for name in ("undisturbed", "synced", "relaunched")}
    for folder in places.values():
        folder.mkdir()
    undisturbed, synced, relaunched = map(emoji_at, places.values())
    done = undisturbed.run(*there)
    assert done.returncode == 0, done.stderr
    client = MlflowClient(tracking_uri=server.uri)
    right = all_of(client, trial_of(undisturbed), tmp_path / "right")
    assert right["status"] == ("FINISHED", "finished")

    launch_while_the_server_is_dead(synced, server)
    refused = synced.run("sync")
    assert refused.returncode == 1 and "--to SPEC" in refused.stdout
    own = synced.folder / "own.yaml"
    own.write_text(f"extends: emoji.yaml\ntracker: {{type: mlflow, uri: '{server.uri}'}}\n")
    gone = synced.run("sync", "--to", own)
    assert gone.returncode == 1 and "Traceback" not in gone.stderr and server.uri in gone.stdout
    server.start()
    done = synced.run("sync", "--to", own, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    [told] = json.loads(done.stdout)["runs"]
    assert told["delivered"] and told["events"] > 10
    assert all_of(client, trial_of(synced), tmp_path / "one") == right
    again = json.loads(synced.run("sync", "--to", own, "--json").stdout)
    assert (again["delivered"], again["lacking"]) == (0, 0)

    launch_while_the_server_is_dead(relaunched, server)
    server.start()
    done = relaunched.run(*there)
    assert done.returncode == 0 and "already finished" in done.stderr
    assert all_of(client, trial_of(relaunched), tmp_path / "two") == right

    found = client.search_runs([client.get_experiment_by_name("emoji").experiment_id])
    assert len(found) == 3, "one spec, run in three places: three runs, and none of them twice"


def test_the_run_of_a_killed_driver_is_marked_by_sync_and_finished_by_the_next_launch(emoji, tmp_path):
    slow = ("launch", "emoji.yaml", "--local", "--set", "trainer.epochs=40")
    started = emoji.start(*slow)
    while not any("train/loss" in file.read_text() for file in emoji.folder.glob("runs/emoji/*/events.jsonl")):
        assert started.poll() is None, started.communicate()
        time.sleep(0.05)
    beside = emoji.run("sync")
    assert beside.returncode == 1 and "a launch is running" in beside.stdout
    started.kill()
    started.communicate()
    client = MlflowClient(tracking_uri=f"sqlite:///{emoji.folder}/runs/mlflow.db")
    state = json.loads((trial_of(emoji) / "tracker.json").read_text())
    assert client.get_run(state["run_id"]).info.status == "RUNNING"
    assert emoji.run("sync").returncode == 0
    assert client.get_run(state["run_id"]).info.status == "KILLED"
    done = emoji.run(*slow)
    assert done.returncode == 0, done.stderr
    run = client.get_run(state["run_id"])
    assert run.info.status == "FINISHED"
    steps = [metric.step for metric in client.get_metric_history(state["run_id"], "train/loss")]
    assert steps == sorted(set(steps)) and steps[-1] > 40
    assert len(client.search_runs([run.info.experiment_id])) == 1


def test_two_concurrent_sweeps_in_one_database_lose_and_duplicate_nothing(emoji_at, tmp_path):
    store = ("--set", f"tracker.uri=sqlite:///{tmp_path}/shared/mlflow.db")
    places = []
    for name in ("left", "right"):
        (tmp_path / name).mkdir()
        workplace = emoji_at(tmp_path / name)
        (workplace.folder / "sweep.yaml").write_text(SWEEP.format(name=name))
        places.append((name, workplace))
    running = [place.start("launch", "sweep.yaml", "--local", "--json", *store) for _, place in places]
    for each in running:
        _, errors = each.communicate(timeout=1800)
        assert each.returncode == 0, errors
        assert "tracker" not in errors, errors
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/shared/mlflow.db")
    for name, place in places:
        runs = client.search_runs([client.get_experiment_by_name(name).experiment_id])
        [sweep] = [run for run in runs if "mmre.trial" not in run.data.tags]
        trials = [run for run in runs if run is not sweep]
        assert sorted(run.data.tags["mmre.seed"] for run in trials) == ["1", "2"]
        assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {sweep.info.run_id}
        assert {run.info.status for run in runs} == {"FINISHED"}
        for folder in (place.folder / "runs" / name).glob("trial-*"):
            run = client.get_run(json.loads((folder / "tracker.json").read_text())["run_id"])
            kept = histories(client, run)
            assert sorted((key, each.step) for key, values in kept.items() for each in values) == told_by(folder)
            names = [path for path, _ in artifacts(client, run.info.run_id, place.folder)]
            assert len(names) == len(set(names)) and "predictions.json" in names


def test_a_password_in_the_address_is_used_but_stored_nowhere(server, emoji):
    uri = server.uri.replace("://", "://ann:s3cret-word@")
    spec = emoji.folder / "emoji.yaml"
    spec.write_text(spec.read_text().replace("{type: mlflow}", f'{{type: mlflow, uri: "{uri}"}}'))
    done = emoji.run("launch", "emoji.yaml", *SHORT)
    assert done.returncode == 0, done.stderr
    assert "s3cret" not in done.stdout + done.stderr
    places = [emoji.folder / "runs", server.folder]
    files = [file for place in places for file in place.rglob("*") if file.is_file()]
    assert {"plan.json", "spec.yaml", "record.json", "tracker.json", "server.db"} <= {file.name for file in files}
    assert not [file for file in files if b"s3cret" in file.read_bytes()]
    again = emoji.run("launch", trial_of(emoji) / "plan.json")
    assert again.returncode == 0 and "already finished" in again.stderr


def test_the_doctor_names_the_version_of_a_server(server, emoji):
    done = emoji.run("doctor", "emoji.yaml", "--set", f"tracker.uri={server.uri}", "--json")
    [store] = [each for each in json.loads(done.stdout)["findings"] if each["topic"] == "tracker"]
    assert (store["level"], store["text"]) == (
        "ok",
        f"{server.uri}, MLflow {mlflow.__version__}; MLflow {mlflow.__version__} here",
    )
