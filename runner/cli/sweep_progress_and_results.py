"""Displays a sweep: a live table while it runs, and a summary at the end."""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from runner.cli.progress import STAGE_TITLES, Terminal, format_duration
from runner.execute.results_and_interfaces import LaunchResult, Start, ToldNeeds, TrialResult, describe_start
from runner.resolved_plan import Trial
from runner.sweep.sweep_folder import SEED
from runner.trial.run_directory_and_events import Event
from runner.trial_factory import short_names

NUM_LIVE_TRIALS = 12
"""Number of rows in the live table: trials in progress, then the latest that ended. The counts below include all."""
REFRESH_RATE = 4
"""Refreshes of the live table per second."""
COLUMNS = (("state", 11, None), ("", 16, 44), ("metrics", 20, 44), ("parameters", 0, None))
"""Heading, minimum and maximum width of columns after name and label. A narrow terminal cuts off parameters first."""
STYLES = {"finished": "green", "pruned": "yellow", "failed": "red", "interrupted": "magenta", "waiting": "dim"}


@dataclass
class LiveTrial:
    """A row of the live table."""

    name: str
    label: str
    parameters: str
    state: str
    started: float
    progress: str = ""
    metrics: str = ""

    @classmethod
    def of(cls, trial: Trial, state: str, *, progress: str = "") -> LiveTrial:
        """Create the row of a trial that enters a state now."""
        return cls(trial.name, trial_label(trial), format_parameters(trial), state, time.monotonic(), progress)


