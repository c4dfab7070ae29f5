"""Comparisons of runs: grouping, rejected runs, the JSON document, and the mutual reinforcement effect."""

import json
from contextlib import suppress

import numpy as np
import pytest

from runner.compare import tracker_exchange
from runner.compare.comparison import CompareOptions, compare
from runner.compare.comparison_page import write_page
from runner.compare.resampling import Resampling
from runner.compare.tables import markdown
from runner.errors import DataError, SpecError
from runner.tracking import destination
from runner.tracking.destination import Destination

FAST = Resampling(num_resamples=300)


def options(**values):
    return CompareOptions(resampling=FAST, **values)


def labels(comparison):
    return [group.label for group in comparison.groups]


def test_arms_of_a_sweep_are_groups_with_one_run_per_seed(ablation):
    comparison = compare(["swept"], ablation.runs, options())
    assert labels(comparison) == ["joint", "ner_alone", "match_alone", "without_ner"]
    assert [len(group.runs) for group in comparison.groups] == [3, 3, 3, 3]
    assert [run.seed for run in comparison.groups[0].runs] == [1, 2, 3]
    assert any("only 3 seeds per group" in warning for warning in comparison.warnings)


def test_a_group_metric_is_the_mean_over_its_runs(ablation):
    comparison = compare(["swept"], ablation.runs, options(by="arm"))
    document = comparison.as_json()["groups"][0]
    values = [json.loads((run.folder / "metrics.json").read_text())["ner_f1"] for run in comparison.groups[0].runs]
    assert document["metrics"]["ner_f1"]["mean"] == pytest.approx(sum(values) / 3)
    assert (
        document["metrics"]["ner_f1"]["low"]
        < document["metrics"]["ner_f1"]["mean"]
        < document["metrics"]["ner_f1"]["high"]
    )
    assert set(document["metrics"]) == {
        *("rouge1", "rouge2", "rougeL", "bleu"),
        *("ner_precision", "ner_recall", "ner_f1", "image_entity_accuracy"),
    }
    assert "rouge1" not in comparison.as_json()["groups"][1]["metrics"]


def test_every_group_is_compared_with_the_baseline(ablation):
    comparison = compare(["swept"], ablation.runs, options(by="adapter.tasks", baseline="ner", metrics=["ner_f1"]))
    assert labels(comparison) == ["summary, ner, match", "ner", "match", "summary, match"]
    (test,) = comparison.as_json()["tests"]
    assert (test["a"], test["b"]) == (["summary", "ner", "match"], ["ner"])
    assert test["difference"] == pytest.approx(test["value_a"] - test["value_b"])
    assert test["low"] < test["difference"] < test["high"]
    assert test["difference"] > 0.2
    assert test["p_value"] == test["p_holm"] < 0.001
    assert test["interval_agrees"]
    assert test["better"] > test["worse"]
    assert test["better"] + test["worse"] + test["equal"] == 40


@pytest.mark.parametrize("written", ["summary, ner, match", "summary,ner,match", '["summary", "ner", "match"]'])
def test_a_baseline_is_accepted_as_label_or_as_json(ablation, written):
    comparison = compare(["swept"], ablation.runs, options(by="adapter.tasks", baseline=written, metrics=["ner_f1"]))
    assert {test["b"][0] for test in comparison.as_json()["tests"]} == {"summary"}


def test_mutual_reinforcement_matches_runs_by_tasks_not_by_names(ablation):
    comparison = compare(["swept"], ablation.runs, options(mre=True))
    effects = {(test["effect"], test["metric"]): test for test in comparison.as_json()["tests"]}
    assert {effect for effect, _ in effects} == {"ner alone", "match alone", "without ner"}
    assert effects["ner alone", "ner_f1"]["difference"] > 0.2
    assert effects["ner alone", "ner_f1"]["low"] > 0
    assert effects["match alone", "image_entity_accuracy"]["p_value"] < 0.05
    same = effects["without ner", "rouge1"]
    assert (same["difference"], same["low"], same["high"], same["p_value"]) == (0.0, 0.0, 0.0, 1.0)
    assert same["effect_size"] is None


def test_runs_of_different_budgets_are_compared_separately(storage):
    arms = {}
    for budget in (1, 2):
        for name, tasks in (("joint", "ner,match"), ("alone", "ner")):
            arms[f"{name}{budget}"] = ([f"adapter.tasks=[{tasks}]", f"generator.num_few_shot={budget}"], 0.1 * budget)
    storage.sweep(arms, seeds=(1, 2))
    tests = compare(["swept"], storage.runs, options(mre=True, metrics=["ner_f1"])).as_json()["tests"]
    assert [(test["effect"], test["budget"]) for test in tests] == [
        ("ner alone", "num_few_shot=1"),
        ("ner alone", "num_few_shot=2"),
    ]


