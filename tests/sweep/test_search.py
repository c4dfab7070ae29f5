"""The search: the trials it proposes, resuming after a kill, budgets, pruning, and edited specs."""

import itertools

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import BASE, RATES, explode, finish, loss, run
from optuna.trial import TrialState, create_trial

from runner.errors import SpecError
from runner.resolved_plan import plan_json
from runner.spec.load import load_spec
from runner.spec.sweep_section import SweepOptions
from runner.spec.variants import SweepVariants
from runner.spec.yaml_layers import Mark, Tree
from runner.sweep.sampling import COMPLETE, FAIL, TrialAdapter, draw_point, make_distribution
from runner.sweep.sampling import PRUNED as PRUNED_STATE
from runner.trial.run_directory_and_events import RunDirectory

SEARCHES = {
    "random": "search: {type: random, seed: 7}",
    "tpe": "search: {type: tpe, seed: 7, n_startup_trials: 3}",
    "nsga2": "search: {type: nsga2, seed: 7, population_size: 4}",
}


@pytest.mark.parametrize("kind", SEARCHES)
def test_the_same_seed_proposes_the_same_trials_after_any_kill(opened, kind):
    sweep = RATES + SEARCHES[kind] + "\nbudget: {trials: 9}\nparallel: 1"
    undisturbed = run(opened(sweep))
    assert len(undisturbed) == 9
    for ends, running in ((0, True), (4, False), (8, True)):
        folder = f"killed-{ends}-{running}"
        before = opened(sweep, folder)
        run(before, ends)
        if running:
            assert before.ask() is not None  # It was asked and never told: the driver died with it.
        assert run(opened(sweep, folder)) == undisturbed


def test_another_seed_proposes_other_trials(opened):
    sweep = RATES + "budget: {trials: 3}\n"
    one, other = (run(opened(sweep + f"search: {{type: random, seed: {seed}}}", str(seed))) for seed in (1, 2))
    assert not {name for name, *_ in one} & {name for name, *_ in other}


def test_a_truncated_journal_is_resumed(opened, tmp_path):
    sweep = RATES + SEARCHES["tpe"] + "\nbudget: {trials: 6}\nparallel: 1"
    undisturbed = run(opened(sweep))
    run(opened(sweep, "torn"), 4)
    journal = tmp_path / "torn" / "swept" / "sweep" / "journal.log"
    whole = journal.read_bytes()
    for cut in (1, 40, len(whole) - whole.rstrip(b"\n").rfind(b"\n") - 2):
        journal.write_bytes(whole[:-cut])
        # The lock is left as by a kill in the middle of a line.
        journal.with_name("journal.log.lock").symlink_to(journal)
        assert run(opened(sweep, "torn")) == undisturbed


@settings(max_examples=25, deadline=None)
@given(data=st.data(), attempt=st.integers(0, 2), kind=st.sampled_from(["random", "tpe", "nsga2"]))
def test_every_drawn_point_lies_in_the_space(data, attempt, kind):
    low = data.draw(st.floats(1e-6, 1e-2))
    high = data.draw(st.floats(2e-2, 1.0))
    whole = sorted(data.draw(st.sets(st.integers(1, 40), min_size=2, max_size=2)))
    sweep = SweepOptions.model_validate(
        {
            "space": {
                "optimizer.groups.rest.lr": {"loguniform": [low, high]},
                "trainer.max_grad_norm": {"uniform": [low, high]},
                "trainer.epochs": {"int": whole},
                "generator.max_new_tokens": {"logint": whole},
                "trainer.validation_ratio": {"quantized": [0.1, 0.5, 0.1]},
                "optimizer": {"choice": {"a": {"type": "adamw"}, "b": {"type": "muon"}}},
                "optimizer.weight_decay": {"uniform": [0, 1], "when": {"optimizer.type": "muon"}},
            },
            "search": {"type": kind, "seed": data.draw(st.integers(0, 99))},
        }
    )
    space = {name: each.model_dump(exclude_none=True) for name, each in sweep.space.items()}
    swept = SweepVariants(_tree({"optimizer": {"type": "adamw"}, "sweep": {"space": space}}), sweep)
    drawn = draw_point(swept, None, optuna.create_study(study_name="x"), attempt).params
    assert ("optimizer.weight_decay" in drawn) == (drawn["optimizer"] == "b")
    assert all(sweep.space[name].to_param_value(value) is not None for name, value in drawn.items())


