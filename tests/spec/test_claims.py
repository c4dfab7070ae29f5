"""Claims and criterion of a spec: forms, errors with their place and the nearest name, and no effect on results."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from runner.errors import SpecError
from runner.resolved_plan import plan_json, read_plan, smoke_spec
from runner.spec.claims_section import Claim, single_task_candidates
from runner.spec.load import load_spec
from runner.spec.sweep_section import SweepOptions
from runner.spec.variants import SweepVariants

BASE = """\
name: claimed
data: {type: synthetic, train: 8, test: 2}
adapter: {type: pfa, tasks: [summary, ner, match]}
model: none
trainer: none
generator: {type: constant}
metrics: [{type: ner_f1}, {type: rouge}]
tracker: {type: mlflow}
"""
SWEEP = """\
sweep:
  arms:
    joint: {}
    ner_alone: {adapter.tasks: [ner]}
    summary_alone: {adapter.tasks: [summary]}
  space: {generator.num_few_shot: {grid: {none: 0, two: 2}}}
"""
VALID = """\
claims:
  helps: {arm: joint, better_than: ner_alone, metrics: [ner_f1], by: 0.01, where: {generator.num_few_shot: two}}
  reinforces: {arm: joint, reinforces: {rougeL: summary_alone, ner_f1: ner_alone}}
  harmless: {arm: joint, not_worse_than: ner_alone, metrics: [ner_f1, ner_recall], margin: 0.02}
criterion: {metrics: {summary: rougeL, ner: ner_f1}, single_task_arms: {summary: summary_alone, ner: ner_alone}}
"""


@pytest.fixture
def load(tmp_path):
    def load(claims, sweep=SWEEP):
        path = tmp_path / "claimed.yaml"
        path.write_text(BASE + sweep + claims)
        return load_spec(path)

    return load


@pytest.fixture
def problems(load):
    """Return the problems of claims as (line, column, path, message); lines are counted from the claims."""

    def problems(claims, sweep=SWEEP):
        with pytest.raises(SpecError) as caught:
            load(claims, sweep)
        first = (BASE + sweep).count("\n") + 1
        return [
            (each.line and each.line - first + 1, each.column, each.as_json()["path"], each.message)
            for each in caught.value.problems
        ]

    return problems


def test_names_that_the_spec_lacks_are_all_reported_with_line_column_and_suggestion(problems):
    found = problems(
        """\
claims:
  reinforced: {arm: jiont, reinforces: {rouge_L: summary_alone, ner_f1: ner_alon}}
  itself: {arm: joint, better_than: joint, metrics: [ner_f2]}
  point: {arm: joint, better_than: ner_alone, metrics: [ner_f1], where: {generator.num_few_shot: twoo, seeds: 1}}
