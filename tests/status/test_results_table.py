"""What stands in the table of `runner status`."""

import io

from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from runner.cli.progress import duration
from runner.cli.status_display import QUIET_SECONDS, figures, status_lines, status_table


def trial(**told):
    common = {"stage": "train", "done": 3, "total": 9, "metrics": {}, "age": 1.0, "error": None}
    return {"name": "trial-aa000001", "status": "running", **common, **told}


def shown(trials, *, color_system=None):
    told = {"experiment": "tiny", "trials": trials}
    console = Console(file=io.StringIO(), width=160, force_terminal=color_system is not None, color_system=color_system)
    console.print(status_table(told))
    return console.file.getvalue()


def test_the_figures_that_tell_most_come_first():
    metrics = {"train/loss": 1.5, "train/lr/all": 0.1, "ner_f1": None, "validation/loss": 0.25}
    assert figures(metrics) == "validation/loss 0.25  train/loss 1.5"
    assert figures({"rouge1": 0.5, "ner_f1": 0.75, "ner_recall": 0.1}) == "ner_f1 0.75  rouge1 0.5"
    assert figures({}) == ""


def test_a_trial_that_says_nothing_for_long_is_marked():
    quiet, busy = (shown([trial(age=age)], color_system="standard") for age in (QUIET_SECONDS * 2, 1.0))
    assert "\x1b[31m10 min ago" in quiet
    assert "\x1b[31m" not in busy


def test_the_launch_the_best_and_errors_are_told_as_they_are():
    launch = {"host": "head", "pid": 7, "job": "tiny-12", "started": "2026-01-01T00:00:00+00:00"}
    best = {
        "metric": "validation/loss",
        "mode": "min",
        "value": 0.125,
        "parameters": {"optimizer.lr": 0.1, "seed": 3},
        "trials": ["trial-a", "trial-b"],
    }
    assert status_lines({"launches": [launch], "best": best}) == [
        "best validation/loss: 0.125, the mean of 2 (trial-a, trial-b; optimizer.lr=0.1)",
        "launched 2026-01-01T00:00:00+00:00 on head (process 7, job tiny-12)",
    ]
    assert status_lines({"launches": [], "best": None}) == []
    assert "[red] is not a rate" in shown([trial(status="failed", error="[red] is not a rate")])


@given(st.floats(0, 1e8) | st.floats(0, 1e4))
@example(100.0)
@example(630.0)
def test_a_duration_is_short_and_near(seconds):
    number, unit = duration(seconds).split()
    length = {"s": 1, "min": 60, "h": 3600, "d": 86400}[unit]
    assert abs(float(number) * length - seconds) <= max(0.55, 0.03 * seconds)
    assert len(number) <= 6
