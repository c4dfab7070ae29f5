"""Reuse of trainings and answers: trials restore what another one published, and wait for what one is producing."""

import json
import shutil
import threading
import time
from contextlib import contextmanager

import pytest

from runner.errors import SpecError, StepError
from runner.files import read_jsonl
from runner.spec.load import load_spec
from runner.stages import StopRequestedError
from runner.trial import restore_from_cache as reuse
from runner.trial import run_trial
from runner.trial.cache_entry import InvalidEntryError
from runner.trial.restore_from_cache import ARTIFACT_SPECS, ArtifactSpec
from runner.trial.run_directory_and_events import EventLog, RunDirectory
from runner.trial.trial_components import TrialContext


@pytest.fixture(scope="module")
def first(trial):
    """A trial that finds an empty cache."""
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(trial.folder)
        return trial("first")


@pytest.fixture(autouse=True)
def _here(trial, monkeypatch):
    monkeypatch.chdir(trial.folder)


def states(run, step):
    return [each["state"] for each in read_jsonl(run.events) if each["kind"] == "state" and each["step"] == step]


def cache_messages(run, state):
    return [each["message"] for each in read_jsonl(run.events) if each["kind"] == "cache" and each["state"] == state]


def metric_values(run):
    """The metrics that were logged during the training, by step and name."""
    events = [each for each in read_jsonl(run.events) if each["kind"] == "metrics" and each["step"] is not None]
    return {(each["step"], name): value for each in events for name, value in each["values"].items()}


def test_other_metrics_reuse_training_and_answers(trial, first):
    other = trial("rescored", "metrics=[{type: ner_f1}, {type: exact_match}]")
    for step in ("train", "generate"):
        assert states(first, step) == ["started", "finished"]
        assert states(other, step) == ["reused"]
        assert other.read_record()["steps"][step]["reused_from"] == "shared/first"
        assert other.read_record()["steps"][step]["cache"] == first.read_record()["steps"][step]["cache"]
    assert [message.split(" (")[0] for message in cache_messages(other, "reused")] == [
        "training reused from shared/first",
        "answers reused from shared/first",
    ]
    assert other.read_metrics()["exact_match"] is not None
    assert {name: other.read_metrics()[name] for name in first.read_metrics()} == first.read_metrics()


def test_restored_files_are_links_to_the_originals(trial, first):
    other = trial("same", "metrics=[{type: exact_match}]")
    assert other.predictions.stat().st_ino == first.predictions.stat().st_ino
    assert other.parameters.read_text() == first.parameters.read_text()
    weights = [run.model / "model.safetensors" for run in (first, other)]
    assert weights[0].stat().st_ino == weights[1].stat().st_ino
    assert other.read_record()["preflight"] == first.read_record()["preflight"]
    assert not list(other.path.glob(".t*"))


def test_training_metrics_are_replayed_without_those_of_removed_metrics(trial, first):
    other = trial("curves", "metrics=[{type: exact_match}]")
    expected = {key: value for key, value in metric_values(first).items() if "ner" not in key[1]}
    assert any(name == "validation/ner_f1" for _, name in metric_values(first))
    assert metric_values(other) == expected
    [warning] = [each["message"] for each in read_jsonl(other.events) if each["kind"] == "warning"]
    assert warning.startswith("exact_match: no validation values")


def test_a_trial_whose_folder_was_removed_gets_its_training_back_with_curves_and_says_so(trial, first):
    expected, kept = metric_values(first), first.path.with_name("kept")
    assert expected
    first.path.rename(kept)
    again = trial("first")
    try:
        assert [states(again, step) for step in ("train", "generate")] == [["reused"], ["reused"]]
        assert again.read_record()["steps"]["train"]["reused_from"] == "shared/first"
        assert metric_values(again) == expected
        assert again.read_metrics() == json.loads((kept / "metrics.json").read_text())
    finally:
        shutil.rmtree(again.path)
        kept.rename(first.path)


def test_other_generator_options_reuse_only_the_training(trial):
    without_validation = "trainer.eval_generate_steps=null"
    trial("one", without_validation)
    other = trial("longer", without_validation, "generator.max_new_tokens=14")
    assert states(other, "train") == ["reused"]
    assert states(other, "generate") == ["started", "finished"]
    # The length of answers is checked even if the training is reused.
    with pytest.raises(SpecError, match="exceeds the remaining context"):
        trial("too-long", without_validation, "generator.max_new_tokens=1000000")


# The following tests need no model: their step writes a file.

this_thread = threading.local()
"""Holds `make`, the function of the step in this thread; each thread runs one trial."""