criterion: {metrics: {summary: rougeL, nerr: ner_f1}, single_task_arms: {summary: summary_alon, match: joint}}
seed: many
"""
    )
    assert found == [
        (2, 16, "claims.reinforced.arm", "there is no arm 'jiont'; did you mean 'joint'?"),
        (2, 41, "claims.reinforced.reinforces.rouge_L", "the spec has no metric 'rouge_L'; did you mean 'rougeL'?"),
        (2, 65, "claims.reinforced.reinforces.ner_f1", "there is no arm 'ner_alon'; did you mean 'ner_alone'?"),
        (3, 24, "claims.itself.better_than", "compares the arm 'joint' with itself; name another arm"),
        (3, 54, "claims.itself.metrics.0", "the spec has no metric 'ner_f2'; did you mean 'ner_f1'?"),
        (
            4,
            74,
            "claims.point.where.generator.num_few_shot",
            "twoo is no value of grid none, two; did you mean 'two'?",
        ),
        (4, 104, "claims.point.where.seeds", "the sweep does not vary 'seeds'; valid: generator.num_few_shot"),
        (5, 40, "criterion.metrics.nerr", "no arm has the task 'nerr'; did you mean 'ner'?"),
        (
            5,
            74,
            "criterion.single_task_arms.summary",
            "there is no arm 'summary_alon'; did you mean 'summary_alone'?",
        ),
        (5, 97, "criterion.single_task_arms.match", "criterion.metrics has no task 'match'; valid: summary, nerr"),
        (6, 1, "seed", found[-1][3]),
    ]


@pytest.mark.parametrize(
    ("claim", "path", "message"),
    [
        ("{}", "", "is empty; a claim is, for example"),
        ("3", "", "must be a mapping"),
        ("{arm: joint}", "", "needs exactly one of better_than, not_worse_than, reinforces"),
        (
            "{arm: joint, better_than: ner_alone, reinforces: {ner_f1: ner_alone}}",
            "",
            "not better_than and reinforces",
        ),
        ("{arm: joint, better_than: ner_alone}", "", "`better_than` needs `metrics`"),
        ("{arm: joint, better_than: ner_alone, metrics: []}", "", "`better_than` needs `metrics`"),
        ("{arm: joint, reinforces: {}}", ".reinforces", "at least 1 item"),
        ("{arm: joint, reinforces: {ner_f1: ner_alone}, metrics: [ner_f1]}", "", "names the metrics itself"),
        ("{arm: joint, not_worse_than: ner_alone, metrics: [ner_f1]}", "", "needs a `margin`"),
        ("{arm: joint, better_than: ner_alone, metrics: [ner_f1], margin: 0.1}", "", "set `by`"),
        (
            "{arm: joint, not_worse_than: ner_alone, metrics: [ner_f1], margin: 0.1, by: 0.1}",
            "",
            "set `margin`",
        ),
        ("{arm: joint, better_than: ner_alone, metrics: [ner_f1, ner_f1]}", ".metrics", "listed more than once"),
        ("{arm: joint, better_than: ner_alone, metrics: [ner_f1], level: 0.5}", ".level", "less than 0.5"),
        ("{arm: joint, better_tha: ner_alone, metrics: [ner_f1]}", ".better_tha", "did you mean 'better_than'"),
        ("{better_than: ner_alone, metrics: [ner_f1]}", ".arm", "is missing: The arm that the claim is about."),
    ],
)
def test_a_claim_that_says_nothing_definite_is_an_error(problems, claim, path, message):
    found = problems(f"claims:\n  one: {claim}\n")
    assert all(each[0] == 2 for each in found)
    assert any(each[2] == f"claims.one{path}" and message in each[3] for each in found), found


def test_claims_without_arms_or_space_say_so(problems):
    seeds = "sweep: {seeds: [1, 2]}\n"
    claim = "claims: {one: {arm: joint, better_than: other, metrics: [ner_f1], where: {seed: 1}}}\n"
    for sweep in (seeds, ""):
        messages = [each[3] for each in problems(claim, sweep)]
        assert messages[0] == "there is no arm 'joint', because the spec has no `sweep.arms`; add the arms"
        assert messages[2] == "the sweep does not vary 'seed'; the sweep has no `space`, remove it"


def test_a_criterion_needs_the_only_arm_that_trains_on_a_task_alone_or_its_name(problems):
    [untrained, _] = problems("criterion: {metrics: {summary: rougeL, ner: ner_f1}}\n")
    assert untrained[3] == "no arm trains on the task 'summary' alone; name one in criterion.single_task_arms"


SFT, NER = {"type": "sft"}, {"type": "pfa", "tasks": ["ner"]}


@pytest.mark.parametrize(
    ("arms", "adapter", "trainer", "expected"),
    [
        ({"a": {"adapter.tasks": ["ner"]}, "b": {"adapter.tasks": ["ner", "match"]}}, {}, SFT, ["a"]),
        ({"a": {"adapter.tasks": ["ner"], "trainer": "none"}, "b": {"adapter.tasks": ["ner"]}}, {}, SFT, ["b"]),
        ({"a": {"adapter": NER}, "b": {"seed": 1}}, NER, SFT, ["a", "b"]),
        ({"a": {"adapter.tasks": ["ner"]}}, {}, "none", []),
        ({"a": {"adapter.tasks": ["ner"], "trainer": SFT}}, {}, "none", ["a"]),
        ({"a": {"adapter": NER, "adapter.tasks": ["match"]}, "b": None}, NER, SFT, []),
    ],
)
def test_the_arms_that_train_on_one_task_alone(arms, adapter, trainer, expected):
    assert list(single_task_candidates("ner", arms, adapter, trainer)) == expected


def test_a_claim_is_read_aloud(load):
    claims = load(VALID).spec.claims
    assert [str(claim) for claim in claims.values()] == [
        "joint is better than ner_alone on ner_f1 by more than 0.01 (generator.num_few_shot=two)",
        "joint reinforces: better than summary_alone on rougeL; better than ner_alone on ner_f1",
        "joint is not worse than ner_alone on ner_f1, ner_recall by 0.02 or more",
    ]
    assert [claim.threshold for claim in claims.values()] == [0.01, 0, -0.02]
    assert str(load(VALID).spec.criterion).startswith("an arm reinforces if it is better on each task (summary by rou")


def test_a_spec_with_claims_is_the_same_with_every_default_written_out(load):
    spec = load(VALID).spec
    assert read_plan(plan_json(spec)) == spec
    assert not {"claims", "criterion"} & load("").spec.as_json().keys()


def test_the_trials_of_a_sweep_have_no_claims(load):
    loaded = load(VALID)
    variants = SweepVariants(loaded.tree, SweepOptions.model_validate(loaded.tree.value["sweep"]))
    unclaimed = SweepVariants(load("").tree, variants.sweep)
    trees = [each.compose("ner_alone", {"generator.num_few_shot": "two"}, 3) for each in (variants, unclaimed)]
    assert trees[0].value == trees[1].value
    assert smoke_spec(loaded.spec).claims == {}
    assert smoke_spec(loaded.spec).criterion is None


@pytest.mark.parametrize("section", ["claims", "criterion"])
def test_claims_cannot_be_varied(problems, section):
    found = problems("", f"sweep: {{arms: {{one: {{{section}: {{}}}}}}}}\n")
    assert any(f"`{section}` must be the same for all trials of a sweep" in each[3] for each in found)


names = st.sampled_from(["joint", "ner_alone", "other"])


@given(
    st.fixed_dictionaries(
        {"arm": names},
        optional={
            "better_than": names,
            "not_worse_than": names,
            "reinforces": st.dictionaries(st.sampled_from(["ner_f1", "rougeL"]), names),
            "metrics": st.lists(st.sampled_from(["ner_f1", "rougeL"]), max_size=3),
            "by": st.floats(-0.5, 1.5),
            "margin": st.floats(-0.5, 1.5),
            "level": st.floats(-0.1, 0.6),
        },
    )
)
def test_a_claim_is_an_error_or_has_a_baseline_for_each_metric_and_is_equal_after_writing(values):
    try:
        claim = Claim.model_validate(values)
    except ValidationError:
        return
    assert claim.baselines and set(claim.baselines.values()) <= {"joint", "ner_alone", "other"}
    assert 0 < claim.level < 0.5
    assert (claim.threshold < 0) == (claim.form == "not_worse_than")
    assert Claim.model_validate(claim.model_dump(mode="json")) == claim
