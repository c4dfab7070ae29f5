"""By which figures a training may choose: told with the line of the option, without importing a metric."""

import subprocess
import sys

import pytest

from runner.errors import SpecError
from runner.plan import plan_json, read_plan, smoke
from runner.spec.load import load_spec
from runner.spec.measures import unknown_figure, validation_figures

SPEC = """\
name: small
data: {type: synthetic, train: 8, test: 2}
adapter: {type: pfa}
model: {type: qwen2_5_vl, size: smoke}
optimizer: {type: adamw, groups: {rest: {match: "*", lr: 1.0e-4}}}
trainer:
  type: sft
  validation: 0.25
  final: best
  generate_every: 10
  best_by: {metric: validation/rougeL, mode: max}
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
    assert smoke(spec).trainer_options.chosen_by.metric == "validation/rougeL"
    loss = ("trainer.best_by={metric: validation/loss, mode: min}", "trainer.generate_every=null")
    assert validation_figures(spec_of(*loss)) == ["validation/loss"]
    assert not validation_figures(spec_of("trainer=none", "optimizer=none"))


@pytest.mark.parametrize(
    ("overrides", "place", "message"),
    [
        (["trainer.best_by.metric=validation/rougel"], "best_by.metric", "; did you mean 'validation/rougeL'?"),
        (["trainer.best_by.metric=ner_f1"], "best_by.metric", "of the test split, which decides nothing; did you mean"),
        (["metrics=[{type: bleu}]"], "small.yaml:11:13: trainer.best_by.metric", "no figure 'validation/rougeL'"),
        (["trainer.generate_every=null"], "small.yaml:11:13: trainer.best_by.metric", "set trainer.generate_every"),
        (["generator={type: vllm}"], "small.yaml:10:3: trainer.generate_every", "'vllm' cannot answer with a model"),
        (["trainer.best_by.mode=most"], "best_by.mode", "'most' is not valid"),
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
    assert ("trainer", "generate_every") in [problem.path for problem in caught.value.problems]


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