def test_a_budget_is_named_by_its_settings_that_are_not_null(storage):
    arms = {}
    for budget in ("null", '["person","location","organization","other"]'):
        for name, tasks in (("joint", "ner,match"), ("alone", "ner")):
            arms[f"{name}{budget}"] = ([f"adapter.tasks=[{tasks}]", f"adapter.labels={budget}"], 0.1)
    storage.sweep(arms, seeds=(1,))
    tests = compare(["swept"], storage.runs, options(mre=True, metrics=["ner_f1"])).as_json()["tests"]
    assert [test["budget"] for test in tests] == ["labels=none", "labels=person, location, organization, other"]


def test_mutual_reinforcement_needs_a_run_on_all_tasks(storage):
    storage.sweep(
        {"one": (["adapter.tasks=[ner,match]"], 0.1), "other": (["adapter.tasks=[summary]"], 0.1)}, seeds=(1,)
    )
    with pytest.raises(SpecError, match="The runs have the tasks: ner, match; summary"):
        compare(["swept"], storage.runs, options(mre=True))


def test_repeated_seeds_give_a_warning(storage):
    storage.run(experiment="one", error_rate=0.1)
    storage.run(experiment="two", error_rate=0.1)
    comparison = compare(["one", "two"], storage.runs, options())
    assert any("has several runs with the same seed" in warning for warning in comparison.warnings)


def test_mutual_reinforcement_without_counterparts_lists_the_tasks(storage):
    storage.sweep({"joint": ([], 0.1)})
    with pytest.raises(SpecError, match=r"summary, ner, match.*specs/mre_ablation.yaml"):
        compare(["swept"], storage.runs, options(mre=True))


def test_different_data_sets_are_rejected_by_fingerprint(storage):
    storage.run(experiment="one")
    storage.run(f"data.path={storage.folder / 'other'}", "data.seed=5", experiment="two")
    with pytest.raises(SpecError, match=r"2 different data sets, by fingerprint: [0-9a-f]{12} of one/trial-"):
        compare(["one", "two"], storage.runs, options())


def test_different_sample_ids_with_the_same_fingerprint_are_rejected(storage):
    storage.run(experiment="one")
    run = storage.run("seed=2", experiment="two")
    run.scores.write_text(run.scores.read_text().replace('"test-40"', '"test-41"'))
    with pytest.raises(SpecError, match="2 ids are only in one of them, such as 'test-40'"):
        compare(["one", "two"], storage.runs, options())


def test_different_parse_modes_are_rejected_until_one_is_chosen(storage):
    storage.run(experiment="one", error_rate=0.2)
    storage.run("adapter.parse=published", experiment="two", error_rate=0.2)
    with pytest.raises(SpecError, match=r"lossless of one/.*published of two/.*--parse"):
        compare(["one", "two"], storage.runs, options())
    comparison = compare(["one", "two"], storage.runs, options(parse="published"))
    assert {test.difference for test in comparison.tests} == {0.0}
    assert comparison.as_json()["parse"] == "published"
    with pytest.raises(SpecError, match=r"--parse strict: not all runs were scored in this parse mode; .*lossless"):
        compare(["one", "two"], storage.runs, options(parse="strict"))


def test_unfinished_runs_are_rejected_or_skipped(storage):
    storage.run(experiment="one")
    storage.run("seed=2", experiment="one", status="interrupted")
    with pytest.raises(SpecError, match=r"1 of 2 runs are not finished: one/trial-\w+ \(interrupted\).*--finished"):
        compare(["one"], storage.runs, options())
    comparison = compare(["one"], storage.runs, options(finished_only=True))
    assert "skipped 1 interrupted run" in comparison.warnings
    assert len(comparison.runs) == 1


def test_a_single_run_has_metrics_and_no_tests(storage):
    storage.run(experiment="one", error_rate=0.3)
    document = compare(["one"], storage.runs, options()).as_json()
    assert document["tests"] == []
    metric = document["groups"][0]["metrics"]["ner_f1"]
    assert (metric["std"], metric["low"], metric["high"]) == (None, None, None)
    assert metric["sample_low"] < metric["mean"] < metric["sample_high"]