def run_make(context):
    this_thread.make(context)


def reuse_or_run(context, step, make):
    """Run the step as a trial does, with `make` as its function."""
    this_thread.make = make
    return run_trial.reuse_or_run(context, step)


@pytest.fixture
def context_of(first, tmp_path, monkeypatch):
    """A function that creates trial contexts; their step has the same cache key."""

    def restore(context, folder, producer):
        (folder / "made").rename(context.run.path / "made")

    monkeypatch.setitem(
        ARTIFACT_SPECS,
        "train",
        ArtifactSpec("made", "file", lambda spec: "k", lambda context: {"made": context.run.path / "made"}, restore),
    )
    monkeypatch.setattr(reuse, "LEASE_POLL_SECONDS", 0.02)
    monkeypatch.setitem(run_trial.STEP_FUNCTIONS, "train", run_make)
    spec = TrialContext(load_spec(first.plan).spec, first, EventLog(first.events)).spec

    def context_of(name, storage="runs", cache=None):
        run = RunDirectory(tmp_path / storage / "x" / name)
        run.path.mkdir(parents=True, exist_ok=True)
        run.update_record(id=f"{storage}/{name}")
        compute = spec.compute.model_copy(update={"cache": cache})
        return TrialContext(spec.model_copy(update={"compute": compute}), run, EventLog(run.events))

    return context_of


@contextmanager
def producing(context):
    """A trial in another thread that has started to produce the file, and continues when `go_on` is set."""
    started, go_on = threading.Event(), threading.Event()
    outcome = {}

    def make(context):
        started.set()
        assert go_on.wait(60)
        if outcome.get("fails"):
            raise StepError("loss is nan")
        (context.run.path / "made").write_text("by the first")

    def work():
        try:
            outcome["record"] = reuse_or_run(context, "train", make)
        except StepError as error:
            outcome["error"] = error

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(60)
    try:
        yield go_on, outcome
    finally:
        go_on.set()
        thread.join()


def when_it_waits(run, action):
    def watch():
        while not (run.events.exists() and cache_messages(run, "waiting")):
            time.sleep(0.01)
        action()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def refuse(context):
    raise AssertionError("made a second time")


def writing(text):
    def make(context):
        (context.run.path / "made").unlink(missing_ok=True)
        (context.run.path / "made").write_text(text)

    return make


def test_second_trial_waits_and_names_the_first(context_of):
    one, other = context_of("one"), context_of("other")
    with producing(one) as (go_on, _):
        when_it_waits(other.run, go_on.set)
        assert reuse_or_run(other, "train", refuse)["reused_from"] == "x/one"
    [message] = cache_messages(other.run, "waiting")
    assert message.startswith("file: waits for x/one on ")
    assert (other.run.path / "made").read_text() == "by the first"


def test_second_trial_runs_the_step_if_the_first_fails(context_of):
    one, other = context_of("one"), context_of("other")
    with producing(one) as (go_on, outcome):
        outcome["fails"] = True
        when_it_waits(other.run, go_on.set)
        made = reuse_or_run(other, "train", writing("by the second"))
    assert made["reused_from"] is None
    assert "error" in outcome
    assert reuse_or_run(context_of("third"), "train", refuse)["reused_from"] == "x/other"


def test_waiting_trial_stops_on_request(context_of):
    one, other = context_of("one"), context_of("other")
    with producing(one):
        when_it_waits(other.run, other.run.stop_request.touch)
        with pytest.raises(StopRequestedError):
            reuse_or_run(other, "train", refuse)


def test_unwritable_cache_is_logged_and_the_step_runs(context_of):
    context = context_of("one")
    context.run.storage.joinpath(".cache").write_text("a file stands in the way")
    reuse_or_run(context, "train", writing("all the same"))
    assert all("cache" in message for message in cache_messages(context.run, "trouble"))
    assert len(cache_messages(context.run, "trouble")) == 2


def test_trial_killed_after_publishing_restores_its_own_artifact(context_of):
    context = context_of("one")
    reuse_or_run(context, "train", writing("mine"))
    assert reuse_or_run(context, "train", refuse)["reused_from"] is None
    assert cache_messages(context.run, "reused") == []


def test_cleared_trial_bypasses_the_cache(context_of):
    reuse_or_run(context_of("one"), "train", writing("by the first"))
    context = context_of("smoke")
    context.run.clear()
    assert reuse_or_run(context, "train", writing("anew")) == {}
    assert cache_messages(context.run, "bypassed") == ["file: runs without the cache"]
    reuse_or_run(context_of("third"), "train", refuse)