def _tree(value):
    return Tree(value, {(): Mark("made up")})


def test_a_grid_is_the_ordered_product_with_every_seed(opened):
    sweep = "space:\n  trainer.epochs: {grid: [3, 1]}\n  trainer.global_batch_size: {grid: [2, 4, 8]}\nseeds: [5, 6]"
    asked = [dict(parameters) for _, _, parameters in run(opened(sweep))]
    wanted = [
        {"trainer.epochs": epochs, "trainer.global_batch_size": size, "seed": seed}
        for epochs, size, seed in itertools.product([3, 1], [2, 4, 8], [5, 6])
    ]
    assert asked == wanted


@given(st.lists(st.sets(st.integers(1, 9), min_size=1, max_size=3), min_size=1, max_size=3))
@settings(max_examples=25, deadline=None)
def test_a_grid_covers_exactly_the_product(values):
    names = ["trainer.epochs", "trainer.global_batch_size", "generator.max_new_tokens"]
    space = {name: {"grid": sorted(each)} for name, each in zip(names, values, strict=False)}
    swept = SweepVariants(_tree({"sweep": {"space": space}}), SweepOptions.model_validate({"space": space}))
    points = [tuple(point.values()) for point in swept.grid_points(None)]
    wanted = itertools.product(*(map(str, sorted(each)) for each in values))
    assert points == list(wanted)


def test_a_false_condition_removes_its_path_from_the_grid(opened):
    sweep = """\
space:
  trainer.global_batch_size: {grid: [4, 8]}
  trainer.epochs: {grid: [1, 3], when: {trainer.global_batch_size: 8}}"""
    asked = [dict(parameters) for _, _, parameters in run(opened(sweep))]
    assert asked == [
        {"trainer.global_batch_size": 4},
        {"trainer.global_batch_size": 8, "trainer.epochs": 1},
        {"trainer.global_batch_size": 8, "trainer.epochs": 3},
    ]


def test_enqueued_points_come_first_and_an_empty_one_is_the_spec(opened):
    sweep = RATES + SEARCHES["random"] + "\nbudget: {trials: 4}\nenqueue: [{}, {trainer.global_batch_size: 2}]"
    asked = [dict(parameters) for _, _, parameters in run(opened(sweep))]
    default = {"optimizer.groups.vision.lr": 1e-3, "optimizer.groups.rest.lr": 1e-4, "trainer.global_batch_size": 4}
    assert asked[:2] == [default, {**default, "trainer.global_batch_size": 2}]


def test_arms_have_one_trial_per_seed_and_names(opened):
    sweep = "arms: {joint: {}, alone: {adapter.tasks: [ner]}}\nseeds: [1, 2]"
    search = opened(sweep)
    asked = run(search)
    assert [(group, dict(parameters)) for _, group, parameters in asked] == [
        ("joint", {"seed": 1}),
        ("joint", {"seed": 2}),
        ("alone", {"adapter.tasks": ["ner"], "seed": 1}),
        ("alone", {"adapter.tasks": ["ner"], "seed": 2}),
    ]
    assert search.summary()["expected"] == 4
    assert search.summary()["best"] is None


def test_arms_are_searched_separately_with_the_same_random_points(opened):
    sweep = RATES + SEARCHES["random"] + "\nbudget: {trials: 3}\narms: {joint: {}, alone: {adapter.tasks: [ner]}}"
    asked = run(opened(sweep))
    points = {}
    for _, group, parameters in asked:
        arm = group.partition("-")[0]
        points.setdefault(arm, []).append({key: each for key, each in parameters if key != "adapter.tasks"})
    assert len(points["joint"]) == 3
    assert points["joint"] == points["alone"]


