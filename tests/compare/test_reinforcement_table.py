"""The arms of a sweep by its criterion: reinforces, trade, harms, undecided."""

import io
import json
import os
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from runner.cli.comparison_display import comparison_tables
from runner.compare import tables as paper_tables
from runner.compare.comparison import CompareOptions, compare
from runner.compare.reinforcement_table import ArmResult, TaskResult, arm_verdict, decide_arms
from runner.compare.resampling import Resampling
from tests.command import run_in_process
from tests.compare.conftest import CRITERION
from tests.compare.test_claim_evidence import evidence, one_sided

FAST = Resampling(num_resamples=300)


def table_of(storage, **options):
    comparison = compare(["swept"], storage.runs, CompareOptions(mre=True, resampling=FAST, **options))
    [table] = comparison.reinforcement
    return comparison, table


def test_every_arm_is_compared_with_the_arms_trained_on_one_task(claimed):
    comparison, table = table_of(claimed)
    arms = {arm.arm: arm for arm in table.arms}
    assert {name: arm.verdict for name, arm in arms.items()} == {
        "joint": "undecided",
        "ner_alone": None,
        "match_alone": None,
        "summary_alone": None,
        "without_ner": "harms",
    }
    joint = arms["joint"].tasks
    assert {task: result.effect for task, result in joint.items()} == {
        "summary": "undecided",
        "ner": "better",
        "match": "better",
    }
    assert list(arms["without_ner"].tasks) == ["summary", "match"], "a task that it lacks is left out"
    tests = {(test.pair.details["effect"], test.metric): test for test in comparison.tests}
    for effect, metric, task in (("ner alone", "ner_f1", "ner"), ("summary alone", "rougeL", "summary")):
        assert joint[task].evidence.test.difference == tests[effect, metric].difference
        assert joint[task].low < joint[task].value < joint[task].high


def test_the_pairs_by_tasks_stay(claimed):
    comparison, _ = table_of(claimed)
    assert {pair.name for pair in comparison.pairs} == {"ner alone", "match alone", "summary alone", "without ner"}


def test_without_a_criterion_there_is_no_table(ablation):
    comparison = compare(["swept"], ablation.runs, CompareOptions(mre=True, resampling=FAST))
    assert comparison.reinforcement == []
    assert comparison.as_json()["reinforcement"] == []


def test_the_json_document_has_the_arms(claimed):
    done = run_in_process(["compare", "swept", "--mre", "--resamples", 300, "--json"], claimed.folder, os.environ)
    [table] = json.loads(done.stdout)["reinforcement"]
    assert table["criterion"]["metrics"] == CRITERION["metrics"]
    assert table["registered"]["state"] == "before_results"
    joint = table["arms"][0]
    assert (joint["arm"], joint["num_runs"], joint["point"]) == ("joint", 3, None)
    assert joint["p_value"] == max(task["p_better"] for task in joint["tasks"]) <= joint["p_holm"]
    alone = table["arms"][1]
    assert alone["tasks"] == [{**alone["tasks"][0], "baseline": "ner_alone", "difference": None}]


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_table_fits_the_terminal(claimed, width):
    comparison, _ = table_of(claimed)
    console = Console(width=width, file=io.StringIO(), highlight=False)
    for table in comparison_tables(comparison, width=width, full=False, samples=False):
        console.print(table)
    text = console.file.getvalue()
    assert all(len(line) <= width for line in text.splitlines())
    assert "worse" in text and "harms" in text and "…" not in text


def test_markdown_has_a_row_for_each_arm(claimed):
    text = paper_tables.markdown(table_of(claimed)[0])
    [row] = [line for line in text.splitlines() if line.startswith("| without_ner | harms |")]
    assert row.count("|") == 10
    assert " worse | – | – | " in row
    assert "criterion registered: before results, 20" in text


def test_arms_that_differ_in_more_than_their_tasks_are_paired_by_name(storage):
    """No run has a counterpart with otherwise equal settings, so that only the criterion can pair them."""
    arms = {
        "staged": (["adapter.tasks=[ner,match]", "generator.num_few_shot=1"], 0.1),
        "ner_alone": (["adapter.tasks=[ner]"], 0.6),
        "match_alone": (["adapter.tasks=[match]"], 0.6),
    }
    storage.sweep(arms)
    criterion = {
        "metrics": {"ner": "ner_f1", "match": "image_entity_accuracy"},
        "single_task_arms": {"ner": "ner_alone", "match": "match_alone"},
    }
    storage.register({}, criterion)
    comparison, table = table_of(storage)
    assert table.arms[0].verdict == "reinforces"
    assert [pair.name for pair in comparison.pairs] == ["staged against ner_alone", "staged against match_alone"]
    assert [group.label for group in comparison.groups] == list(arms)


def test_a_missing_arm_of_a_single_task_leaves_the_differences_out(storage):
    storage.sweep({"joint": (["adapter.tasks=[ner,match]"], 0.1), "ner_alone": (["adapter.tasks=[ner]"], 0.6)})
    storage.register({}, {**CRITERION, "metrics": {"ner": "ner_f1", "match": "image_entity_accuracy"}})
    _, table = table_of(storage)
    joint = table.arms[0]
    assert (joint.verdict, joint.tasks["match"].evidence) == (None, None)
    assert joint.tasks["ner"].effect == "better"


@pytest.mark.parametrize("effects", list(product(["better", "worse", "undecided"], repeat=3)))
def test_the_verdict_of_an_arm(effects):
    verdict = arm_verdict(effects, is_better_on_all=False)
    if "worse" not in effects:
        assert verdict == "undecided"
    else:
        assert verdict == ("trade" if "better" in effects else "harms")
    assert arm_verdict(effects, is_better_on_all=True) == "reinforces"


def arm_result(name, p_values):
    tasks = {
        str(index): TaskResult(str(index), "m", 0.5, None, None, "alone", evidence(0.1, each, each), each.less)
        for index, each in enumerate(p_values)
    }
    return ArmResult(name, "", 3, tasks)


@given(st.lists(st.lists(one_sided, max_size=3), max_size=5), st.floats(0.001, 0.49))
def test_verdicts_agree_with_the_effects_of_their_tasks(arms, level):
    decided = decide_arms([arm_result(f"{number}", p_values) for number, p_values in enumerate(arms)], level)
    for arm, p_values in zip(decided, arms, strict=True):
        effects = [task.effect for task in arm.tasks.values()]
        assert (arm.verdict is None) == (len(p_values) < 2)
        if arm.verdict == "reinforces":
            assert "worse" not in effects
            assert all(each.greater <= arm.p_value <= arm.p_holm <= level for each in p_values)
        elif arm.verdict is not None:
            assert (arm.verdict in {"trade", "harms"}) == ("worse" in effects)
            assert (arm.verdict == "trade") == ("worse" in effects and "better" in effects)
