"""By which figures a training may choose: told with the line of the option, without importing a metric."""

import subprocess
import sys

import pytest

from runner.errors import SpecError
from runner.plan import plan_json, read_plan, smoke
from runner.spec.experiment_spec import unknown_figure, validation_figures
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
ANSWERED = [
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


def test_the_figures_are_those_of_the_metrics_where_samples_are_answered(spec_of):
    spec = spec_of()
    assert validation_figures(spec) == ["validation/loss", *ANSWERED]
    assert read_plan(plan_json(type("P", (), {"spec": spec}))) == spec
    assert smoke(spec).trainer_options.selection_metric.metric == "validation/rougeL"
    loss = ("trainer.metric_for_best_model={metric: validation/loss, mode: min}", "trainer.eval_generate_steps=null")
    assert validation_figures(spec_of(*loss)) == ["validation/loss"]
    assert not validation_figures(spec_of("trainer=none", "optimizer=none"))


@pytest.mark.parametrize(
    ("overrides", "place", "message"),
    [
        (
            ["trainer.metric_for_best_model.metric=validation/rougel"],
            "metric_for_best_model.metric",
            "; did you mean 'validation/rougeL'?",
        ),
        (
            ["trainer.metric_for_best_model.metric=ner_f1"],
            "metric_for_best_model.metric",
            "of the test split, which decides nothing; did you mean",
        ),
        (
            ["metrics=[{type: bleu}]"],
            "small.yaml:11:27: trainer.metric_for_best_model.metric",
            "no figure 'validation/rougeL'",
        ),
        (
            ["trainer.eval_generate_steps=null"],
            "small.yaml:11:27: trainer.metric_for_best_model.metric",
            "set trainer.eval_generate_steps",
        ),
        (
            ["generator={type: vllm}"],
            "small.yaml:10:3: trainer.eval_generate_steps",
            "'vllm' cannot answer with a model",
        ),
        (["trainer.metric_for_best_model.mode=most"], "metric_for_best_model.mode", "'most' is not valid"),
    ],
)
def test_what_cannot_decide_or_answer_is_told_with_its_place(spec_of, overrides, place, message):
    with pytest.raises(SpecError) as caught:
        spec_of(*overrides)
    (problem,) = caught.value.problems
    assert place in str(problem)
    assert message in str(problem)


def test_a_server_cannot_answer_with_a_model_in_training(spec_of):
    with pytest.raises(SpecError) as caught:
        spec_of("generator={type: openai_compatible, model: m}", "model=none")
    assert ("trainer", "eval_generate_steps") in [problem.path for problem in caught.value.problems]


def test_a_misspelt_metric_is_told_alone(spec_of):
    with pytest.raises(SpecError) as caught:
        spec_of("metrics=[{type: rogue}]")
    assert [problem.path for problem in caught.value.problems] == [("metrics", 0, "type")]


def test_a_figure_of_the_test_split_is_refused_by_whatever_name(spec_of):
    spec = spec_of()
    assert unknown_figure(spec, "validation/bleu") is None
    for name in ("bleu", "test/bleu"):
        assert "test split" in unknown_figure(spec, name)


def test_no_metric_is_imported_to_know_its_figures(spec_of, tmp_path):
    spec_of()
    code = (
        "import sys; from pathlib import Path; from runner.spec.load import load_spec; load_spec(Path('small.yaml')); "
        "print([name for name in ('nltk', 'rouge_score', 'torch', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
