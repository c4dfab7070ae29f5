"""The metrics that can select the best model, checked with the option's line and without importing a metric."""

import subprocess
import sys

import pytest

from runner.errors import SpecError
from runner.resolved_plan import plan_json, read_plan, smoke_spec
from runner.spec.experiment_spec import selection_metric_error, validation_metrics
from runner.spec.load import load_spec

SPEC = """\
name: small
data: {type: synthetic, train: 8, test: 2}
adapter: {type: pfa}
model: {type: qwen2_5_vl, size: smoke}
optimizer: {type: adamw, groups: {rest: {match: "*", lr: 1.0e-4}}}
trainer:
  type: sft
  validation_ratio: 0.25
  load_best_model_at_end: true
  eval_generate_steps: 10
  metric_for_best_model: {metric: validation/rougeL, mode: max}
generator: {type: transformers}
metrics: [{type: ner_f1}, {type: rouge}, {type: bleu}, {type: corpus_bleu}]
tracker: {type: mlflow}
"""
GENERATED = [
    "validation/ner_precision", "validation/ner_recall", "validation/ner_f1", "validation/rouge1", "validation/rouge2",
    "validation/rougeL", "validation/bleu", "validation/corpus_bleu",
]  # fmt: skip


@pytest.fixture
def spec_of(tmp_path):
    def spec_of(*overrides):
        path = tmp_path / "small.yaml"
        path.write_text(SPEC)
        return load_spec(path, overrides).spec

    return spec_of


def test_validation_metrics_depend_on_whether_answers_are_generated(spec_of):
    spec = spec_of()
    assert validation_metrics(spec) == ["validation/loss", *GENERATED]
    assert read_plan(plan_json(spec)) == spec
    assert smoke_spec(spec).trainer_options.selection_metric.metric == "validation/loss"
    loss = ("trainer.metric_for_best_model={metric: validation/loss, mode: min}", "trainer.eval_generate_steps=null")
    assert validation_metrics(spec_of(*loss)) == ["validation/loss"]
    assert not validation_metrics(spec_of("trainer=none", "optimizer=none"))


@pytest.mark.parametrize(
    ("overrides", "location", "message"),
    [
        (
            ["trainer.metric_for_best_model.metric=validation/rougel"],
            "metric_for_best_model.metric",
            "; did you mean 'validation/rougeL'?",
        ),
        (
            ["trainer.metric_for_best_model.metric=ner_f1"],
            "metric_for_best_model.metric",
            "is a test metric and cannot be used for selection; did you mean",
        ),
        (
            ["metrics=[{type: bleu}]"],
            "small.yaml:11:27: trainer.metric_for_best_model.metric",
            "no metric 'validation/rougeL'",
        ),
        (
            ["trainer.eval_generate_steps=null"],
            "small.yaml:11:27: trainer.metric_for_best_model.metric",
            "set trainer.eval_generate_steps",
        ),
        (
            ["generator={type: vllm, python: vllm, version: 0.30.0}", "compute.gpus_per_worker=1"],
            "small.yaml:10:3: trainer.eval_generate_steps",
            "'vllm' cannot generate with a model",
        ),
        (["trainer.metric_for_best_model.mode=most"], "metric_for_best_model.mode", "'most' is not valid"),
    ],
)
def test_invalid_selection_is_reported_with_its_location(spec_of, overrides, location, message):
    with pytest.raises(SpecError) as caught:
        spec_of(*overrides)
    (problem,) = caught.value.problems
    assert location in str(problem)
    assert message in str(problem)


def test_server_cannot_generate_with_a_model_in_training(spec_of):
    with pytest.raises(SpecError) as caught:
        spec_of("generator={type: openai_compatible, model: m}", "model=none")
    assert ("trainer", "eval_generate_steps") in [problem.path for problem in caught.value.problems]


def test_misspelt_metric_is_the_only_problem(spec_of):
    with pytest.raises(SpecError) as caught:
        spec_of("metrics=[{type: rogue}]")
    assert [problem.path for problem in caught.value.problems] == [("metrics", 0, "type")]


def test_test_metric_is_rejected_under_both_names(spec_of):
    spec = spec_of()
    assert selection_metric_error(spec, "validation/bleu") is None
    for name in ("bleu", "test/bleu"):
        assert "is a test metric" in selection_metric_error(spec, name)


def test_metric_names_are_known_without_importing_metrics(spec_of, tmp_path):
    spec_of()
    code = (
        "import sys; from pathlib import Path; from runner.spec.load import load_spec; load_spec(Path('small.yaml')); "
        "print([name for name in ('nltk', 'rouge_score', 'torch', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
