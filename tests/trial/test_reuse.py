"""Trials share trainings and answers: what another one made is taken, and what is in the making is waited for."""

import threading
import time
from contextlib import contextmanager

import pytest

from runner.errors import SpecError, StepError
from runner.files import read_lines
from runner.spec.load import load_spec
from runner.stages import StopRequestedError
from runner.trial import reuse as sharing
from runner.trial.context import TrialContext
from runner.trial.events import EventLog
from runner.trial.reuse import ARTIFACT_SPECS, ArtifactSpec, reuse_or_run
from runner.trial.run_directory import RunDirectory


@pytest.fixture(scope="module")
def first(trial):
    """A trial that finds nothing to take."""
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(trial.folder)
        return trial("first")


@pytest.fixture(autouse=True)
def _here(trial, monkeypatch):
    monkeypatch.chdir(trial.folder)


def states(run, step):
    return [each["state"] for each in read_lines(run.events) if each["kind"] == "state" and each["step"] == step]


def told(run, state):
    return [each["message"] for each in read_lines(run.events) if each["kind"] == "cache" and each["state"] == state]


def figures(run):
    """What was measured on the way, by step."""
    events = [each for each in read_lines(run.events) if each["kind"] == "metrics" and each["step"] is not None]
    return {(each["step"], name): value for each in events for name, value in each["values"].items()}


def test_with_other_metrics_nothing_is_trained_and_nothing_generated(trial, first):
    other = trial("rescored", "metrics=[{type: ner_f1}, {type: exact_match}]")
    for step in ("train", "generate"):
        assert states(first, step) == ["started", "finished"]
        assert states(other, step) == ["reused"]
        assert other.read_record()["steps"][step]["reused_from"] == "shared/first"
        assert other.read_record()["steps"][step]["cache"] == first.read_record()["steps"][step]["cache"]
    assert [message.split(" (")[0] for message in told(other, "reused")] == [
        "training reused from shared/first",
        "answers reused from shared/first",
    ]
    assert other.read_metrics()["exact_match"] is not None
    assert {name: other.read_metrics()[name] for name in first.read_metrics()} == first.read_metrics()


def test_what_is_taken_is_the_same_and_takes_no_room_twice(trial, first):
    other = trial("same", "metrics=[{type: exact_match}]")
    assert other.predictions.stat().st_ino == first.predictions.stat().st_ino
    assert other.parameters.read_text() == first.parameters.read_text()
    weights = [run.model / "model.safetensors" for run in (first, other)]
    assert weights[0].stat().st_ino == weights[1].stat().st_ino
    assert other.read_record()["preflight"] == first.read_record()["preflight"]
    assert not list(other.path.glob(".t*"))


def test_curves_are_passed_on_without_those_of_metrics_that_are_gone(trial, first):
    other = trial("curves", "metrics=[{type: exact_match}]")
    measured = {key: value for key, value in figures(first).items() if "ner" not in key[1]}
    assert any(name == "validation/ner_f1" for _, name in figures(first))
    assert figures(other) == measured
    [warning] = [each["message"] for each in read_lines(other.events) if each["kind"] == "warning"]
    assert warning.startswith("exact_match: no figures of the samples kept aside")


def test_another_way_to_answer_takes_the_training_alone(trial):
    alone = "trainer.eval_generate_steps=null"
    trial("one", alone)
    other = trial("longer", alone, "generator.max_new_tokens=14")
    assert states(other, "train") == ["reused"]
    assert states(other, "generate") == ["started", "finished"]
    # That answers find room is proven also where the training is taken.
    with pytest.raises(SpecError, match="finds no room"):
        trial("too-long", alone, "generator.max_new_tokens=1000000")


# What follows needs no model: a step that writes a file.


@pytest.fixture
def context_of(first, tmp_path, monkeypatch):
    """A function that makes the context of a trial, all of which share one step."""

    def take(context, folder, maker):
        (folder / "made").rename(context.run.path / "made")

    monkeypatch.setitem(
        ARTIFACT_SPECS,
        "train",
        ArtifactSpec("made", "file", lambda spec: "k", lambda context: {"made": context.run.path / "made"}, take),
    )
    monkeypatch.setattr(sharing, "POLL_SECONDS", 0.02)
    spec = TrialContext(load_spec(first.plan).spec, first, EventLog(first.events)).spec

    def context_of(name, storage="runs", cache=None):
        run = RunDirectory(tmp_path / storage / "x" / name)
        run.path.mkdir(parents=True, exist_ok=True)
        compute = spec.compute.model_copy(update={"cache": cache})
        return TrialContext(spec.model_copy(update={"compute": compute}), run, EventLog(run.events))

    return context_of