def test_the_objective_is_the_mean_over_the_seeds(opened):
    sweep = "space: {trainer.epochs: {grid: [1, 2]}}\nseeds: [1, 2]\nobjective: {metric: validation/loss, mode: max}"
    search = opened(sweep)
    values = {(1, 1): 0.1, (1, 2): 0.9, (2, 1): 0.4, (2, 2): 0.5}
    while trial := search.ask():
        value = values[trial.parameters["trainer.epochs"], trial.seed]
        search.tell(trial, "finished", {"ner_f1": 0.0}, {"validation/loss": value})
    best = search.summary()["best"]
    assert best["value"] == pytest.approx(0.5)
    assert best["parameters"] == {"trainer.epochs": 1}
    assert len(best["trials"]) == 2


PRUNED = RATES + SEARCHES["random"] + "\npruning: {type: median, n_startup_trials: 2}\nparallel: 1\n"


def test_the_first_seed_decides_pruning_and_the_others_are_left_out(opened):
    search = opened(PRUNED + "seeds: [1, 2]\nbudget: {trials: 7}")
    asked = []
    while trial := search.ask():
        asked.append(trial)
        bad = trial.group == "point-3"
        stopped = [search.report(trial, step, {"validation/loss": 9.0 if bad else 1.0 / step}) for step in (5, 10)]
        assert any(stopped) == bad
        search.tell(trial, "pruned" if bad else "finished", {}, {"validation/loss": 0.1})
    assert [trial.group for trial in asked].count("point-3") == 1
    # Where a point was pruned, its budget is left for another.
    assert [trial.group for trial in asked] == [f"point-{number}" for number in (1, 1, 2, 2, 3, 4, 4)]
    assert search.done()


def test_a_pruning_decision_survives_the_driver_and_repeated_reports(opened):
    sweep = PRUNED + "budget: {trials: 4}"
    search = opened(sweep)
    for _ in range(2):
        trial = search.ask()
        assert not search.report(trial, 5, {"validation/loss": 0.1})
        search.tell(trial, "finished", {}, {"validation/loss": 0.1})
    bad = search.ask()
    assert not search.report(bad, 4, {"validation/loss": 3.0})
    assert search.report(bad, 5, {"validation/loss": 3.0})
    again = opened(sweep)
    for _ in range(2):
        finished = again.ask()
        again.tell(finished, "finished", {}, {"validation/loss": 0.1})
    assert again.ask().name == bad.name
    assert again.report(bad, 6, {"validation/loss": 0.0})
    again.tell(bad, "pruned", {}, {})
    assert again.ask().name != bad.name


def train(search, ends=99, dies_after=None):
    """Run a search whose trials report losses; stop after `ends` trials, or then in the next trial at `dies_after`."""
    asked = []
    while len(asked) <= ends and (trial := search.ask()) is not None:
        base, pruned = loss(trial), False
        for step in (1, 2, 4, 8):
            pruned = pruned or search.report(trial, step, {"validation/loss": base + 1 / step})
            if len(asked) == ends and step == dies_after:
                return asked
        search.tell(trial, "pruned" if pruned else "finished", {}, {"validation/loss": base})
        asked.append((trial.name, pruned))
    return asked


@pytest.mark.parametrize(
    "pruning",
    [
        "{type: median, n_startup_trials: 2}",
        "{type: successive_halving, min_resource: 1, reduction_factor: 2}",
        "{type: hyperband, min_resource: 1, max_resource: 8, reduction_factor: 2}",
    ],
)
def test_the_same_trials_are_pruned_after_any_kill(opened, pruning):
    sweep = f"{RATES}{SEARCHES['tpe']}\npruning: {pruning}\nbudget: {{trials: 10}}\nparallel: 1"
    undisturbed = train(opened(sweep))
    assert {pruned for _, pruned in undisturbed} == {True, False}
    for ends, step in ((2, 1), (5, 4), (7, 8)):
        folder = f"killed-{ends}"
        train(opened(sweep, folder), ends, step)
        assert train(opened(sweep, folder)) == undisturbed