def test_damaged_entry_is_named_and_produced_again(context_of):
    maker, other, third = (context_of(name) for name in ("maker", "other", "third"))
    reuse_or_run(maker, "train", writing("as it was"))
    (maker.run.path / "made").write_text("written to later")
    assert reuse_or_run(other, "train", writing("made again"))["reused_from"] is None
    [trouble] = cache_messages(other.run, "trouble")
    assert "made is not what was published" in trouble
    assert reuse_or_run(third, "train", refuse)["reused_from"] == "x/other"


@pytest.mark.parametrize("name", ["../../../outside", "made"])
def test_an_entry_of_another_form_is_named_passed_over_and_left(context_of, tmp_path, name):
    maker, other = context_of("maker"), context_of("other")
    reuse_or_run(maker, "train", writing("by a stranger"))
    file = other.cache.root / "made" / "k" / "entry.json"
    description = json.loads(file.read_text())
    files = {name: description["files"]["made"]}
    file.write_text(json.dumps({**description, "files": files, "key": "other"}))
    before = file.read_text()
    assert reuse_or_run(other, "train", writing("own work"))["reused_from"] is None
    [trouble] = cache_messages(other.run, "trouble")
    assert str(file) in trouble
    assert (other.run.path / "made").read_text() == "own work"
    assert (file.read_text(), list(tmp_path.rglob("outside"))) == (before, [])


def test_an_entry_that_may_not_be_read_is_named_and_left(context_of, monkeypatch):
    maker, other = context_of("maker"), context_of("other")
    reuse_or_run(maker, "train", writing("private"))
    cached = other.cache.root / "made" / "k" / "made"

    def refuse_to_link(source, target):
        raise PermissionError(13, "Permission denied", str(source))

    with monkeypatch.context() as patched:
        patched.setattr("runner.trial.cache_entry.link_or_copy", refuse_to_link)
        reuse_or_run(other, "train", writing("own work"))
    assert any("Permission denied" in message for message in cache_messages(other.run, "trouble"))
    assert cached.read_text() == "private"


OF_TEXTS = {"events": [{"kind": "metrics", "step": "1", "values": {}}], "metrics": {}, "preflight": {}}


@pytest.mark.parametrize(
    "record",
    ["{", "[]", "{}", '{"events": [{"kind": "state"}]}', json.dumps({**OF_TEXTS, "answer_limit": 1})],
)
def test_a_training_record_of_another_form_is_refused(tmp_path, record):
    (tmp_path / reuse.RECORD_FILE).write_text(record)
    with pytest.raises(InvalidEntryError, match="not the record of a training"):
        reuse.read_training_record(tmp_path)


def test_fields_of_a_recorded_event_may_have_any_name(context_of):
    context = context_of("reader")
    event = {"kind": "warning", "message": "text", "self": 1, "kind_": 2}
    reuse.replay_training_record(context, {"events": [event], "metrics": {}}, "other/trial")
    [line] = [json.loads(line) for line in context.run.events.read_text().splitlines() if '"self"' in line]
    assert (line["message"], line["self"], line["reused_from"]) == ("text", 1, "other/trial")


def test_storages_share_artifacts_through_a_mirror(context_of, tmp_path):
    mirror = f"file://{tmp_path / 'mirror'}"
    reuse_or_run(context_of("one", "here", mirror), "train", writing("by the first"))
    other = context_of("other", "there", mirror)
    assert reuse_or_run(other, "train", refuse)["reused_from"] == "x/one"
    assert (other.run.path / "made").read_text() == "by the first"


@pytest.mark.parametrize("is_cached", [True, False])
def test_worker_group_follows_the_decision_of_rank_0(context_of, monkeypatch, is_cached):
    """Only rank 0 looks into the cache; the other ranks run the step only if rank 0 does."""
    if is_cached:
        reuse_or_run(context_of("before"), "train", writing("before"))
    context = context_of("group")
    for port in ("1234", "5678"):  # the second group must ignore the decision file of the first
        ran = []

        def follow(ran=ran):
            reuse_or_run(context, "train", ran.append)

        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("MASTER_PORT", port)
        monkeypatch.setenv("RANK", "1")
        worker = threading.Thread(target=follow)
        worker.start()
        time.sleep(0.1)
        assert worker.is_alive(), "it waits for rank 0"
        monkeypatch.setenv("RANK", "0")
        reuse_or_run(context, "train", writing("by the group"))
        worker.join()
        assert bool(ran) == (not is_cached and port == "1234")
