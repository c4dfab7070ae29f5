"""Trials whose tasks have their own prompts: training, answers in passes, scores, and what they share in the cache."""

import json

import pytest

from plugins.generator.transformers import TransformersGenerator
from plugins.trainer.sft import SftTrainer
from runner.errors import SpecError
from runner.files import read_jsonl
from runner.resolved_plan import resolve
from runner.spec.load import load_spec
from runner.stages import StopRequestedError
from runner.trial.run_directory_and_events import RunDirectory
from runner.trial.run_trial import run_trial

SPEC = """\
name: small
data: {{type: synthetic, path: {data}, train: 8, test: 3}}
adapter: {{type: pfa}}
model: {{type: qwen2_5_vl, size: smoke}}
optimizer: {{type: adamw, groups: {{rest: {{match: "*", lr: 1e-3}}}}}}
trainer: {{type: sft, epochs: 2, global_batch_size: 4, precision: fp32, validation_ratio: 0.25, eval_generate_steps: 8}}
generator: {{type: transformers, max_new_tokens: 6}}
metrics: [{{type: ner_f1}}, {{type: rouge}}, {{type: image_entity_accuracy}}]
tracker: {{type: mlflow}}
regime:
  prompts: per_task
  context: {{ner: [summary], match: [summary, ner]}}
"""
PIPELINE = "regime.pipeline={match: [ner]}"


class Quiet:
    def progress(self, done, total, **shown): ...

    def warn(self, message):
        raise AssertionError(message)


@pytest.fixture
def create(tmp_path, tmp_path_factory):
    """A function that creates the run directory of a trial."""
    shared = tmp_path_factory.getbasetemp() / "synthetic"

    def create(name, *overrides, storage="runs"):
        path = tmp_path / "small.yaml"
        path.write_text(SPEC.format(data=shared))
        plan = resolve(load_spec(path, overrides).spec, Quiet())
        run = RunDirectory(tmp_path / storage / "small" / name)
        run.create(plan, "", ())
        return plan.spec, run

    return create


@pytest.fixture
def run(create):
    """A function that runs a trial to its end."""

    def run(name, *overrides):
        spec, directory = create(name, *overrides)
        run_trial(spec, directory.path)
        return directory

    return run


@pytest.fixture
def prompts(monkeypatch):
    """The prompts of each call of the generator."""
    asked, generate = [], TransformersGenerator.generate

    def note(self, weights, prompts, done, reporter):
        asked.append([prompt for prompt in prompts if prompt.id not in done])
        return generate(self, weights, prompts, done, reporter)

    monkeypatch.setattr(TransformersGenerator, "generate", note)
    return asked


def _steps(directory):
    return directory.read_record()["steps"]


def test_a_trial_has_one_prediction_and_one_score_a_sample(run, prompts):
    directory = run("one")
    rows = list(read_jsonl(directory.predictions))
    assert [set(row["outputs"]) for row in rows] == [{"summary", "ner", "match"}] * 3
    assert all(row["output"] == "\n".join(row["outputs"].values()) for row in rows)
    assert [row["id"] for row in read_jsonl(directory.scores)] == [row["id"] for row in rows]
    assert {"rougeL", "ner_f1", "image_entity_accuracy"} <= directory.read_metrics().keys()
    *_, last = prompts
    assert len(last) == 9
    assert not any("the image decides" in prompt.prompt for call in prompts for prompt in call)
    record = directory.read_record()
    preflight = record["preflight"]
    assert set(record["prompts"]) == {"summary", "ner", "match"}
    assert preflight["samples"] == 8 * (3 + 2), "three plain prompts, two of which also have a context"
    *_, validated = (
        event["values"]
        for event in map(json.loads, directory.events.read_text().splitlines())
        if event["kind"] == "metrics" and "validation/rougeL" in event["values"]
    )
    assert "validation/image_entity_accuracy" in validated


def test_a_pipeline_reuses_the_training_and_shows_predictions(run, prompts):
    run("plain", "trainer.eval_generate_steps=null")
    prompts.clear()
    directory = run("piped", "trainer.eval_generate_steps=null", PIPELINE)
    steps = _steps(directory)
    assert steps["train"]["reused_from"] == "small/plain"
    assert steps["generate"]["reused_from"] is None
    assert [[prompt.task for prompt in call] for call in prompts] == [["summary", "ner"] * 3, ["match"] * 3]
    outputs = {row["id"]: row["outputs"]["ner"] for row in read_jsonl(directory.predictions)}
    for prompt in prompts[1]:
        assert prompt.prompt.endswith(f"Label-entities pairs: {' '.join(outputs[prompt.id[: -len('/match')]].split())}")


def test_a_pipeline_that_is_stopped_in_a_pass_goes_on_there(create, run, prompts, monkeypatch):
    expected = run("whole", PIPELINE).predictions.read_text()
    spec, directory = create("parts", PIPELINE, storage="other_runs")
    generate, left = TransformersGenerator.generate, [3]

    def stop_later(self, weights, prompts, done, reporter):
        for completion in generate(self, weights, prompts, done, reporter):
            if left[0] == 0:
                raise StopRequestedError
            left[0] -= 1
            yield completion

    run_trial(spec, directory.path, ["train"])
    monkeypatch.setattr(TransformersGenerator, "generate", stop_later)
    for number in (3, 4):
        left[0] = number
        with pytest.raises(StopRequestedError):
            run_trial(spec, directory.path)
    prompts.clear()
    monkeypatch.setattr(TransformersGenerator, "generate", generate)
    run_trial(spec, directory.path)
    assert directory.predictions.read_text() == expected
    assert [len(call) for call in prompts] == [0, 2]


def test_without_training_each_task_is_asked_too(run):
    directory = run(
        "zero", "trainer=none", "optimizer=none", "regime.context={}", "model={type: qwen2_5_vl, size: smoke}"
    )
    assert [set(row["outputs"]) for row in read_jsonl(directory.predictions)] == [{"summary", "ner", "match"}] * 3


@pytest.mark.parametrize("content", ["shuffled", "neutral"])
def test_other_contexts_are_other_trainings(run, content):
    first = run("gold", "trainer.eval_generate_steps=null")
    other = run("other", "trainer.eval_generate_steps=null", f"regime.context_content={content}")
    assert _steps(other)["train"]["reused_from"] is None
    prompts = [directory.read_record()["prompts"] for directory in (first, other)]
    assert prompts[0] == prompts[1]


def test_a_trainer_that_does_not_draw_anew_is_refused(create, monkeypatch):
    monkeypatch.delattr(SftTrainer, "uses_later_draws")
    spec, directory = create("drawn", "regime.context_content=shuffled", "regime.context_draws=2")
    with pytest.raises(SpecError, match=r"regime\.context_draws: the trainer 'sft' trains on the same prompts"):
        run_trial(spec, directory.path, ["train"])