def test_only_the_objective_prunes(opened):
    search = opened(PRUNED + "budget: {trials: 4}")
    for value in (0.1, 0.1, 0.1, 99.0):
        trial = search.ask()
        assert not search.report(trial, 5, {"validation/ner_f1": value})
        search.tell(trial, "finished", {}, {"validation/loss": 0.1})


def test_parallel_limits_the_running_trials(opened):
    search = opened(RATES + SEARCHES["tpe"] + "\nbudget: {trials: 5}\nparallel: 2")
    first, second = search.ask(), search.ask()
    assert search.ask() is None
    assert not search.done()
    finish(search, first)
    assert search.ask() is not None
    assert search.ask() is None
    finish(search, second)
    assert search.ask() is not None


def test_too_many_failures_end_the_search_and_the_next_launch_retries(opened):
    sweep = RATES + SEARCHES["random"] + "\nbudget: {trials: 9, failures: 2}"
    search, asked = opened(sweep), []
    while trial := search.ask():
        asked.append(trial.name)
        search.tell(trial, "failed" if len(asked) % 2 == 0 else "finished", {}, {"validation/loss": 1.0})
    assert len(asked) == 4
    assert search.done()
    assert [name for name, *_ in run(opened(sweep))][:4] == asked


def test_the_hours_of_earlier_launches_count(opened):
    sweep = RATES + SEARCHES["random"] + "\nbudget: {hours: 1.0e-9}"
    assert opened(sweep).ask() is None
    assert opened(sweep).done()


def test_gpu_hours_count_ended_trials(opened, tmp_path):
    sweep = RATES + SEARCHES["random"] + "\nbudget: {gpu_hours: 3}"
    base = BASE + "compute: {workers: 2, gpus_per_worker: 1}\n"
    search, asked = opened(sweep, base=base), 0
    while trial := search.ask():
        folder = RunDirectory(tmp_path / "runs" / "swept" / trial.name)
        folder.path.mkdir()
        folder.update_record(steps={"train": {"status": "finished", "seconds": 3000}, "generate": {"seconds": 600}})
        finish(search, trial)
        asked += 1
    assert asked == 2  # two hours of two GPUs each time, after two trials more than three


def test_an_exhausted_space_ends_the_search_without_repeated_trials(opened):
    sweep = "space: {trainer.epochs: {choice: [1, 2, 3]}}\nsearch: {type: random}\nbudget: {trials: 50}"
    search = opened(sweep)
    asked = run(search)
    assert sorted(parameters for *_, parameters in asked) == [(("trainer.epochs", each),) for each in (1, 2, 3)]
    assert search.done()


IMPOSSIBLE = """\
space: {trainer.early_stopping_patience: {choice: [1, 2, 3]}}
search: {type: random}
budget: {trials: 5}
"""
"""Early stopping needs a validation split, which the spec of the tests that use this space does not have."""


@pytest.mark.parametrize("arms", ["", "arms: {one: {trainer.epochs: 3}}"])
def test_a_space_without_a_valid_point_is_an_error(opened, tmp_path, arms):
    search = opened(IMPOSSIBLE + arms, base=BASE.replace(", validation_ratio: 0.25", ""))
    with pytest.raises(SpecError, match="no trial can run") as raised:
        search.ask()
    [problem] = raised.value.problems
    assert problem.file == str(tmp_path / "swept.yaml") and problem.line == BASE.count("\n") + 2
    assert "The last point: skipped trainer.early_stopping_patience" in problem.message
    assert ("of the arm 'one'" in problem.message) == bool(arms)


def test_a_search_that_ends_early_because_of_invalid_points_says_so(opened):
    space = IMPOSSIBLE.replace("[1, 2, 3]", "[null, 1, 2]") + "enqueue: [{}]"
    search = opened(space, base=BASE.replace(", validation_ratio: 0.25", ""))
    assert len(run(search)) == 1
    assert search.summary()["refused"][-1].startswith("the search ends after 1 point(s): ")


