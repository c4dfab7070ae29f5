"""Claims in a comparison: verdicts, points of the space, what is missing, and every form of output."""

import io
import json
import os

import pytest
from rich.console import Console

from runner.cli.comparison_display import comparison_tables
from runner.compare import tables as paper_tables
from runner.compare.comparison import CompareOptions, compare
from runner.compare.comparison_page import write_page
from runner.compare.resampling import Resampling
from runner.errors import DataError
from runner.files import write_json
from tests.command import run_in_process

FAST = Resampling(num_resamples=300)
OTHER_BUDGET = "generator.num_few_shot"


def compared(storage, **options):
    return compare(["swept"], storage.runs, CompareOptions(resampling=FAST, **options))


def verdicts(comparison):
    return {claim.name: claim.verdict for claim in comparison.claims}


@pytest.fixture(scope="module")
def comparison(claimed):
    return compared(claimed)


def test_each_claim_has_a_verdict_and_the_reason(comparison):
    assert verdicts(comparison) == {
        "reinforces": "undecided",
        "entities": "supported",
        "backwards": "refuted",
        "unasked": "undecided",
        "late": "supported",
    }
    by_name = {claim.name: claim for claim in comparison.claims}
    assert by_name["entities"].needed is None
    needed = by_name["reinforces"].needed
    assert needed.verdict == "supported" and needed.samples > 40 and needed.seeds > 3
    assert by_name["unasked"].needed.text == (
        "missing: the arm without_ner has no ner_f1, because its prompts do not ask for this task"
    )
    assert by_name["late"].standing.late_change == "added"


def test_the_parts_of_a_claim_are_the_tests_of_the_comparison(comparison):
    [claim] = [claim for claim in comparison.claims if claim.name == "reinforces"]
    assert [(part.metric, part.baseline) for part in claim.parts] == [
        ("rougeL", "summary_alone"),
        ("ner_f1", "ner_alone"),
        ("image_entity_accuracy", "match_alone"),
    ]
    tests = {(test.metric, test.pair.b.label): test for test in comparison.tests if test.pair.a.label == "joint"}
    for part in claim.parts:
        test = tests[part.metric, part.baseline]
        assert part.evidence.test.difference == test.difference
        assert part.evidence.samples.greater == pytest.approx(test.p_value / 2)
        assert part.evidence.seeds.greater == pytest.approx(test.seeds.p_value / 2)
    weakest = max(part.evidence.combined.greater for part in claim.parts)
    assert claim.decision.p_values.greater == weakest


def test_other_metrics_in_the_tables_do_not_change_the_verdicts(claimed, comparison):
    other = compared(claimed, metrics=["bleu"])
    assert [claim.as_json() for claim in other.claims] == [claim.as_json() for claim in comparison.claims]
    assert {test.metric for test in other.tests} == {"bleu"}


def test_the_json_document_has_everything_that_decides(claimed):
    arguments = ["compare", "swept", "--resamples", 300, "--json"]
    document = json.loads(run_in_process(arguments, claimed.folder, os.environ).stdout)
    assert [claim["name"] for claim in document["claims"]] == [
        *("reinforces", "entities", "backwards", "unasked", "late")
    ]
    entities, late = document["claims"][1], document["claims"][-1]
    assert entities["statement"] == "joint is better than ner_alone on ner_f1"
    assert entities["p_value"] <= entities["p_holm"] <= entities["level"] == 0.05
    assert entities["registered"]["state"] == "before_results" and len(entities["registered"]["sha256"]) == 64
    assert late["registered"]["state"] == "added_after_results"
    [part] = entities["parts"]
    assert part["combined"]["greater"] == max(part[name]["greater"] for name in ("samples", "seeds", "joint"))
    assert "reinforcement" not in document


def shown(comparison, width, **options):
    console = Console(width=width, file=io.StringIO(), highlight=False)
    for table in comparison_tables(comparison, width=width, **{"full": False, "samples": False, **options}):
        console.print(table)
    return console.file.getvalue()


def test_a_narrow_terminal_shows_verdict_and_standing_of_every_claim(comparison):
    text = shown(comparison, 80)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "supported  entities: joint is better than ner_alone on ner_f1" in text
    assert text.count("registered: before results, 20") == 4
    assert "registered: added after results, 20" in text
    assert "would decide: about" in text
    assert "what each claim consists of" not in text
    assert "what each claim consists of" in shown(comparison, 200, full=True)