def test_a_trial_of_an_earlier_sweep_in_the_same_folder_is_skipped(storage):
    storage.sweep({"joint": ([], 0.1)}, seeds=(1, 2))
    storage.run("seed=9", experiment="swept")
    assert [run.seed for run in compare(["swept"], storage.runs, options()).runs] == [1, 2]


def test_runs_of_a_group_that_differ_in_more_than_the_seed_give_a_warning(storage):
    storage.run("generator.num_few_shot=1", experiment="one")
    storage.run("generator.num_few_shot=2", experiment="two")
    comparison = compare(["one", "two"], storage.runs, options(by="adapter.type"))
    assert "the runs of pfa differ in more than their seed: num_few_shot" in comparison.warnings
    assert labels(compare(["one", "two"], storage.runs, options(by="generator.num_few_shot"))) == ["1", "2"]
    assert labels(compare(["one", "two"], storage.runs, options())) == ["one", "two"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(by="adapter.task"), "no run has this setting; did you mean 'adapter.tasks'"),
        (
            dict(by="arm", baseline="jiont"),
            "--baseline jiont: no group has this value; the groups are: joint; ner",
        ),
        (dict(metrics=["ner_f2"]), "--metric ner_f2: no run has this metric; did you mean 'ner_f1'"),
        (dict(mre=True, by="arm"), "--mre groups by adapter.tasks"),
    ],
)
def test_unknown_names_are_rejected(ablation, values, message):
    with pytest.raises(SpecError, match=message):
        compare(["swept"], ablation.runs, options(**values))


def test_grouping_by_arm_needs_a_sweep(storage):
    storage.run(experiment="one")
    with pytest.raises(SpecError, match=r"--by arm: one/trial-.* is not a trial of a sweep"):
        compare(["one"], storage.runs, options(by="arm"))


def without_last_line(text):
    return "".join(text.splitlines(keepends=True)[:-1])


def with_a_sample_twice(text):
    return text.replace('"test-40"', '"test-39"')


@pytest.mark.parametrize("spoil", [without_last_line, with_a_sample_twice, lambda text: text[:-10]])
def test_scores_that_lack_a_sample_are_refused(storage, spoil):
    run = storage.run(experiment="one", error_rate=0.3)
    run.scores.write_text(spoil(run.scores.read_text()))
    message = r"one/trial-\w+: scores.jsonl has the scores of 39 samples, but .* has 40 samples; .* --rerun score"
    with pytest.raises(DataError, match=message):
        compare(["one"], storage.runs, options())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda run: run.scores.unlink(),
        lambda run: run.scores.write_text("{}\n"),
        lambda run: run.scores.write_text('{"id": "a", "counts": 5}\n'),
        lambda run: run.scores.write_text("[" * 5000 + "\n"),
        lambda run: run.plan.write_text("[]"),
        lambda run: run.plan.write_text("[" * 5000),
    ],
)
def test_a_broken_run_is_named_with_the_command_that_restores_it(storage, spoil):
    run = storage.run(experiment="one")
    spoil(run)
    with pytest.raises(DataError, match=r"one/trial-\w+: .*runner launch .*plan.json"):
        compare(["one"], storage.runs, options())


OTHER_VALUES = (None, 3, "x", [[1]])


@pytest.mark.parametrize("file", ["plan.json", "scores.jsonl"])
def test_a_field_of_another_type_is_an_error_that_names_the_run_or_has_no_effect(storage, file):
    run = storage.run(experiment="one", error_rate=0.3)
    path = run.path / file
    text = path.read_text()
    rows = [json.loads(line) for line in (text.splitlines() if file == "scores.jsonl" else [text])]
    for field in rows[0]:
        for value in OTHER_VALUES:
            path.write_text("".join(f"{json.dumps({**row, field: value})}\n" for row in rows))
            with suppress(SpecError, DataError):
                comparison = compare(["one"], storage.runs, options())
                json.dumps(comparison.as_json())
    path.write_text(text)
    compare(["one"], storage.runs, options())