def test_points_with_the_same_trial_run_once(opened):
    # A micro-batch changes no figure: all four points have the same fingerprint.
    sweep = "space: {trainer.micro_batch_size: {grid: [1, 2, 3, 4]}}\nobjective: {metric: validation/loss}"
    search = opened(sweep)
    assert len(run(search)) == 1
    assert search.done()


def test_invalid_combinations_are_skipped_in_a_search_and_refused_in_a_grid(opened):
    values = "{%s: [0.0, 0.5]}"
    space = "space:\n  trainer.validation_ratio: %s\n  trainer.early_stopping_patience: {%s: [3]}"
    sweep = (space % (values, "choice") % "choice") + "\nsearch: {type: random}\nbudget: {trials: 5}"
    search = opened(sweep)
    assert [dict(each)["trainer.validation_ratio"] for *_, each in run(search)] == [0.5]
    assert any("early_stopping_patience" in told for told in search.summary()["refused"])
    with pytest.raises(SpecError, match="early_stopping_patience"):
        opened(space % (values, "grid") % "grid", "grid")


def test_a_loss_of_nan_is_never_best_and_not_repeated(opened):
    sweep = RATES + SEARCHES["tpe"] + "\nbudget: {trials: 3}"
    search = opened(sweep)
    for value in (float("nan"), 2.0, 3.0):
        search.tell(search.ask(), "finished", {}, {"validation/loss": value})
    assert search.summary()["best"]["value"] == 2.0
    assert search.done()


TWO_RATES = """\
space:
  optimizer.groups.vision.lr: {loguniform: [1.0e-5, 1.0e-1]}
  optimizer.groups.rest.lr: {loguniform: [1.0e-5, 1.0e-1]}
objective: {metric: validation/loss, mode: MODE}
budget: {trials: 30}
parallel: 1
search: """


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("kind", ["tpe", "gp", "nsga2, population_size: 5"])
def test_a_search_avoids_where_trainings_diverge(opened, kind, mode):
    # Three of four points of the space diverge, so a search that does not learn this has more than 20 of 30.
    search = TWO_RATES.replace("MODE", mode) + "{type: KIND, seed: 2}".replace("KIND", kind)
    assert explode(opened(search), 30) <= 19


@pytest.mark.parametrize("kind", SEARCHES)
def test_diverged_trainings_are_final_after_any_kill_and_failures_are_not_counted(opened, kind):
    sweep = TWO_RATES.replace("MODE", "min").replace("trials: 30", "trials: 8, failures: 1") + SEARCHES[kind][8:]
    search = opened(sweep)
    num_diverged = explode(search, 99)
    undisturbed = [trial.name for trial in search._proposed.values()]
    assert (len(undisturbed), num_diverged > 1, search.done()) == (8, True, True)
    before = opened(sweep, "killed")
    explode(before, 5)
    before.ask()
    after = opened(sweep, "killed")
    assert explode(after, 99) == num_diverged
    assert [trial.name for trial in after._proposed.values()] == undisturbed


def test_a_point_with_a_diverged_seed_has_no_value_and_is_not_best(opened):
    search = opened(RATES + SEARCHES["tpe"] + "\nbudget: {trials: 4}\nseeds: [1, 2]")
    outcomes = [("finished", 0.1), ("failed", float("nan")), ("finished", 0.5), ("finished", 0.7)]
    for status, value in outcomes:
        search.tell(search.ask(), status, {}, {"validation/loss": value})
    assert search.summary()["best"]["value"] == pytest.approx(0.6)
    assert search.done()


def test_with_pruning_a_diverged_first_seed_leaves_the_others_out(opened):
    search = opened(PRUNED + "seeds: [1, 2]\nbudget: {trials: 5}")
    asked = []
    while trial := search.ask():
        asked.append(trial.group)
        diverges = trial.group == "point-1"
        value = float("nan") if diverges else 0.5
        search.tell(trial, "failed" if diverges else "finished", {}, {"validation/loss": value})
    assert asked == ["point-1", "point-2", "point-2", "point-3", "point-3"]
    assert search.done()


