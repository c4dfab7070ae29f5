"""The training step: errors of the plugins for later steps appear before the training."""

import gzip
import json

import pytest

from runner.errors import DivergedError, RequirementError
from runner.files import read_jsonl
from runner.trial.run_directory_and_events import RunDirectory


def test_an_unavailable_generator_fails_the_trial_before_the_training(trial, monkeypatch):
    monkeypatch.chdir(trial.folder)
    with pytest.raises(RequirementError, match=r"no-such-python .* cannot be run"):
        trial(
            "unmet",
            "trainer.eval_generate_steps=null",
            "generator={type: vllm, python: no-such-python, version: 0.30.0}",
            "compute.gpus_per_worker=1",
        )
    run = RunDirectory(trial.folder / "runs" / "shared" / "unmet")
    assert run.read_record()["steps"]["train"]["status"] == "failed"
    assert not any(event["kind"] in {"parameters", "metrics"} for event in read_jsonl(run.events))


def test_a_training_that_diverges_is_recorded_as_such(trial, monkeypatch):
    monkeypatch.chdir(trial.folder)
    with pytest.raises(DivergedError, match="the loss is"):
        trial("diverged", "optimizer.groups.all.lr=1.0e+30", "trainer.global_batch_size=2")
    run = RunDirectory(trial.folder / "runs" / "shared" / "diverged")
    assert run.read_record()["steps"]["train"]["diverged"] is True
    assert "the loss is" in run.divergence()


def test_the_profile_of_some_steps_is_an_artifact_and_changes_no_weight(trial, monkeypatch):
    monkeypatch.chdir(trial.folder)
    options = ("trainer.eval_generate_steps=null", "trainer.epochs=3")
    plain = trial("plain", *options)
    profiled = RunDirectory(plain.path.with_name("profiled"))
    profiled.path.mkdir()
    profiled.no_cache_marker.touch()  # `runner launch --rerun train`, as the training is in the cache
    trial("profiled", *options, "trainer.profile_steps=2")
    trace = json.loads(gzip.decompress((profiled.profile / "trace.json.gz").read_bytes()))
    names = {event.get("name", "") for event in trace["traceEvents"]}
    assert {name for name in names if name.startswith("ProfilerStep")} == {"ProfilerStep#2", "ProfilerStep#3"}
    assert any(name.startswith("Optimizer.step") for name in names)
    artifacts = [event["path"] for event in read_jsonl(profiled.events) if event.get("name") == "profile"]
    assert artifacts == [str(profiled.profile)]
    assert not plain.profile.exists()
    assert profiled.read_record()["fingerprint"] == plain.read_record()["fingerprint"]
    weights = [(run.model / "model.safetensors").read_bytes() for run in (plain, profiled)]
    assert weights[0] == weights[1]
