"""Runs in, a comparison out: grouping, refusals, what the record holds, and the mutual reinforcement effect."""

import json

import numpy as np
import pytest

from runner.compare.comparison import CompareOptions, compare
from runner.compare.resampling import Resampling
from runner.errors import DataError, SpecError

FAST = Resampling(num_resamples=300)


def ask(**how):
    return CompareOptions(resampling=FAST, **how)


def labels(found):
    return [group.label for group in found.groups]


def test_arms_of_a_sweep_are_groups_in_their_order_and_seeds_repeat_them(ablation):
    found = compare(["swept"], ablation.runs, ask())
    assert labels(found) == ["joint", "ner_alone", "match_alone", "without_ner"]
    assert [len(group.runs) for group in found.groups] == [3, 3, 3, 3]
    assert [run.seed for run in found.groups[0].runs] == [1, 2, 3]
    assert any("3 seeds a group say little" in each for each in found.warnings)


def test_the_figures_of_a_group_are_those_of_its_runs(ablation):
    found = compare(["swept"], ablation.runs, ask(by="arm"))
    told = found.as_json()["groups"][0]
    values = [json.loads((run.folder / "metrics.json").read_text())["ner_f1"] for run in found.groups[0].runs]
    assert told["metrics"]["ner_f1"]["mean"] == pytest.approx(sum(values) / 3)
    assert told["metrics"]["ner_f1"]["low"] < told["metrics"]["ner_f1"]["mean"] < told["metrics"]["ner_f1"]["high"]
    assert set(told["metrics"]) == {
        *("rouge1", "rouge2", "rougeL", "bleu"),
        *("ner_precision", "ner_recall", "ner_f1", "image_entity_accuracy"),
    }
    assert "rouge1" not in found.as_json()["groups"][1]["metrics"]


def test_a_baseline_is_taken_from_all_others(ablation):
    found = compare(["swept"], ablation.runs, ask(by="adapter.tasks", baseline="ner", metrics=["ner_f1"]))
    assert labels(found) == ["summary, ner, match", "ner", "match", "summary, match"]
    (test,) = found.as_json()["tests"]
    assert (test["a"], test["b"]) == (["summary", "ner", "match"], ["ner"])
    assert test["difference"] == pytest.approx(test["value_a"] - test["value_b"])
    assert test["low"] < test["difference"] < test["high"]
    assert test["difference"] > 0.2
    assert test["p_value"] == test["p_holm"] == pytest.approx(1 / 301)
    assert test["better"] > test["worse"]
    assert test["better"] + test["worse"] + test["equal"] == 40


@pytest.mark.parametrize("written", ["summary, ner, match", "summary,ner,match", '["summary", "ner", "match"]'])
def test_a_baseline_is_named_as_it_is_shown_or_as_json(ablation, written):
    found = compare(["swept"], ablation.runs, ask(by="adapter.tasks", baseline=written, metrics=["ner_f1"]))
    assert {test["b"][0] for test in found.as_json()["tests"]} == {"summary"}


def test_mutual_reinforcement_is_found_by_tasks_and_not_by_names(ablation):
    found = compare(["swept"], ablation.runs, ask(mre=True))
    effects = {(test["effect"], test["metric"]): test for test in found.as_json()["tests"]}
    assert {effect for effect, _ in effects} == {"ner alone", "match alone", "without ner"}
    assert effects["ner alone", "ner_f1"]["difference"] > 0.2
    assert effects["ner alone", "ner_f1"]["low"] > 0
    assert effects["match alone", "image_entity_accuracy"]["p_value"] < 0.05
    same = effects["without ner", "rouge1"]
    assert (same["difference"], same["low"], same["high"], same["p_value"]) == (0.0, 0.0, 0.0, 1.0)
    assert same["effect_size"] is None


def test_runs_of_different_budgets_are_not_taken_together(storage):
    arms = {}
    for budget in (1, 2):
        for name, tasks in (("joint", "ner,match"), ("alone", "ner")):
            arms[f"{name}{budget}"] = ([f"adapter.tasks=[{tasks}]", f"generator.num_few_shot={budget}"], 0.1 * budget)
    storage.sweep(arms, seeds=(1, 2))
    tests = compare(["swept"], storage.runs, ask(mre=True, metrics=["ner_f1"])).as_json()["tests"]
    assert [(test["effect"], test["budget"]) for test in tests] == [
        ("ner alone", "num_few_shot=1"),
        ("ner alone", "num_few_shot=2"),
    ]