@contextmanager
def in_the_making(context):
    """Another trial that has begun to make the file, and goes on when told to."""
    begun, go_on = threading.Event(), threading.Event()
    ended = {}

    def make(context):
        begun.set()
        assert go_on.wait(60)
        if ended.get("fails"):
            raise StepError("loss is nan")
        (context.run.path / "made").write_text("by the first")

    def work():
        try:
            ended["told"] = reuse_or_run(context, "train", make)
        except StepError as error:
            ended["error"] = error

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(60)
    try:
        yield go_on, ended
    finally:
        go_on.set()
        thread.join()


def when_it_waits(run, action):
    def watch():
        while not (run.events.exists() and told(run, "waiting")):
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


def test_one_who_needs_the_same_waits_and_says_for_whom(context_of):
    one, other = context_of("one"), context_of("other")
    with in_the_making(one) as (go_on, _):
        when_it_waits(other.run, go_on.set)
        assert reuse_or_run(other, "train", refuse)["reused_from"] == "x/one"
    [message] = told(other.run, "waiting")
    assert message.startswith("file: waits for x/one on ")
    assert (other.run.path / "made").read_text() == "by the first"


def test_where_the_first_one_fails_the_next_one_makes_it(context_of):
    one, other = context_of("one"), context_of("other")
    with in_the_making(one) as (go_on, ended):
        ended["fails"] = True
        when_it_waits(other.run, go_on.set)
        made = reuse_or_run(other, "train", writing("by the second"))
    assert made["reused_from"] is None
    assert "error" in ended
    assert reuse_or_run(context_of("third"), "train", refuse)["reused_from"] == "x/other"


def test_who_waits_hears_that_it_is_to_stop(context_of):
    one, other = context_of("one"), context_of("other")
    with in_the_making(one):
        when_it_waits(other.run, other.run.stop_request.touch)
        with pytest.raises(StopRequestedError):
            reuse_or_run(other, "train", refuse)


def test_a_cache_that_cannot_be_written_to_is_told_and_costs_nothing(context_of):
    context = context_of("one")
    context.run.storage.joinpath(".cache").write_text("a file stands in the way")
    reuse_or_run(context, "train", writing("all the same"))
    assert all("cache" in message or "kept" in message for message in told(context.run, "trouble"))
    assert len(told(context.run, "trouble")) == 2


def test_a_trial_that_was_killed_before_its_note_takes_up_its_own(context_of):
    context = context_of("one")
    reuse_or_run(context, "train", writing("mine"))
    assert reuse_or_run(context, "train", refuse)["reused_from"] is None
    assert told(context.run, "reused") == []


def test_a_trial_that_is_begun_afresh_says_that_it_takes_nothing(context_of):
    reuse_or_run(context_of("one"), "train", writing("by the first"))
    context = context_of("smoke")
    context.run.clear()
    assert reuse_or_run(context, "train", writing("anew")) == {}
    assert told(context.run, "bypassed") == ["file: made anew, and not kept for other trials"]
    reuse_or_run(context_of("third"), "train", refuse)


def test_what_is_damaged_is_named_and_made_again(context_of):
    maker, other, third = (context_of(name) for name in ("maker", "other", "third"))
    reuse_or_run(maker, "train", writing("as it was"))
    (maker.run.path / "made").write_text("written to later")
    assert reuse_or_run(other, "train", writing("made again"))["reused_from"] is None
    [trouble] = told(other.run, "trouble")
    assert "made is not what was written" in trouble
    assert reuse_or_run(third, "train", refuse)["reused_from"] == "x/other"


def test_two_storages_share_by_a_mirror(context_of, tmp_path):
    mirror = f"file://{tmp_path / 'mirror'}"
    reuse_or_run(context_of("one", "here", mirror), "train", writing("by the first"))
    other = context_of("other", "there", mirror)
    assert reuse_or_run(other, "train", refuse)["reused_from"] == "x/one"
    assert (other.run.path / "made").read_text() == "by the first"


@pytest.mark.parametrize("made_before", [True, False])
def test_a_group_of_workers_does_what_its_main_one_decides(context_of, monkeypatch, made_before):
    """The main worker alone looks into the cache; the others take part in a training only where there is one."""
    if made_before:
        reuse_or_run(context_of("before"), "train", writing("before"))
    context = context_of("group")
    for port in ("1234", "5678"):  # a second group of the same trial is not misled by the first one's files
        taking_part = []

        def take_part(taking_part=taking_part):
            reuse_or_run(context, "train", taking_part.append)

        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("MASTER_PORT", port)
        monkeypatch.setenv("RANK", "1")
        worker = threading.Thread(target=take_part)
        worker.start()
        time.sleep(0.1)
        assert worker.is_alive(), "it waits for the main one"
        monkeypatch.setenv("RANK", "0")
        reuse_or_run(context, "train", writing("by the group"))
        worker.join()
        assert bool(taking_part) == (not made_before and port == "1234")
