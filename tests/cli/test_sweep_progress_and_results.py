"""The display of a sweep: lines without a terminal, a live table on one, and the summary."""

import io
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from runner.cli.progress import Terminal, format_duration
from runner.cli.sweep_progress_and_results import SweepDisplay, format_mean_std, sweep_lines, sweep_tables
from runner.errors import StepError
from runner.execute.results_and_interfaces import LaunchResult, TrialResult
from runner.resolved_plan import Trial
from runner.trial_factory import short_names

OBJECTIVE = {"metric": "validation/loss", "mode": "min"}
SUMMARY = {"expected": 4, "objective": OBJECTIVE, "best": None, "dropped": ["point 7 fits no more"], "refused": []}
BEST = {"group": "point-1", "value": 0.25, "parameters": {"optimizer.groups.head.lr": 1e-3}, "trials": ["trial-1"]}


def trial(number, seed=1, **parameters):
    plan = SimpleNamespace(spec=SimpleNamespace(name="x", seed=seed), fingerprint=f"{number}" * 8)
    return Trial(f"trial-{number}", plan, {"optimizer.groups.head.lr": 1e-3, "seed": seed}, "point-1")


def result(number, status="finished", objective=None, error=None, seed=1, **metrics):
    return TrialResult(
        trial(number, seed), status, metrics, Path("runs/x") / f"trial-{number}", "id", "", False, objective, error
    )


def tell(board):
    """Report a finished, a failed, a pruned, a running and a waiting trial."""
    board.search_updated(SUMMARY)
    starts = {2: "resuming", 3: "restarting"}
    for number in (1, 2, 3, 4):
        board.trial_started(trial(number), Path("runs/x"), starts.get(number, "running"))
    board.event("trial-1", {"kind": "metrics", "step": 1, "values": {"validation/loss": 0.5, "train/loss": 9.0}})
    board.event("trial-4", {"kind": "progress", "stage": "train", "done": 3, "total": 8, "shown": {"loss": 0.75}})
    board.trial_ended(result(1, objective=0.25))
    board.search_updated({**SUMMARY, "best": BEST})
    board.trial_ended(result(2, "failed", error=StepError("train: out of luck\nmore")))
    board.trial_ended(result(3, "pruned"))
    for number in range(3):
        board.trial_waiting(trial(5), f"4 GPUs on one node; free now: {number} GPUs")


def test_without_a_terminal_a_sweep_prints_a_line_per_start_and_end():
    stream = io.StringIO()
    with SweepDisplay(Terminal(stream)) as board:
        tell(board)
    lines = stream.getvalue().splitlines()
    assert "resuming trial-2  seed 1  lr=0.001" in lines
    assert "restarting trial-3  seed 1  lr=0.001 from its first step, as nothing of it was saved" in lines
    assert "trial-1 finished: validation/loss 0.25" in lines
    assert "trial-2 failed: train: out of luck" in lines
    assert "trial-3 pruned" in lines
    assert "best so far: validation/loss 0.25 at optimizer.groups.head.lr = 0.001" in lines
    assert lines.count("point 7 fits no more") == 1
    assert "trial-5 is waiting for 4 GPUs on one node; free now: 0 GPUs" in lines
    assert len(lines) == 10, "steps of trials are not told, and a wait is told once"


def test_on_a_terminal_a_sweep_is_a_table(monkeypatch):
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    with SweepDisplay(Terminal(stream)) as board:
        tell(board)
    last = stream.getvalue().rpartition("trial-1")[2]
    for told in (
        "training 3/8",
        "loss 0.75",
        "for 4 GPUs on one node",
        "1 running · 1 waiting · 1 finished · 1 pruned · 1 failed · of 4 · best validation/loss 0.25",
        "left",
    ):
        assert told in last, told