def test_a_budget_is_named_by_what_is_set_in_it(storage):
    arms = {}
    for budget in ("null", '["person","location","organization","other"]'):
        for name, tasks in (("joint", "ner,match"), ("alone", "ner")):
            arms[f"{name}{budget}"] = ([f"adapter.tasks=[{tasks}]", f"adapter.labels={budget}"], 0.1)
    storage.sweep(arms, seeds=(1,))
    tests = compare(["swept"], storage.runs, ask(mre=True, metrics=["ner_f1"])).as_json()["tests"]
    assert [test["budget"] for test in tests] == ["labels=none", "labels=person, location, organization, other"]


def test_without_a_run_on_all_tasks_none_is_taken_for_one(storage):
    storage.sweep(
        {"one": (["adapter.tasks=[ner,match]"], 0.1), "other": (["adapter.tasks=[summary]"], 0.1)}, seeds=(1,)
    )
    with pytest.raises(SpecError, match="There are: ner, match; summary"):
        compare(["swept"], storage.runs, ask(mre=True))


def test_a_run_that_is_there_twice_is_told_about(storage):
    storage.run(experiment="one", spoilt=0.1)
    storage.run(experiment="two", spoilt=0.1)
    found = compare(["one", "two"], storage.runs, ask())
    assert any("has runs of the same seed" in each for each in found.warnings)


def test_nothing_to_reinforce_is_said_with_what_there_is(storage):
    storage.sweep({"joint": ([], 0.1)})
    with pytest.raises(SpecError, match=r"summary, ner, match.*specs/mre_ablation.yaml"):
        compare(["swept"], storage.runs, ask(mre=True))


def test_different_test_sets_are_refused_by_their_fingerprints(storage):
    storage.run(experiment="one")
    storage.run(f"data.path={storage.folder / 'other'}", "data.seed=5", experiment="two")
    with pytest.raises(SpecError, match=r"2 different data sets, by fingerprint: [0-9a-f]{12} of one/trial-"):
        compare(["one", "two"], storage.runs, ask())


def test_other_samples_under_the_same_fingerprint_are_refused(storage):
    storage.run(experiment="one")
    run = storage.run("seed=2", experiment="two")
    kept = run.scores.read_text().splitlines(keepends=True)[:-1]
    run.scores.write_text("".join(kept))
    with pytest.raises(SpecError, match="ids that one of them alone has: 1, such as 'test-40'"):
        compare(["one", "two"], storage.runs, ask())


def test_different_ways_of_reading_are_refused_until_one_is_chosen(storage):
    storage.run(experiment="one", spoilt=0.2)
    storage.run("adapter.parse=published", experiment="two", spoilt=0.2)
    with pytest.raises(SpecError, match=r"lossless of one/.*published of two/.*--parse"):
        compare(["one", "two"], storage.runs, ask())
    found = compare(["one", "two"], storage.runs, ask(parse="published"))
    assert {test.difference for test in found.tests} == {0.0}
    assert found.as_json()["parse"] == "published"
    with pytest.raises(SpecError, match=r"--parse strict: not all runs were read in that way; .*lossless"):
        compare(["one", "two"], storage.runs, ask(parse="strict"))


def test_unfinished_runs_are_refused_or_left_out(storage):
    storage.run(experiment="one")
    storage.run("seed=2", experiment="one", status="interrupted")
    with pytest.raises(SpecError, match=r"1 of 2 runs are not finished: one/trial-\w+ \(interrupted\).*--finished"):
        compare(["one"], storage.runs, ask())
    found = compare(["one"], storage.runs, ask(finished=True))
    assert "left out: 1 that was interrupted" in found.warnings
    assert len(found.runs) == 1


def test_one_run_alone_has_figures_and_no_tests(storage):
    storage.run(experiment="one", spoilt=0.3)
    told = compare(["one"], storage.runs, ask()).as_json()
    assert told["tests"] == []
    figure = told["groups"][0]["metrics"]["ner_f1"]
    assert (figure["std"], figure["low"], figure["high"]) == (None, None, None)
    assert figure["sample_low"] < figure["mean"] < figure["sample_high"]


def test_a_trial_of_an_earlier_sweep_in_the_same_folder_is_left_out(storage):
    storage.sweep({"joint": ([], 0.1)}, seeds=(1, 2))
    storage.run("seed=9", experiment="swept")
    assert [run.seed for run in compare(["swept"], storage.runs, ask()).runs] == [1, 2]


