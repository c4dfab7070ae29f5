"""The table of `runner status`: its columns, its lines below, and durations."""

import io

from hypothesis import example, given
from hypothesis import strategies as st

from runner.cli.console import PlainConsole
from runner.cli.progress import format_duration
from runner.cli.status_display import STALE_SECONDS, format_metrics, status_lines, status_table


def trial(**changed):
    common = {"stage": "train", "done": 3, "total": 9, "metrics": {}, "age": 1.0, "error": None}
    unknown = dict.fromkeys(("eta_seconds", "trial_eta_seconds", "resumed_from_step", "gpu_utilization"))
    return {"name": "trial-aa000001", "status": "running", **common, **unknown, **changed}


def render(trials, *, color_system=None):
    experiment = {"experiment": "tiny", "trials": trials}
    console = PlainConsole(
        file=io.StringIO(), width=160, force_terminal=color_system is not None, color_system=color_system
    )
    console.print(status_table(experiment))
    return console.file.getvalue()


def test_the_most_important_metrics_come_first():
    metrics = {"train/loss": 1.5, "train/lr/all": 0.1, "ner_f1": None, "validation/loss": 0.25}
    assert format_metrics(metrics) == "validation/loss 0.25  train/loss 1.5"
    assert format_metrics({"rouge1": 0.5, "ner_f1": 0.75, "ner_recall": 0.1}) == "ner_f1 0.75  rouge1 0.5"
    assert format_metrics({}) == ""


def test_a_running_trial_without_recent_events_is_marked():
    quiet, busy = (render([trial(age=age)], color_system="standard") for age in (STALE_SECONDS * 2, 1.0))
    assert "\x1b[31m10 min ago" in quiet
    assert "\x1b[31m" not in busy


def step_lines(table):
    """The lines of the step column."""
    return [line.split("│")[3].strip() for line in table.splitlines() if line.startswith("│")]


def test_a_running_trial_has_an_eta_and_what_is_known_of_its_start_and_gpus():
    known = trial(eta_seconds=128.0, resumed_from_step=1200, gpu_utilization=87.5)
    assert step_lines(render([known])) == ["training 3/9", "ETA 2 min 8 s", "resumed from 1,200", "GPU 88 %"]


def test_the_eta_of_the_trial_names_the_steps_that_it_does_not_include():
    unknown = trial(eta_seconds=60.0, trial_eta_seconds=60.0, trial_eta_without=["generate", "score"])
    assert step_lines(render([unknown])) == ["training 3/9", "ETA 1 min", "trial 1 min + generation + scoring"]
    known = trial(eta_seconds=60.0, trial_eta_seconds=90.0, trial_eta_without=[])
    assert step_lines(render([known])) == ["training 3/9", "ETA 1 min", "trial 1 min 30 s"]


def test_an_unknown_eta_is_a_dash_and_an_ended_trial_has_none():
    assert step_lines(render([trial()])) == ["training 3/9", "ETA –"]
    assert step_lines(render([trial(status="interrupted")])) == ["training 3/9"]
    assert step_lines(render([trial(status="finished")])) == ["–"]


def test_launches_the_best_point_and_errors_are_printed_verbatim():
    launch = {"host": "head", "pid": 7, "job": "tiny-12", "started": "2026-01-01T00:00:00+00:00"}
    best = {
        "metric": "validation/loss",
        "mode": "min",
        "value": 0.125,
        "parameters": {"optimizer.lr": 0.1, "seed": 3},
        "trials": ["trial-a", "trial-b"],
    }
    assert status_lines({"launches": [launch], "best": best, "problems": ["x: the file is damaged"]}) == [
        "best validation/loss: 0.125, mean of 2 (trial-a, trial-b; optimizer.lr=0.1)",
        "launched 2026-01-01T00:00:00+00:00 on head (process 7, job tiny-12)",
        "x: the file is damaged",
    ]
    assert status_lines({"launches": [], "best": None, "problems": []}) == []
    assert "[red] is not a rate" in render([trial(status="failed", error="[red] is not a rate")])


@given(st.floats(0, 1e8) | st.floats(0, 1e4))
@example(100.0)
@example(630.0)
def test_a_duration_is_short_and_accurate(seconds):
    words = format_duration(seconds).split()
    lengths = {"s": 1, "min": 60, "h": 3600, "d": 86400}
    total = sum(int(number) * lengths[unit] for number, unit in zip(words[::2], words[1::2], strict=True))
    assert abs(total - seconds) <= max(0.55, 0.03 * seconds)
    assert len(words) <= 4
