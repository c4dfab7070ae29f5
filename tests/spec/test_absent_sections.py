"""`trainer: none` and `model: none`: what then must not stand in a spec, and what must."""

import jsonschema
import pytest
import yaml

from runner.errors import SpecError
from runner.plan import plan_json, read_plan, smoke
from runner.spec.experiment_spec import ExperimentSpec
from runner.spec.load import load_spec
from runner.spec.schema import spec_schema
from runner.trial.run_directory import steps_of

TRAINED = """\
name: small
data: {type: synthetic, train: 8, test: 2}
adapter: {type: pfa}
model: {type: qwen2_5_vl, size: smoke}
optimizer: {type: adamw, groups: {rest: {match: "*", lr: 1.0e-4}}}
trainer: {type: sft}
generator: {type: transformers}
metrics: [{type: ner_f1}]
tracker: {type: mlflow}
"""
AS_IT_IS = ("trainer=none", "optimizer=none")
SERVED = (*AS_IT_IS, "model=none", "generator={type: openai_compatible, model: m}")


@pytest.fixture
def spec_of(tmp_path):
    def spec_of(*overrides, text=TRAINED):
        path = tmp_path / "small.yaml"
        path.write_text(text)
        return load_spec(path, overrides).spec

    return spec_of


def without(*sections):
    return "".join(line for line in TRAINED.splitlines(True) if not line.startswith(sections))


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [((), ("train", "generate", "score")), (AS_IT_IS, ("generate", "score")), (SERVED, ("generate", "score"))],
    ids=["trained", "as it is", "served"],
)
def test_the_steps_follow_from_the_spec_and_a_plan_repeats_it(spec_of, overrides, steps):
    spec = spec_of(*overrides)
    assert steps_of(spec) == steps
    told = spec.as_json()
    assert [told[name] == "none" for name in ("trainer", "optimizer")] == [bool(overrides)] * 2
    assert read_plan(plan_json(type("P", (), {"spec": spec}))) == spec
    assert steps_of(smoke(spec)) == steps
    jsonschema.validate(told | {"pinned": None}, spec_schema(ExperimentSpec))


def test_an_optimizer_may_be_left_out_where_nothing_is_trained(spec_of):
    assert spec_of("trainer=none", text=without("optimizer")).optimizer is None


def test_none_may_stand_in_the_file_or_in_one_that_extends_it(spec_of, tmp_path):
    spec_of()
    path = tmp_path / "as_it_is.yaml"
    path.write_text("extends: small.yaml\nname: as_it_is\ntrainer: none\noptimizer: none\n")
    jsonschema.validate(yaml.safe_load(path.read_text()), spec_schema(ExperimentSpec))
    spec = load_spec(path).spec
    assert (spec.trainer, spec.optimizer) == (None, None)
    assert [section.stage for section in spec.sections()] == [
        "data", "adapter", "model", "generator", "metric", "tracker",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "dropped", "place", "message"),
    [
        (["trainer=none"], (), "small.yaml:5:1: optimizer:", "would be ignored, as `trainer: none` trains nothing"),
        ([], ("optimizer",), "small.yaml:1:1: optimizer:", "is missing: the trainer 'sft' needs parameter groups"),
        ([], ("trainer",), "small.yaml:1:1: trainer:", "is missing"),
        (["model=none"], (), "model:", "the generator 'transformers' answers with one"),
        ([*SERVED, "model={type: qwen2_5_vl, size: smoke}"], (), "model:", "say `model: none`"),
        (["generator={type: constant}"], (), "small.yaml:6:1: trainer:", "would train in vain"),
        (["trainer="], (), "trainer:", "or `none` in place of the section"),
        (["trainer=nothing"], (), "trainer:", "valid types: sft, or `none`"),
        (["data=none"], (), "data:", "needs a `type` that names a data plugin"),
    ],
)
def test_what_is_missing_or_would_be_ignored_is_told_with_its_place(spec_of, overrides, dropped, place, message):
    with pytest.raises(SpecError) as caught:
        spec_of(*overrides, text=without(*dropped) if dropped else TRAINED)
    (problem,) = caught.value.problems
    assert place in str(problem)
    assert message in str(problem)


def test_a_misspelt_trainer_is_not_taken_for_none(spec_of):
    with pytest.raises(SpecError) as caught:
        spec_of("trainer.type=stf", "metrics=[{type: blue}]")
    assert [problem.path for problem in caught.value.problems] == [("metrics", 0, "type"), ("trainer", "type")]


def test_the_smoke_run_of_a_served_model_asks_no_server(spec_of):
    small = smoke(spec_of(*SERVED, "generator.num_few_shot=2"))
    assert (small.generator.type, small.generator_options.num_few_shot, small.model) == ("constant", 2, None)