def test_markdown_and_latex_have_the_verdicts_and_their_parts(comparison):
    text = paper_tables.markdown(comparison)
    [row] = [line for line in text.splitlines() if line.startswith("| entities | joint is")]
    assert " | supported | – | " in row
    assert "| reinforces | rougeL | joint vs summary_alone | " in text
    assert "| unasked | ner_f1 | without_ner vs joint | – | – | – | – | – | – |" in text
    assert "corrected by Holm's method" in text
    assert r"entities & joint is better than ner\_alone on ner\_f1 & before results" in paper_tables.latex(comparison)


def test_the_page_has_the_claims_before_the_groups(claimed, tmp_path):
    write_page(tmp_path / "page.html", compared(claimed, mre=True))
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    places = [text.index(f'id="{name}"') for name in ("claims", "reinforcement", "groups")]
    assert places == sorted(places)
    assert "added after results, 20" in text
    assert "joint is better than match_alone on image_entity_accuracy" in text


def test_html_in_a_claim_is_escaped(storage, tmp_path):
    sweep(storage, {"joint": 0.1, "alone": 0.6})
    storage.register({"one": {**BETTER, "metrics": ["<b>x"]}})
    write_page(tmp_path / "page.html", compared(storage))
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;x" in text and "<b>x" not in text


def test_the_frame_of_claims_has_a_row_for_each(comparison):
    frame = comparison.claims.frame()
    assert list(frame["verdict"]) == list(verdicts(comparison).values())
    assert {"name", "statement", "p_holm", "registered", "needed"} <= set(frame.columns)
    assert all(len(repr(claim)) < 100 for claim in comparison.claims)


BETTER = {"arm": "joint", "better_than": "alone", "metrics": ["ner_f1"]}


def sweep(storage, arms, seeds=(1, 2, 3)):
    storage.sweep({arm: ([f"adapter.tasks=[{tasks_of(arm)}]"], rate) for arm, rate in arms.items()}, seeds=seeds)


def tasks_of(arm):
    return "ner" if arm == "alone" else "ner,match"


def test_a_sweep_without_claims_has_none(ablation):
    comparison = compare(["swept"], ablation.runs, CompareOptions(resampling=FAST))
    assert comparison.claims == ()
    assert comparison.as_json()["claims"] == []
    assert "claim" not in paper_tables.markdown(comparison)


def test_one_seed_decides_nothing_about_runs_that_depend_on_it(storage):
    sweep(storage, {"joint": 0.1, "alone": 0.9}, seeds=(1,))
    storage.register({"one": BETTER})
    for trial in (storage.runs / "swept").glob("trial-*"):
        plan = json.loads((trial / "plan.json").read_text())
        write_json(trial / "plan.json", {**plan, "trainer": {"type": "sft"}})
    [claim] = compared(storage).claims
    assert claim.verdict == "undecided"
    assert claim.needed.text.startswith("two or more seeds of each arm, because the effect of the seed is unknown")


def test_runs_that_are_not_trained_and_equal_for_each_seed_need_no_seeds(storage):
    sweep(storage, {"joint": 0.1, "alone": 0.9}, seeds=(1,))
    storage.register({"one": BETTER})
    [claim] = compared(storage).claims
    assert claim.verdict == "supported"
    assert not claim.parts[0].evidence.depends_on_seeds
    assert claim.parts[0].evidence.seeds is None


def test_a_claim_that_was_removed_after_results_is_still_judged_and_marked(storage):
    sweep(storage, {"joint": 0.1, "alone": 0.9})
    storage.register({"one": BETTER, "two": {**BETTER, "by": 0.3}})
    storage.register({"two": {**BETTER, "by": 0.3}}, results_seen=True)
    one, two = compared(storage).claims
    assert (one.name, one.standing.is_removed, one.verdict) == ("one", True, "supported")
    assert str(one.standing).startswith("removed after results")
    assert two.num_claims == 2, "removing a claim does not make the other one easier"