def test_the_summary_of_a_sweep_has_a_row_per_trial_a_mean_per_group_and_the_best():
    trials = [result(1, objective=0.2, ner_f1=0.5), result(2, objective=0.4, seed=2, ner_f1=0.7), result(3, "pruned")]
    launched = LaunchResult(None, trials, sweep={**SUMMARY, "best": BEST})
    console = Console(file=io.StringIO(), width=160)
    for table in sweep_tables(launched):
        console.print(table)
    printed = console.file.getvalue()
    row = next(line for line in printed.splitlines() if "trial-2" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "trial-2",
        "2",
        "finished",
        "0.001",
        "0.4000",
        "0.7000",
    ]
    assert "0.3000 ± 0.1414" in printed and "0.6000 ± 0.1414" in printed
    assert sweep_lines(launched) == [
        "best: validation/loss 0.2500 at optimizer.groups.head.lr = 0.001",
        "runs: runs/x",
    ]


ARM_PARAMETERS = {"adapter.tasks": ["summary", "ner", "match"], "trainer.epochs": 3}


def arm_trial(seed):
    return replace(trial(seed, seed), arm="without_summary", parameters={**ARM_PARAMETERS, "seed": seed})


def test_at_100_columns_the_arm_and_the_seed_of_a_trial_are_not_cut_off(monkeypatch):
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with SweepDisplay(Terminal(stream)) as board:
        board.search_updated(SUMMARY)
        board.trial_started(arm_trial(1), Path("runs/x"), "running")
        values = {"validation/published/ner_f1": 0.25, "validation/ner_f1": 0.5, "validation/loss": 1.5}
        board.event("trial-1", {"kind": "metrics", "step": 1, "values": values})
    row = next(line for line in reversed(stream.getvalue().splitlines()) if "trial-1" in line)
    assert "without_summary, seed 1" in row
    assert "validation/ner_f1 0.5" in row, "the main parse mode comes first"


def test_at_100_columns_the_summary_shows_the_arm_and_the_seed():
    ended = replace(result(1, objective=0.2, ner_f1=0.5, image_entity_accuracy=0.5, rougeL=0.1), trial=arm_trial(1))
    console = Console(file=io.StringIO(), width=100)
    [table] = sweep_tables(LaunchResult(None, [ended], sweep=SUMMARY))
    console.print(table)
    row = next(line for line in console.file.getvalue().splitlines() if "trial-1" in line)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells[:4] == ["trial-1", "without_summary", "1", "finished"]
    assert "0.5000" in cells


def column_headings(trials):
    [table] = sweep_tables(LaunchResult(None, [replace(result(1), trial=trial) for trial in trials], sweep=SUMMARY))
    return [column.header for column in table.columns]


def test_parameters_that_only_arms_set_have_no_column_beside_the_arm():
    arms = [replace(arm_trial(1), group="joint", arm="joint"), replace(arm_trial(1), group="alone", arm="alone")]
    assert "tasks" not in column_headings(arms)
    points = [replace(arm, group=f"{arm.arm}-point-1") for arm in arms]
    assert {"arm", "tasks", "epochs"} <= set(column_headings(points))


def test_without_repetitions_there_is_no_table_of_groups():
    assert len(sweep_tables(LaunchResult(None, [result(1, ner_f1=0.5)], sweep=SUMMARY))) == 1


@given(st.lists(st.none() | st.floats(-1e3, 1e3)))
def test_mean_and_deviation_ignore_missing_values(values):
    known = [value for value in values if value is not None]
    told = format_mean_std(values)
    if not known:
        assert told == "–"
        return
    mean, _, deviation = told.partition(" ± ")
    assert float(mean) == pytest.approx(math.fsum(known) / len(known), abs=1e-3)
    assert bool(deviation) == (len(known) > 1)
    assert not deviation or 0 <= float(deviation) <= max(known) - min(known) + 1e-3


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(".".join), unique=True, max_size=6))
def test_short_names_tell_paths_apart_and_end_them(paths):
    names = short_names(paths)
    assert len(set(names.values())) == len(paths)
    assert all(path.endswith(names[path]) for path in paths)


def test_durations_have_two_units():
    seconds = (0, 45, 59.6, 128, 720, 3599.9, 12600, 86399, 176400)
    expected = ["0 s", "45 s", "1 min", "2 min 8 s", "12 min", "1 h", "3 h 30 min", "1 d", "2 d 1 h"]
    assert [format_duration(value) for value in seconds] == expected