def test_another_failure_is_retried_and_not_told_to_the_search(opened):
    sweep = RATES + SEARCHES["tpe"] + "\nbudget: {trials: 3}"
    search = opened(sweep)
    failed = search.ask()
    search.tell(failed, "failed", {}, {"validation/loss": 0.1})
    assert search.summary()["best"] is None
    assert opened(sweep).ask().name == failed.name


@pytest.mark.parametrize("kind", ["tpe", "gp"])
def test_after_the_first_points_no_path_with_a_condition_is_drawn_independently(monkeypatch, kind):
    space = {
        "branch": {"choice": ["a", "b"]},
        "first": {"uniform": [0, 1], "when": {"branch": "a"}},
        "second": {"uniform": [0, 1], "when": {"branch": "a"}},
        "other": {"uniform": [0, 1], "when": {"branch": "b"}},
    }
    sweep = SweepOptions.model_validate({"space": space, "search": {"type": kind, "n_startup_trials": 4}})
    swept, study, drawn = SweepVariants(_tree({"sweep": {"space": space}}), sweep), optuna.create_study(), []
    sampler = optuna.samplers.TPESampler if kind == "tpe" else optuna.samplers.GPSampler
    independent = sampler.sample_independent

    def record(self, study, trial, name, distribution):
        drawn.append(name)
        return independent(self, study, trial, name, distribution)

    monkeypatch.setattr(sampler, "sample_independent", record)
    for number in range(12):
        if number == 6:  # Both branches have been drawn by then.
            drawn.clear()
        point = draw_point(swept, None, study, 0)
        value = point.params.get("first", 1.0) + point.params.get("other", 1.0)
        study.add_trial(
            create_trial(value=value, params=point.params, distributions=point.distributions, state=COMPLETE)
        )
    assert {trial.params["branch"] for trial in study.trials[:6]} == {"a", "b"}
    assert drawn == []


@settings(max_examples=30, deadline=None)
@given(
    data=st.data(),
    kind=st.sampled_from(["tpe", "gp", "nsga2"]),
    direction=st.sampled_from(["minimize", "maximize"]),
    states=st.lists(st.sampled_from([COMPLETE, PRUNED_STATE, FAIL, TrialState.RUNNING]), max_size=8),
)
def test_a_sampler_learns_of_every_ended_point_and_none_without_a_value_is_better(data, kind, direction, states):
    space = {
        "rate": {"uniform": [0, 1]},
        "kind": {"choice": ["a", "b"]},
        "inner": {"int": [1, 9], "when": {"kind": "b"}},
    }
    sweep = SweepOptions.model_validate({"space": space, "search": {"type": kind}})
    swept = SweepVariants(_tree({"sweep": {"space": space}}), sweep)
    study = optuna.create_study(direction=direction)
    for state in states:
        params = {"rate": 0.5, "kind": data.draw(st.sampled_from("ab"))} | {"inner": 3}
        params = {name: value for name, value in params.items() if name != "inner" or params["kind"] == "b"}
        value = data.draw(st.floats(-5, 5))
        study.add_trial(
            create_trial(
                state=state,
                value=value if state == COMPLETE else None,
                params=params,
                distributions={name: make_distribution(sweep.space[name]) for name in params},
                intermediate_values={1: value} if state == PRUNED_STATE else {},
            )
        )
    rewritten = TrialAdapter(swept, study).trials()
    assert len(rewritten) == len(states)
    assert all(each.state != FAIL for each in rewritten)
    for before, after in zip(study.trials, rewritten, strict=True):
        assert before.params.items() <= after.params.items()
        if kind == "gp":
            assert after.params.keys() == space.keys()
        else:
            assert after.params == before.params
        if kind != "tpe":
            assert after.state in {COMPLETE, TrialState.RUNNING}
    known = [
        (before.value if before.state == COMPLETE else before.intermediate_values[1])
        for before in study.trials
        if before.state in {COMPLETE, PRUNED_STATE}
    ]
    failed = [after.value for before, after in zip(study.trials, rewritten, strict=True) if before.state == FAIL]
    if kind != "tpe" and known:
        assert set(failed) <= {max(known) if direction == "minimize" else min(known)}