class SweepDisplay:
    """Shows a sweep while it runs; a `LaunchListener` and a `Reporter`."""

    def __init__(self, terminal: Terminal) -> None:
        """Show a live table on a terminal, and plain lines if standard error is not one."""
        self._terminal = terminal
        self._rows: dict[str, LiveTrial] = {}
        self._summary: Mapping[str, Any] = {}
        self._durations: list[float] = []
        self._lock = threading.RLock()
        self._live: Live | None = None
        self._printed_messages: set[str] = set()
        self._told_needs = ToldNeeds()
        self._data_progress = ""

    def __enter__(self) -> SweepDisplay:
        """Start the live table."""
        if self._terminal.live:
            self._live = Live(
                get_renderable=self._table, console=self._terminal.console, refresh_per_second=REFRESH_RATE
            )
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop updating the live table; it stays visible."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def trial_started(self, trial: Trial, folder: Path, start: Start) -> None:
        """Show a trial that starts or resumes."""
        row = LiveTrial.of(trial, "running")
        with self._lock:
            self._rows.pop(trial.name, None)
            self._rows[trial.name] = row
        self._print_line(describe_start(start, f"{trial.name}  {row.label}  {row.parameters}".rstrip()))

    def trial_waiting(self, trial: Trial, reason: str) -> None:
        """Show what a trial waits for; without a live table, once for all trials that need the same."""
        with self._lock:
            self._rows[trial.name] = LiveTrial.of(trial, "waiting", progress=f"for {reason}")
        if self._told_needs.is_new(reason):
            self._print_line(f"{trial.name} is waiting for {reason}")

    def event(self, trial: str, event: Event) -> None:
        """Show the progress and the latest metrics of a trial."""
        row = self._rows.get(trial)
        if event["kind"] == "warning" or event.get("state") == "trouble":
            self.warn(f"{trial}: {event['message']}")
        elif event["kind"] == "cache":
            self._print_line(f"{trial}: {event['message']}")
        if row is None:
            return
        with self._lock:
            if event["kind"] == "progress":
                title = STAGE_TITLES.get(event["stage"], event["stage"])
                row.progress = f"{title} {event['done']}/{event['total']}"
                row.metrics = _format_metrics(event["shown"]) or row.metrics
            elif event["kind"] == "state" and event["state"] == "started":
                row.progress = str(STAGE_TITLES.get(event["step"], event["step"]))
            elif event["kind"] == "cache":
                row.progress = event["message"]
            elif event["kind"] == "metrics":
                validation = {name: value for name, value in event["values"].items() if name.startswith("validation/")}
                row.metrics = _format_metrics(validation)

    def trial_ended(self, result: TrialResult) -> None:
        """Show how a trial ended."""
        name = result.trial.name
        with self._lock:
            row = self._rows.pop(name, None) or LiveTrial.of(result.trial, "")
            if result.status == "finished" and not result.reused:
                self._durations.append(time.monotonic() - row.started)
            row.state, row.progress = result.status, "before this launch" if result.reused else ""
            row.metrics = "" if result.objective is None else self._format_objective(result.objective)
            if result.error is not None:
                row.progress = str(result.error).splitlines()[0]
            self._rows[name] = row
        details = "  ".join(part for part in (row.metrics, row.progress) if part)
        self._print_line(f"{name} {result.status}{': ' if details else ''}{details}")

    def search_updated(self, summary: Mapping[str, Any]) -> None:
        """Show the state of the search after a new result."""
        with self._lock:
            previous_best, self._summary = self._summary.get("best"), summary
        for message in (*summary["dropped"], *summary["refused"]):
            if message not in self._printed_messages:
                self._printed_messages.add(message)
                self._terminal.say(message)
        best = summary.get("best")
        if best is not None and best != previous_best:
            self._print_line(f"best so far: {self._format_best(best)}")

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """As a reporter: ignore metrics, since work in the driver process has none to record."""

    def progress(self, done: int, total: int, **metrics: float) -> None:
        """As a reporter: show the progress of generating data."""
        with self._lock:
            self._data_progress = f"data {done}/{total}" if done < total else ""

    def stop_requested(self) -> bool:
        """As a reporter: return False, since Ctrl-C stops trials only."""
        return False

    def warn(self, message: str) -> None:
        """Print a warning."""
        self._terminal.warn(message)

    def stopping(self) -> None:
        """Confirm that the user requested a stop."""
        self._terminal.say("stopping: trials are saving their state; press Ctrl-C again to stop at once")

    def _print_line(self, message: str) -> None:
        """Print a line if there is no live table, which shows the same."""
        if self._live is None:
            self._terminal.say(message)

    def _format_objective(self, value: float) -> str:
        objective = self._summary.get("objective") or {}
        return f"{objective.get('metric', 'objective')} {value:.4g}"

    def _format_best(self, best: Mapping[str, Any], names: Mapping[str, str] | None = None) -> str:
        names = names or {}
        parameters = ", ".join(
            f"{names.get(path, path)} = {format_value(value)}" for path, value in best["parameters"].items()
        )
        return f"{self._format_objective(best['value'])} at {parameters or best['group']}"

    def _table(self) -> RenderableType:
        with self._lock:
            rows = list(self._rows.values())
            active = [row for row in rows if row.state in {"running", "waiting"}]
            ended = [row for row in rows if row not in active]
            listed = [*ended[len(ended) - max(0, NUM_LIVE_TRIALS - len(active)) :], *active]
            table = Table(box=None, pad_edge=False, header_style="dim")
            # Name and label are never cut off: they identify the trial.
            for heading, cells in (("trial", [row.name for row in listed]), ("", [row.label for row in listed])):
                table.add_column(heading, no_wrap=True, min_width=max(map(len, cells), default=0))
            for heading, min_width, max_width in COLUMNS:
                table.add_column(heading, overflow="ellipsis", no_wrap=True, min_width=min_width, max_width=max_width)
            for row in listed:
                state = Text(row.state, STYLES.get(row.state, ""))
                table.add_row(row.name, row.label, state, row.progress, row.metrics, row.parameters)
            footer = Text(self._footer(rows, len(active)), "bold", no_wrap=True, overflow="ellipsis")
            return Group(table, footer)

    def _footer(self, rows: list[LiveTrial], num_active: int) -> str:
        counts = Counter(row.state for row in rows)
        states = ("running", "waiting", "finished", "pruned", "failed", "interrupted")
        parts = [f"{counts[state]} {state}" for state in states if counts[state]]
        if self._data_progress:
            parts.append(self._data_progress)
        expected = self._summary.get("expected")
        if expected is not None:
            parts.append(f"of {expected}")
        best = self._summary.get("best")
        if best is not None:
            parts.append(f"best {self._format_best(best, short_names(list(best['parameters'])))}")
        remaining = self._remaining_seconds(len(rows), num_active)
        if remaining is not None:
            parts.append(f"about {format_duration(remaining)} left")
        return " · ".join(parts)

    def _remaining_seconds(self, num_seen: int, num_active: int) -> float | None:
        """Estimate from the mean duration of finished trials and the current parallelism; None before the first one."""
        expected: int | None = self._summary.get("expected")
        if expected is None or not self._durations:
            return None
        mean = statistics.mean(self._durations)
        running = [row for row in self._rows.values() if row.state == "running"]
        elapsed = sum(min(mean, time.monotonic() - row.started) for row in running)
        num_unfinished = max(0, expected - num_seen) + num_active
        return max(0.0, num_unfinished * mean - elapsed) / max(1, len(running))


def trial_label(trial: Trial) -> str:
    """The arm and the seed of a trial: `joint, seed 1`; without arms `seed 1`."""
    seed = f"seed {trial.seed}"
    return f"{trial.arm}, {seed}" if trial.arm else seed


def format_parameters(trial: Trial) -> str:
    """The parameters of a trial except the seed, on one line; each by the shortest end of its path that is unique."""
    names = short_names([path for path in trial.parameters if path != SEED])
    return "  ".join(f"{name}={format_value(trial.parameters[path])}" for path, name in names.items())