def test_a_page_and_the_warnings_say_where_p_value_and_interval_disagree(storage, monkeypatch):
    from runner.compare import statistics

    storage.run(experiment="one", error_rate=0.1)
    storage.run("generator.num_few_shot=1", experiment="two", error_rate=0.6)
    agreeing = compare(["one", "two"], storage.runs, options(metrics=["ner_f1"]))
    assert agreeing.tests[0].interval_agrees
    assert not any("disagree" in warning for warning in agreeing.warnings)
    monkeypatch.setattr(statistics, "studentised_p_value", lambda *_: 0.3)
    comparison = compare(["one", "two"], storage.runs, options(metrics=["ner_f1", "bleu"]))
    [warning] = [warning for warning in comparison.warnings if "disagree" in warning]
    assert warning.startswith("interval over samples and p-value disagree for ner_f1 of one vs two; bleu of one")
    assert [test["interval_agrees"] for test in comparison.as_json()["tests"]] == [False, False]
    write_page(storage.folder / "page.html", comparison)
    assert "interval over samples and p-value disagree for ner_f1" in (storage.folder / "page.html").read_text(
        encoding="utf-8"
    )
    assert "Note: interval over samples and p-value disagree" in markdown(comparison)


def test_a_metric_that_has_changed_since_the_run_is_rejected(storage):
    run = storage.run(experiment="one", error_rate=0.3)
    document = json.loads(run.metrics.read_text())
    run.metrics.write_text(json.dumps({**document, "ner_f1": document["ner_f1"] + 0.01}))
    with pytest.raises(DataError, match=r"ner_f1 is .* in metrics.json, but .* changed since"):
        compare(["one"], storage.runs, options())


def test_subgroups_are_by_label_and_by_number_of_segments(ablation):
    document = compare(["swept"], ablation.runs, options(by="arm", baseline="ner_alone", metrics=["ner_f1"])).as_json()
    kinds = {(part["by"], part["value"]): part for part in document["parts"]}
    assert {by for by, _ in kinds} == {"label", "segments"}
    numbers = [part["num_samples"] for (by, _), part in kinds.items() if by == "segments"]
    assert sum(numbers) == 40
    assert all(part["low"] <= part["difference"] <= part["high"] for part in kinds.values())


def test_disagreements_are_sorted_by_size_and_limited(ablation):
    comparison = compare(
        ["swept"], ablation.runs, options(by="arm", baseline="joint", metrics=["ner_f1"], num_disagreements=4)
    )
    sizes = [disagreement.largest_difference for disagreement in comparison.disagreements]
    assert len(sizes) == 4
    assert sizes == sorted(sizes, reverse=True)
    first = comparison.disagreements[0]
    counts = [run.scores[first.id]["counts"]["ner_f1"] for run in comparison.groups[1].runs]
    by_hand = sum(2 * count["matched"] / (count["predicted"] + count["reference"]) for count in counts) / 3
    assert first.values["ner_f1"][0] == pytest.approx(by_hand)


def test_the_effect_size_of_a_mean_is_cohens_d_of_paired_values(storage):
    storage.run(experiment="one", error_rate=0.2)
    storage.run("generator.num_few_shot=1", experiment="two", error_rate=0.5)
    comparison = compare(["one", "two"], storage.runs, CompareOptions(metrics=["bleu"]))
    one, other = (
        np.array([row["counts"]["bleu"]["bleu"] for row in group.runs[0].scores.values()])
        for group in comparison.groups
    )
    assert comparison.tests[0].effect_size == pytest.approx(np.mean(one - other) / np.std(one - other), rel=0.03)


def test_every_part_of_a_comparison_is_shown_in_a_few_lines(ablation):
    comparison = compare(["swept"], ablation.runs, options(mre=True))
    parts = [comparison, *comparison.tests, *comparison.groups, *comparison.pairs, *comparison.runs]
    assert all(len(repr(part)) < 300 for part in [*parts, *comparison.subgroups])
    assert all(len(repr(part)) < 1000 for part in comparison.disagreements)
    assert len(repr(comparison.tests)) < 150 * len(comparison.tests)
    assert "p_holm" in comparison.tests._repr_html_()
    assert comparison._repr_html_() == comparison.tests._repr_html_()


def test_the_frames_of_a_comparison_have_a_row_for_each_result(ablation):
    comparison = compare(["swept"], ablation.runs, options(by="arm", baseline="joint"))
    frame = comparison.frame()
    assert frame.equals(comparison.tests.frame())
    assert list(frame["metric"]) == [test.metric for test in comparison.tests]
    assert set(zip(frame["a"], frame["b"], strict=True)) == {
        (arm, "joint") for arm in ("ner_alone", "match_alone", "without_ner")
    }
    for column in ("difference", "low", "high", "p_value", "p_holm", "interval_agrees"):
        assert list(frame[column]) == [getattr(test, column) for test in comparison.tests]
    assert frame["seed_low"][0] == comparison.tests[0].seeds.low
    differing = comparison.disagreements.frame()
    assert list(differing["id"]) == [each.id for each in comparison.disagreements]
    assert differing["ner_f1/a"][0] == comparison.disagreements[0].values["ner_f1"][0]
    assert list(comparison.subgroups.frame()["low"]) == [each.low for each in comparison.subgroups]


