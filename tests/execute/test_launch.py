"""Launching as a user does: on Ray, again, edited, from the plan."""

import json
from pathlib import Path

import pytest
from transformers import AutoModelForImageTextToText


def launch(workplace, *arguments):
    done = workplace.run("launch", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    [trial] = told["trials"]
    return told, trial, done


def run_dir(workplace):
    [folder] = (workplace.folder / "runs" / "emoji").iterdir()
    return folder


def test_a_launch_on_ray_writes_all_files_of_the_contract(emoji):
    """Also in a folder with packages whose names are those of the runner's own packages."""
    for package in ("plugins", "runner"):
        (emoji.folder / package).mkdir()
        (emoji.folder / package / "__init__.py").write_text("raise ImportError('the wrong package')")
    told, trial, done = launch(emoji, "emoji.yaml")
    folder = run_dir(emoji)
    assert trial["run_dir"] == str(folder)
    assert trial["name"].endswith(told["fingerprint"][:8])
    for name in (
        "plan.json",
        "record.json",
        "predictions.jsonl",
        "scores.jsonl",
        "metrics.json",
        "events.jsonl",
    ):
        assert (folder / name).stat().st_size > 0, name
    assert trial["metrics"] == json.loads((folder / "metrics.json").read_text())
    record = json.loads((folder / "record.json").read_text())
    assert record["status"] == "finished"
    assert set(record["steps"]) == {"train", "generate", "score"}
    assert "Traceback" not in done.stderr

    again, same, done = launch(emoji, "emoji.yaml")
    assert "already finished" in done.stderr
    assert (again["fingerprint"], same) == (told["fingerprint"], trial)

    # The plan repeats the run: same fingerprint, so the same finished trial; in another folder, the same numbers.
    from_plan, _, done = launch(emoji, folder / "plan.json")
    assert "already finished" in done.stderr
    assert from_plan["fingerprint"] == told["fingerprint"]
    _, elsewhere, _ = launch(emoji, folder / "plan.json", "--set", "compute.storage=other", "--local")
    assert elsewhere["metrics"] == trial["metrics"]


def test_a_group_that_matches_nothing_is_an_error_with_its_line(emoji):
    spec = emoji.folder / "emoji.yaml"
    spec.write_text(spec.read_text().replace('"*visual*"', '"*vision*"'))
    done = emoji.run("launch", "emoji.yaml", "--local")
    assert done.returncode == 2
    assert "emoji.yaml:6:" in done.stderr
    assert "optimizer.groups.vision.match" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_tracker_that_cannot_be_opened_stops_the_launch(emoji):
    done = emoji.run("launch", "emoji.yaml", "--local", "--set", "tracker.uri=sqlite:////proc/nowhere/mlflow.db")
    assert done.returncode == 2
    assert "tracker.uri" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_missing_gpus_are_an_immediate_error_of_one_line(emoji):
    done = emoji.run("launch", "emoji.yaml", "--set", "compute.gpus_per_worker=64")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "--smoke" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_workers_train_the_same_model_as_one(emoji, strategy):
    chosen = ("emoji.yaml", "--set", f"trainer.strategy={strategy}")
    _, alone, _ = launch(emoji, *chosen, "--local", "--set", "compute.storage=alone")
    _, both, done = launch(emoji, *chosen, "--set", "compute.workers=2")
    assert "Traceback" not in done.stderr
    for trial in (alone, both):
        AutoModelForImageTextToText.from_pretrained(Path(trial["run_dir"]) / "model")
    assert both["fingerprint"] == alone["fingerprint"]
    losses = [_last_loss(trial["run_dir"]) for trial in (alone, both)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def _last_loss(run_dir):
    events = [json.loads(line) for line in (Path(run_dir) / "events.jsonl").read_text().splitlines()]
    return [event["values"]["train/loss"] for event in events if event["kind"] == "metrics" and event["step"]][-1]