def test_test_metrics_are_not_used_for_selection(opened):
    search = opened(RATES + SEARCHES["tpe"] + "\nbudget: {trials: 2}")
    for value in (1.0, 2.0):
        search.tell(search.ask(), "finished", {"validation/loss": -value}, {"validation/loss": value})
    assert search.summary()["best"]["value"] == 1.0


def test_an_edited_spec_keeps_fitting_points_and_lists_dropped_ones(opened):
    sweep = RATES + SEARCHES["random"] + "\nbudget: {trials: 6}"
    before = run(opened(sweep))
    narrower = sweep.replace("choice: [2, 4, 8]", "choice: [2, 4]").replace(
        ", when: {trainer.global_batch_size: 8}", ""
    )
    narrower = "\n".join(line for line in narrower.splitlines() if "trainer.epochs" not in line)
    search = opened(narrower)
    kept = [name for name, _, parameters in before if dict(parameters)["trainer.global_batch_size"] != 8]
    assert 0 < len(kept) < 6
    after = [name for name, *_ in run(search)]
    assert after[: len(kept)] == kept
    assert len(after) == 6
    dropped = search.summary()["dropped"]
    assert len(dropped) == 6 - len(kept)
    assert all("trainer.global_batch_size is 8, which is outside choice 2, 4" in told for told in dropped)


def test_a_removed_arm_is_dropped_and_the_others_stay(opened):
    before = run(opened("arms: {joint: {}, alone: {adapter.tasks: [ner]}}\nseeds: [1, 2]"))
    search = opened("arms: {joint: {}}\nseeds: [1, 2, 3]")
    assert run(search)[:2] == before[:2]
    assert search.summary()["dropped"] == ["dropped the arm alone"]


def test_a_larger_budget_continues_and_new_seeds_are_added(opened):
    sweep = RATES + SEARCHES["random"]
    before = run(opened(sweep + "\nbudget: {trials: 3}\nseeds: [1]"))
    assert run(opened(sweep + "\nbudget: {trials: 5}\nseeds: [1]"))[:3] == before
    repeated = run(opened(sweep + "\nbudget: {trials: 10}\nseeds: [1, 2]"))
    assert {name for name, *_ in before} < {name for name, *_ in repeated}
    assert len(repeated) == 10


def test_changed_metrics_keep_the_points_and_a_changed_training_drops_them(opened):
    sweep = RATES + SEARCHES["tpe"] + "\nbudget: {trials: 5}"

    def points(asked):
        return [parameters for *_, parameters in asked]

    before = points(run(opened(sweep)))
    search = opened(sweep, base=BASE.replace("[{type: ner_f1}]", "[{type: ner_f1}, {type: rouge}]"))
    assert points(run(search)) == before
    assert search.summary()["dropped"] == []
    search = opened(sweep, base=BASE.replace("epochs: 2", "epochs: 3"))
    run(search)
    told = search.summary()["dropped"]
    assert told
    assert all("the inputs of its training have changed" in each for each in told)


def test_data_are_prepared_once_for_all_trials(opened, prepared_types):
    run(opened("space: {trainer.epochs: {int: [1, 8]}}\nseeds: [1, 2, 3]"))
    assert prepared_types == ["synthetic"]


def test_the_plan_of_a_trial_is_a_spec_without_a_sweep(opened, tmp_path):
    trial = opened("space: {trainer.epochs: {int: [3, 4]}}\nseeds: [9]").ask()
    told = trial.plan.spec.as_json()
    assert (told["trainer"]["epochs"], told["seed"], "sweep" in told) == (3, 9, False)
    (tmp_path / "plan.json").write_text(plan_json(trial.plan.spec))
    assert load_spec(tmp_path / "plan.json").spec == trial.plan.spec