def _format_metrics(metrics: Mapping[str, Any]) -> str:
    """Format metrics on one line; the main parse mode comes before others such as `validation/published/ner_f1`."""
    known = [(name, value) for name, value in metrics.items() if isinstance(value, int | float)]
    return "  ".join(f"{name} {value:.4g}" for name, value in sorted(known, key=lambda item: item[0].count("/")))


def format_value(value: Any) -> str:
    """Format the value of a parameter; the items of a list are separated by commas."""
    if isinstance(value, list | tuple):
        return ",".join(map(format_value, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


SUMMARY_METRICS = ("ner_f1", "image_entity_accuracy", "rougeL", "bleu")
"""The metrics in the summary of a sweep, besides the objective; `metrics.json` has all."""


def sweep_tables(result: LaunchResult) -> list[Table]:
    """One row per trial, and one row per group if seeds repeat it.

    The row of a group has the number of its finished trials, and the mean and the sample standard deviation (over
    n - 1) of the trials that have the metric.
    """
    names = _short_parameter_names(result.trials)
    metrics = _summary_metrics(result)
    arms = any(trial.trial.arm for trial in result.trials)
    table = Table(title="trials; results on the test split", title_justify="left")
    for heading in ("trial", *(("arm",) if arms else ()), "seed", "status"):
        table.add_column(heading, no_wrap=True)
    for heading in names.values():
        table.add_column(heading, overflow="fold")
    for heading in metrics:
        table.add_column(heading, justify="right", overflow="fold")
    for trial in result.trials:
        arm = (trial.trial.arm,) if arms else ()
        values = (_metric_value(trial, metric) for metric in metrics)
        cells = ("–" if value is None else f"{value:.4f}" for value in values)
        parameters = _parameter_cells(trial, names)
        table.add_row(trial.trial.name, *arm, str(trial.trial.seed), trial.status, *parameters, *cells)
    groups: dict[str, list[TrialResult]] = {}
    for trial in result.trials:
        groups.setdefault(trial.trial.group, []).append(trial)
    has_repeats = any(len(trials) > 1 for trials in groups.values())
    return [table, _group_table(groups, names, metrics)] if has_repeats else [table]


def sweep_lines(result: LaunchResult) -> list[str]:
    """The best trial, and the locations of runs and tracker."""
    sweep = result.sweep or {}
    lines = []
    best, objective = sweep.get("best"), sweep.get("objective")
    if best is not None and objective is not None:
        parameters = ", ".join(f"{path} = {format_value(value)}" for path, value in best["parameters"].items())
        lines.append(f"best: {objective['metric']} {best['value']:.4f} at {parameters or best['group']}")
    if result.trials:
        lines.append(f"runs: {result.trials[0].run_dir.parent}")
    if result.link:
        lines.append(f"tracker: {result.link}")
    return lines


def _group_table(
    groups: Mapping[str, Sequence[TrialResult]], names: Mapping[str, str], metrics: Sequence[str]
) -> Table:
    table = Table(title="mean ± standard deviation over seeds", title_justify="left")
    table.add_column("group", no_wrap=True)
    for heading in names.values():
        table.add_column(heading, overflow="fold")
    table.add_column("n")
    for heading in metrics:
        table.add_column(heading, justify="right", overflow="fold")
    for group, trials in groups.items():
        cells = [format_mean_std([_metric_value(trial, metric) for trial in trials]) for metric in metrics]
        num_finished = sum(trial.status == "finished" for trial in trials)
        table.add_row(group, *_parameter_cells(trials[0], names), str(num_finished), *cells)
    return table


def format_mean_std(values: Sequence[float | None]) -> str:
    """Format mean and standard deviation without missing values; the value itself if it is one, a dash if none."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    mean = f"{statistics.mean(known):.4f}"
    return mean if len(known) == 1 else f"{mean} ± {statistics.stdev(known):.4f}"


def _short_parameter_names(results: Sequence[TrialResult]) -> dict[str, str]:
    """The parameters of the sweep with their short names; none if the arms alone set them, since `arm` shows these."""
    trials = [result.trial for result in results]
    if all(trial.arm and trial.group == trial.arm for trial in trials):
        return {}
    paths = dict.fromkeys(path for trial in trials for path in trial.parameters)
    return short_names([path for path in paths if path != SEED])


def _parameter_cells(result: TrialResult, names: Mapping[str, str]) -> list[str]:
    parameters = result.trial.parameters
    return [format_value(parameters[path]) if path in parameters else "" for path in names]


def _summary_metrics(result: LaunchResult) -> list[str]:
    """The metric columns: the objective, then the summary metrics that some trial has."""
    objective = (result.sweep or {}).get("objective")
    available = [
        name for name in SUMMARY_METRICS if any(trial.metrics.get(name) is not None for trial in result.trials)
    ]
    return list(dict.fromkeys([*([str(objective["metric"])] if objective else []), *available]))


def _metric_value(result: TrialResult, metric: str) -> float | None:
    return result.objective if metric.startswith("validation/") else result.metrics.get(metric)