def test_runs_of_a_group_that_differ_in_more_than_their_seed_are_told_about(storage):
    storage.run("generator.num_few_shot=1", experiment="one")
    storage.run("generator.num_few_shot=2", experiment="two")
    found = compare(["one", "two"], storage.runs, ask(by="adapter.type"))
    assert "the runs of pfa differ in more than their seed: num_few_shot" in found.warnings
    assert labels(compare(["one", "two"], storage.runs, ask(by="generator.num_few_shot"))) == ["1", "2"]
    assert labels(compare(["one", "two"], storage.runs, ask())) == ["one", "two"]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (dict(by="adapter.task"), "no run has such a setting; did you mean 'adapter.tasks'"),
        (dict(by="arm", baseline="jiont"), "--baseline jiont: no group has that value; there are: joint; ner_alone"),
        (dict(metrics=["ner_f2"]), "--metric ner_f2: no run has such a figure; did you mean 'ner_f1'"),
        (dict(mre=True, by="arm"), "--mre groups by adapter.tasks"),
    ],
)
def test_a_question_that_has_no_answer_is_said(ablation, question, message):
    with pytest.raises(SpecError, match=message):
        compare(["swept"], ablation.runs, ask(**question))


def test_an_arm_is_asked_of_a_run_that_has_none(storage):
    storage.run(experiment="one")
    with pytest.raises(SpecError, match=r"--by arm: one/trial-.* is no trial of a sweep"):
        compare(["one"], storage.runs, ask(by="arm"))


@pytest.mark.parametrize("spoil", [lambda run: run.scores.unlink(), lambda run: run.scores.write_text("{}\n")])
def test_a_broken_run_is_named_with_what_makes_it_anew(storage, spoil):
    run = storage.run(experiment="one")
    spoil(run)
    with pytest.raises(DataError, match=r"one/trial-\w+: .*runner launch .*plan.json"):
        compare(["one"], storage.runs, ask())


def test_a_metric_that_counts_otherwise_now_is_refused(storage):
    run = storage.run(experiment="one", spoilt=0.3)
    told = json.loads(run.metrics.read_text())
    run.metrics.write_text(json.dumps({**told, "ner_f1": told["ner_f1"] + 0.01}))
    with pytest.raises(DataError, match=r"ner_f1 is .* in metrics.json, and .* changed since"):
        compare(["one"], storage.runs, ask())


def test_parts_are_by_label_and_by_number_of_segments(ablation):
    told = compare(["swept"], ablation.runs, ask(by="arm", baseline="ner_alone", metrics=["ner_f1"])).as_json()
    kinds = {(part["by"], part["value"]): part for part in told["parts"]}
    assert {by for by, _ in kinds} == {"label", "segments"}
    numbers = [part["num_samples"] for (by, _), part in kinds.items() if by == "segments"]
    assert sum(numbers) == 40
    assert all(part["low"] <= part["difference"] <= part["high"] for part in kinds.values())


def test_disagreements_are_the_largest_first_and_as_many_as_wanted(ablation):
    found = compare(["swept"], ablation.runs, ask(by="arm", baseline="joint", metrics=["ner_f1"], samples=4))
    sizes = [each.size for each in found.disagreements]
    assert len(sizes) == 4
    assert sizes == sorted(sizes, reverse=True)
    first = found.disagreements[0]
    run = found.groups[1].runs
    scored = [each.rows[first.id]["counts"]["ner_f1"] for each in run]
    by_hand = sum(2 * each["matched"] / (each["predicted"] + each["reference"]) for each in scored) / 3
    assert first.figures["ner_f1"][0] == pytest.approx(by_hand)


def test_the_effect_size_of_a_mean_is_cohens_d_of_paired_values(storage):
    storage.run(experiment="one", spoilt=0.2)
    storage.run("generator.num_few_shot=1", experiment="two", spoilt=0.5)
    found = compare(["one", "two"], storage.runs, CompareOptions(metrics=["bleu"]))
    one, other = (
        np.array([row["counts"]["bleu"]["bleu"] for row in group.runs[0].rows.values()]) for group in found.groups
    )
    assert found.tests[0].effect_size == pytest.approx(np.mean(one - other) / np.std(one - other), rel=0.03)


def test_the_same_question_has_the_same_answer(ablation):
    one, other = (compare(["swept"], ablation.runs, ask(mre=True)).as_json() for _ in range(2))
    assert one == other


class Away:
    def __init__(self, options, storage): ...

    def attach(self, run_id, file, folder):
        raise ConnectionError("nobody there")


def test_a_tracker_that_is_away_is_told_about_once_and_harms_nothing(ablation, monkeypatch):
    from runner.compare import tracker_runs as tracked

    monkeypatch.setattr(tracked, "tracker_state", lambda folder: {"run_id": folder.name})
    monkeypatch.setattr(tracked, "implement", lambda part, storage: Away(part.options, storage))
    runs = compare(["swept"], ablation.runs, ask(metrics=["bleu"])).runs
    (told,) = tracked.attach_page(ablation.folder / "page.html", runs)
    assert told == "warning: the tracker of swept has not taken it (ConnectionError: nobody there)"