def test_a_comparison_is_deterministic(ablation):
    one, other = (compare(["swept"], ablation.runs, options(mre=True)).as_json() for _ in range(2))
    assert one == other


class UnreachableTracker:
    def __init__(self, options, storage): ...

    def log_file(self, run_id, file, folder):
        raise ConnectionError("nobody at postgresql://me:hunter2@there/runs")


def attach(storage, runs, opened, monkeypatch, spec_file=None, tracker=UnreachableTracker):
    """Attach a page to runs; the sections of the trackers that are opened are added to `opened`."""
    monkeypatch.setattr(tracker_exchange, "tracker_state", lambda folder: {"run_id": folder.parent.name})
    monkeypatch.setattr(
        destination, "create_plugin", lambda section, folder: opened.append((section, folder)) or tracker(None, folder)
    )
    permitted = Destination.from_options(storage, spec_file)
    return list(tracker_exchange.attach_page(storage / "page.html", runs, permitted))


def test_a_failed_upload_gives_one_warning(ablation, monkeypatch):
    runs = compare(["swept"], ablation.runs, options(metrics=["bleu"])).runs
    (message,) = attach(ablation.runs, runs, [], monkeypatch)
    cause = "ConnectionError: nobody at postgresql://me@there/runs"
    assert message == f"warning: upload to the tracker of swept failed ({cause})"


def test_a_page_is_not_sent_to_the_address_in_the_plan_of_a_run(storage, monkeypatch):
    storage.run("tracker.uri=http://stranger.example:5000", experiment="theirs")
    storage.run(experiment="mine")
    runs, opened = compare(["theirs", "mine"], storage.runs, options(metrics=["bleu"])).runs, []
    refused, failed = attach(storage.runs, runs, opened, monkeypatch)
    assert refused.startswith("not uploaded to a tracker for theirs: ") and "--to SPEC" in refused
    assert "mine failed" in failed
    assert [(section.options.uri, folder) for section, folder in opened] == [(None, storage.runs)]


def test_a_page_is_not_added_to_a_store_beside_runs_of_another_folder(storage, tmp_path, monkeypatch):
    theirs = storage.run(experiment="theirs").path
    opened, runs = [], compare([str(theirs)], storage.runs, options(metrics=["bleu"])).runs
    (message,) = attach(tmp_path / "own", runs, opened, monkeypatch)
    assert "--to SPEC" in message and opened == []
    spec_file = storage.folder / "own.yaml"
    spec_file.write_text("extends: spec.yaml\ntracker: {type: mlflow, uri: 'http://own.example:5000'}\n")
    attach(tmp_path / "own", runs, opened, monkeypatch, spec_file)
    assert [section.options.uri for section, _ in opened] == ["http://own.example:5000"]


def test_different_prompts_for_the_same_task_are_a_warning(storage):
    runs = [storage.run(f"seed={seed}") for seed in (1, 2)]

    def warnings(*prompts):
        for run, digests in zip(runs, prompts, strict=True):
            run.update_record(prompts=digests)
        found = compare(["tiny"], storage.runs, options()).warnings
        return [warning for warning in found if "other prompts" in warning]

    [warning] = warnings({"ner": "a", "match": "c"}, {"ner": "b", "summary": "c"})
    first, second = sorted(run.name for run in runs)  # the names are hashes; runs are compared in their order
    assert f"{second}: asked ner with other prompts than {first}" in warning
    assert not warnings({"ner": "a"}, {"ner": "a", "summary": "c"})
    assert not warnings({}, {"ner": "a"})


def test_groups_of_different_regimes_have_the_names_of_their_arms(storage):
    per_task, context = "regime.prompts=per_task", "regime.context={ner: [summary]}"
    arms = {
        "mixed": ((per_task,), 0.1),
        "conditioned": ((per_task, context), 0.2),
        "ner_alone": ((per_task, "adapter.tasks=[ner]"), 0.4),
    }
    storage.sweep(arms)
    comparison = compare(["swept"], storage.runs, options(mre=True))
    assert sorted(labels(comparison)) == sorted(arms)
    (pair,) = comparison.pairs
    assert (pair.a.label, pair.b.label) == ("mixed", "ner_alone")
    assert pair.details == {"effect": "ner alone", "budget": "mixed"}
