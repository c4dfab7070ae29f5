"""The section `regime` and the trainer's sequence: every problem is an error of the spec, with its line."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import SpecError
from runner.resolved_plan import plan_json, read_plan, smoke_spec
from runner.spec.load import load_spec
from runner.spec.regime_section import RegimeOptions
from runner.spec.variants import select_arm

SPEC = """\
name: small
data: {type: synthetic, train: 8, test: 2}
adapter: {type: pfa}
model: {type: qwen2_5_vl, size: smoke}
optimizer: {type: adamw, groups: {rest: {match: "*", lr: 1.0e-4}}}
trainer:
  type: sft
  epochs: null
  sequence:
    - {tasks: [summary], epochs: 1}
    - {tasks: [ner, match], steps: 4}
regime:
  prompts: per_task
  context: {ner: [summary], match: [summary, ner]}
  context_content: shuffled
  context_draws: 2
  pipeline:
    ner: [summary]
    match: [ner]
generator: {type: transformers}
metrics: [{type: ner_f1}]
tracker: {type: mlflow}
"""
TASKS = ["summary", "ner", "match"]


@pytest.fixture
def load(tmp_path):
    def load(*overrides, text=SPEC):
        path = tmp_path / "small.yaml"
        path.write_text(text)
        return load_spec(path, overrides).spec

    return load


def test_a_plan_keeps_the_regime(load):
    spec = load()
    assert read_plan(plan_json(spec)) == spec
    assert spec.regime.passes(spec.task_names) == [["summary"], ["ner"], ["match"]]
    assert [part.steps for part in smoke_spec(spec).trainer.options.sequence] == [1, 1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{ner: [summary], match", "{nerr: [summary], match", r":14:\d+: .*no task 'nerr'; did you mean 'ner'\?"),
        ("{ner: [summary], match", "{ner: [summery], match", r":14:\d+: .*no task 'summery'; did you mean 'summary'\?"),
        ("{ner: [summary], match", "{ner: [ner], match", r":14:\d+: .*'ner' cannot show the answer to 'ner' itself"),
        ("[summary, ner]}", "[summary, summary]}", r":14:\d+: .*'summary' is listed twice"),
        ("    ner: [summary]\n", "    ner: [match]\n", r":17:3: .*cycle, .*: (ner|match) needs (ner|match) needs"),
        ("    match: [ner]", "    match: [match]", r":19:\d+: .*'match' cannot show the answer to 'match' itself"),
        ("prompts: per_task", "prompts: one_pass", r":14:3: .*no effect with `prompts: one_pass`"),
        ("prompts: per_task", "prompts: one_pass", r":9:3: .*needs examples of single tasks"),
        ("shuffled", "gold", r":16:3: .*no effect with `context_content: gold`"),
        ("  context: {ner: [summary], match: [summary, ner]}\n", "", r":14:3: .*no effect without `context`"),
        ("tasks: [ner, match]", "tasks: [ner, matches]", r":11:\d+: .*no task 'matches'; did you mean 'match'\?"),
        ("type: pfa}", "type: pfa, tasks: [ner]}", r":14:\d+: .*no task 'summary'; valid: ner"),
    ],
)
def test_problems_are_told_with_their_line(load, old, new, message):
    assert old in SPEC
    with pytest.raises(SpecError) as caught:
        load(text=SPEC.replace(old, new))
    assert re.search(message, str(caught.value)), str(caught.value)


def test_all_problems_are_told_at_once(load):
    with pytest.raises(SpecError) as caught:
        load("regime.context={ner: [ner], matsch: [summary]}", "regime.pipeline={ner: [match], match: [ner]}")
    assert len(caught.value.problems) == 3


@given(st.dictionaries(st.sampled_from(TASKS), st.lists(st.sampled_from(TASKS), min_size=1, max_size=3, unique=True)))
def test_a_task_comes_after_those_that_its_prompt_shows_or_there_is_a_problem(graph):
    options = RegimeOptions(prompts="per_task", pipeline=graph)
    if list(options.problems(TASKS, "pfa")):
        return
    passes = options.passes(TASKS)
    pass_of = {task: number for number, tasks in enumerate(passes) for task in tasks}
    assert sorted(pass_of) == sorted(TASKS)
    assert all(pass_of[other] < pass_of[task] for task, others in graph.items() for other in others)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "one prompt for summary, ner, match"),
        ({"prompts": "per_task"}, "a prompt each for summary, ner, match"),
        (
            {"prompts": "per_task", "context": {"ner": ["summary", "match"]}, "pipeline": {"ner": ["summary"]}},
            "a prompt each for summary, ner, match; ner shows summary and match; at test ner shows predicted summary",
        ),
        (
            {
                "prompts": "per_task",
                "context": {"ner": ["summary"]},
                "context_content": "shuffled",
                "context_draws": 3,
            },
            "a prompt each for summary, ner, match; ner shows summary of another sample; 3 draws",
        ),
    ],
)
def test_a_regime_is_described_in_one_line(options, text):
    assert RegimeOptions(**options).describe(TASKS) == text


def test_an_arm_is_selected_by_its_name(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SPEC + "sweep: {arms: {joint: {}, neutral: {regime.context_content: neutral}}}\n")
    with pytest.raises(SpecError, match="context_draws"):
        load_spec(path)
    path.write_text(path.read_text().replace("  context_draws: 2\n", ""))
    loaded = load_spec(path)
    arm = select_arm(loaded, "neutral")
    assert (arm.spec.regime.context_content, arm.spec.sweep) == ("neutral", None)
    with pytest.raises(SpecError, match=r"--arm neutrall: .* did you mean 'neutral'\?"):
        select_arm(loaded, "neutrall")
    with pytest.raises(SpecError, match=r"the spec has no sweep.arms"):
        select_arm(arm, "neutral")
