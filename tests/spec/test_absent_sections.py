"""`trainer: none` and `model: none`: sections that are then required, and sections that are not allowed."""

import jsonschema
import pytest
import yaml

from runner.errors import SpecError
from runner.resolved_plan import plan_json, read_plan, smoke_spec
from runner.spec.experiment_spec import ExperimentSpec
from runner.spec.load import load_spec
from runner.spec.schema import spec_schema
from runner.trial.run_directory_and_events import steps_of

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
UNTRAINED = ("trainer=none", "optimizer=none")
SERVED = (*UNTRAINED, "model=none", "generator={type: openai_compatible, model: m}")


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
    [((), ("train", "generate", "score")), (UNTRAINED, ("generate", "score")), (SERVED, ("generate", "score"))],
    ids=["trained", "untrained", "served"],
)
def test_steps_depend_on_the_spec_and_survive_a_plan(spec_of, overrides, steps):
    spec = spec_of(*overrides)
    assert steps_of(spec) == steps
    written = spec.as_json()
    assert [written[name] == "none" for name in ("trainer", "optimizer")] == [bool(overrides)] * 2
    assert read_plan(plan_json(spec)) == spec
    assert steps_of(smoke_spec(spec)) == steps
    jsonschema.validate(written | {"pinned": None}, spec_schema(ExperimentSpec))


def test_optimizer_can_be_omitted_if_nothing_is_trained(spec_of):
    assert spec_of("trainer=none", text=without("optimizer")).optimizer is None


def test_none_can_be_set_by_an_extending_file(spec_of, tmp_path):
    spec_of()
    path = tmp_path / "untrained.yaml"
    path.write_text("extends: small.yaml\nname: untrained\ntrainer: none\noptimizer: none\n")
    jsonschema.validate(yaml.safe_load(path.read_text()), spec_schema(ExperimentSpec))
    spec = load_spec(path).spec
    assert (spec.trainer, spec.optimizer) == (None, None)
    assert [section.stage for section in spec.sections()] == [
        "data", "adapter", "model", "generator", "metric", "tracker",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "dropped", "location", "message"),
    [
        (
            ["trainer=none"],
            (),
            "small.yaml:5:1: optimizer:",
            "would have no effect, because `trainer: none`",
        ),
        ([], ("optimizer",), "small.yaml:1:1: optimizer:", "is missing: the trainer 'sft' needs parameter groups"),
        ([], ("trainer",), "small.yaml:1:1: trainer:", "is missing"),
        (["model=none"], (), "model:", "the generator 'transformers' needs a model"),
        ([*SERVED, "model={type: qwen2_5_vl, size: smoke}"], (), "model:", "write `model: none`"),
        (["generator={type: constant}"], (), "small.yaml:6:1: trainer:", "training would have no effect"),
        (["trainer="], (), "trainer:", "or `none` instead of the section"),
        (["trainer=nothing"], (), "trainer:", "valid types: sft, or `none`"),
        (["data=none"], (), "data:", "needs a `type` that names a data plugin"),
    ],
)
def test_missing_and_ineffective_sections_are_reported_with_their_location(
    spec_of, overrides, dropped, location, message
):
    with pytest.raises(SpecError) as caught:
        spec_of(*overrides, text=without(*dropped) if dropped else TRAINED)
    (problem,) = caught.value.problems
    assert location in str(problem)
    assert message in str(problem)


def test_misspelt_trainer_is_not_treated_as_none(spec_of):
    with pytest.raises(SpecError) as caught:
        spec_of("trainer.type=stf", "metrics=[{type: blue}]")
    assert [problem.path for problem in caught.value.problems] == [("metrics", 0, "type"), ("trainer", "type")]


def test_smoke_run_of_a_served_model_calls_no_server(spec_of):
    small = smoke_spec(spec_of(*SERVED, "generator.num_few_shot=2"))
    assert (small.generator.type, small.generator_options.num_few_shot, small.model) == ("constant", 2, None)