def test_a_missing_arm_and_missing_trials_are_said(storage):
    sweep(storage, {"joint": 0.1, "alone": 0.9}, seeds=(1, 2))
    storage.register({"one": BETTER, "gone": {**BETTER, "better_than": "nobody"}})
    file = storage.runs / "swept" / "sweep" / "sweep.json"
    content = json.loads(file.read_text())
    pruned = {"name": "trial-pruned", "group": "alone", "arm": "alone", "status": "pruned"}
    content["trials"] += [{**pruned, "name": "trial-away", "status": "failed"}, pruned]
    write_json(file, content)
    comparison = compared(storage)
    [warning] = [warning for warning in comparison.warnings if "claims" in warning]
    assert warning == ("the claims of swept are judged without 1 of its trials, so that the verdicts are preliminary")
    assert comparison.claims[1].needed.text == "missing: the arm nobody has no finished run"


def test_an_edited_registry_stops_the_comparison(storage):
    sweep(storage, {"joint": 0.1, "alone": 0.9}, seeds=(1,))
    storage.register({"one": BETTER})
    file = storage.runs / "swept" / "sweep" / "claims.jsonl"
    file.write_text(file.read_text().replace("0.05", "0.4"))
    with pytest.raises(DataError, match="was edited"):
        compared(storage)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda plan: plan.unlink(), "is missing, so that no claim can be judged"),
        (lambda plan: plan.write_text('{"sweep": {"arms": 3}}'), "its section `sweep` is not valid"),
        (lambda plan: plan.write_text('{"sweep": '), "the file is damaged"),
    ],
)
def test_without_the_points_of_the_sweep_no_claim_is_judged(storage, spoil, message):
    sweep(storage, {"joint": 0.1, "alone": 0.9}, seeds=(1,))
    spoil(storage.runs / "swept" / "sweep" / "plan.json")
    assert compared(storage).claims == (), "a sweep without claims does not need its plan"
    storage.register({"one": BETTER})
    with pytest.raises(DataError, match=message):
        compared(storage)


@pytest.fixture
def points(storage):
    """Return a sweep with two points of its space; at one of them, the joint arm is worse."""
    arms = {}
    for value, rates in {"few": (0.1, 0.9), "many": (0.9, 0.1)}.items():
        for arm, rate in zip(("joint", "alone"), rates, strict=True):
            number = {"few": 1, "many": 2}[value]
            arms[f"{arm}-{number}"] = ([f"adapter.tasks=[{tasks_of(arm)}]", f"{OTHER_BUDGET}={number}"], rate)
    storage.sweep(arms)
    folder = storage.runs / "swept" / "sweep"
    content = json.loads((folder / "sweep.json").read_text())
    for trial in content["trials"]:
        arm, _, number = trial["group"].partition("-")
        trial |= {"arm": arm, "parameters": {OTHER_BUDGET: int(number), "adapter.tasks": [], "seed": trial["seed"]}}
    write_json(folder / "sweep.json", content)
    space = {OTHER_BUDGET: {"grid": {"few": 1, "many": 2}}}
    write_json(folder / "plan.json", {"sweep": {"arms": {"joint": {}, "alone": {}}, "space": space}})
    return storage


def test_a_claim_is_about_every_point_or_about_the_named_one(points):
    points.register(
        {
            "everywhere": BETTER,
            "few": {**BETTER, "where": {OTHER_BUDGET: "few"}},
            "by_value": {**BETTER, "where": {OTHER_BUDGET: 1}},
            "many": {**BETTER, "where": {OTHER_BUDGET: "many"}},
        }
    )
    comparison = compared(points)
    assert verdicts(comparison) == {
        "everywhere": "refuted",
        "few": "supported",
        "by_value": "supported",
        "many": "refuted",
    }
    everywhere, few, by_value, _ = comparison.claims
    assert [part.point for part in everywhere.parts] == ["num_few_shot=few", "num_few_shot=many"]
    assert [part.point for part in few.parts] == [part.point for part in by_value.parts] == ["num_few_shot=few"]
    assert "| num_few_shot=many |" in paper_tables.markdown(comparison)


def test_an_arm_that_is_missing_at_a_point_leaves_the_claim_undecided(points):
    file = points.runs / "swept" / "sweep" / "sweep.json"
    content = json.loads(file.read_text())
    kept = [trial for trial in content["trials"] if trial["group"] != "alone-2"]
    write_json(file, {**content, "trials": kept})
    points.register({"everywhere": BETTER, "few": {**BETTER, "where": {OTHER_BUDGET: "few"}}})
    everywhere, few = compared(points).claims
    assert everywhere.needed.text == "missing: the arm alone has no finished run at num_few_shot=many"
    assert (everywhere.verdict, few.verdict) == ("undecided", "supported")
