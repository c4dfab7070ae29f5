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

from runner.cli.progress import TITLES, Terminal, duration
from runner.execute.results import LaunchResult, TrialResult
from runner.plan import Trial
from runner.status.sweep_folder import SEED
from runner.trial.events import Event
from runner.trial_factory import short_names

ROWS = 12
"""Trials that are shown one by one: those that run, then the latest that ended. The counts tell of all."""
REFRESHES = 4
"""Of the table, a second."""
COLUMNS = (("trial", 14, None), ("state", 11, None), ("", 16, 44), ("figures", 20, 44), ("parameters", 0, None))
"""With their least and greatest widths; what does not fit is cut, and a narrow terminal loses parameters first."""
STYLES = {"finished": "green", "pruned": "yellow", "failed": "red", "interrupted": "magenta", "waiting": "dim"}


@dataclass
class Row:
    """A trial as the table shows it."""

    name: str
    parameters: str
    state: str
    began: float
    where: str = ""
    figures: str = ""


class SweepDisplay:
    """Shows a sweep; see `runner.execute.event_follower.LaunchListener`."""

    def __init__(self, terminal: Terminal) -> None:
        """Show above and below a terminal's messages; where that is none, in lines."""
        self._terminal = terminal
        self._rows: dict[str, Row] = {}
        self._summary: Mapping[str, Any] = {}
        self._seconds: list[float] = []
        self._changing = threading.RLock()
        self._live: Live | None = None
        self._said: set[str] = set()
        self._preparing = ""

    def __enter__(self) -> SweepDisplay:
        """Show the table."""
        if self._terminal.live:
            self._live = Live(get_renderable=self._table, console=self._terminal.console, refresh_per_second=REFRESHES)
            self._live.start()
        return self

    def __exit__(self, *raised: object) -> None:
        """Leave the table as it is."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def trial_started(self, trial: Trial, folder: Path, *, resumed: bool) -> None:
        """A trial begins, or goes on."""
        with self._changing:
            self._rows.pop(trial.name, None)
            self._rows[trial.name] = Row(trial.name, parameters_text(trial), "running", time.monotonic())
        self._line(f"{'resuming' if resumed else 'running'} {trial.name}  {parameters_text(trial)}")

    def trial_waits(self, trial: Trial, reason: str) -> None:
        """A trial found no room."""
        with self._changing:
            self._rows[trial.name] = Row(trial.name, parameters_text(trial), "waiting", 0.0, f"for {reason}")

    def event(self, trial: str, event: Event) -> None:
        """Show how far a trial is, and its last figures."""
        row = self._rows.get(trial)
        if event["kind"] == "warning" or event.get("state") == "trouble":
            self.warn(f"{trial}: {event['message']}")
        elif event["kind"] == "cache":
            self._line(f"{trial}: {event['message']}")
        if row is None:
            return
        with self._changing:
            if event["kind"] == "progress":
                row.where = f"{TITLES.get(event['stage'], event['stage'])} {event['done']}/{event['total']}"
                row.figures = _live_metrics(event["shown"]) or row.figures
            elif event["kind"] == "state" and event["state"] == "started":
                row.where = str(TITLES.get(event["step"], event["step"]))
            elif event["kind"] == "cache":
                row.where = event["message"]
            elif event["kind"] == "metrics":
                row.figures = _live_metrics({k: v for k, v in event["values"].items() if k.startswith("validation/")})

    def trial_ended(self, result: TrialResult) -> None:
        """A trial is at its end."""
        name = result.trial.name
        with self._changing:
            row = self._rows.pop(name, Row(name, parameters_text(result.trial), "", time.monotonic()))
            if result.status == "finished" and not result.reused:
                self._seconds.append(time.monotonic() - row.began)
            row.state, row.where = result.status, "before this launch" if result.reused else ""
            row.figures = "" if result.objective is None else self._named(result.objective)
            if result.error is not None:
                row.where = str(result.error).splitlines()[0]
            self._rows[name] = row
        told = "  ".join(part for part in (row.figures, row.where) if part)
        self._line(f"{name} {result.status}{': ' if told else ''}{told}")

    def searched(self, summary: Mapping[str, Any]) -> None:
        """The search took note of a result."""
        with self._changing:
            before, self._summary = self._summary.get("best"), summary
        for told in (*summary["dropped"], *summary["refused"]):
            if told not in self._said:
                self._said.add(told)
                self._terminal.say(told)
        best = summary.get("best")
        if best is not None and best != before:
            self._line(f"best so far: {self._best(best)}")

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """As a reporter: figures of the driver's own work are not kept."""

    def progress(self, done: int, total: int, **shown: float) -> None:
        """As a reporter: show how far data are that trials need."""
        with self._changing:
            self._preparing = f"data {done}/{total}" if done < total else ""

    def stop_requested(self) -> bool:
        """As a reporter: Ctrl-C asks trials."""
        return False

    def warn(self, message: str) -> None:
        """Tell what went wrong and stops nothing."""
        self._terminal.warn(message)

    def stopping(self) -> None:
        """The user asked to stop."""
        self._terminal.say("stopping: trials save their state; press Ctrl-C again to stop at once")

    def _line(self, message: str) -> None:
        if self._live is None:
            self._terminal.say(message)

    def _named(self, value: float) -> str:
        objective = self._summary.get("objective") or {}
        return f"{objective.get('metric', 'objective')} {value:.4g}"

    def _best(self, best: Mapping[str, Any], names: Mapping[str, str] | None = None) -> str:
        called = names or {}
        at = ", ".join(f"{called.get(path, path)} = {shown(value)}" for path, value in best["parameters"].items())
        return f"{self._named(best['value'])} at {at or best['group']}"

    def _table(self) -> RenderableType:
        with self._changing:
            rows = list(self._rows.values())
            table = Table(box=None, pad_edge=False, header_style="dim")
            for column, least, most in COLUMNS:
                table.add_column(column, overflow="ellipsis", no_wrap=True, min_width=least, max_width=most)
            going = [row for row in rows if row.state in {"running", "waiting"}]
            ended = [row for row in rows if row not in going]
            for row in [*ended[len(ended) - max(0, ROWS - len(going)) :], *going]:
                style = STYLES.get(row.state, "")
                table.add_row(row.name, Text(row.state, style), row.where, row.figures, row.parameters)
            footer = Text(self._footer(rows, len(going)), "bold", no_wrap=True, overflow="ellipsis")
            return Group(table, footer)

    def _footer(self, rows: list[Row], num_going: int) -> str:
        counts = Counter(row.state for row in rows)
        states = ("running", "waiting", "finished", "pruned", "failed", "interrupted")
        told = [f"{counts[state]} {state}" for state in states if counts[state]]
        if self._preparing:
            told.append(self._preparing)
        expected = self._summary.get("expected")
        if expected is not None:
            told.append(f"of {expected}")
        best = self._summary.get("best")
        if best is not None:
            told.append(f"best {self._best(best, short_names(list(best['parameters'])))}")
        left = self._seconds_left(len(rows), num_going)
        if left is not None:
            told.append(f"about {duration(left)} left")
        return " · ".join(told)

    def _seconds_left(self, num_seen: int, num_going: int) -> float | None:
        """By the mean of the trials that finished, with as many side by side as now; None before there is one."""
        expected: int | None = self._summary.get("expected")
        if expected is None or not self._seconds:
            return None
        mean = sum(self._seconds) / len(self._seconds)
        running = [row for row in self._rows.values() if row.state == "running"]
        spent = sum(min(mean, time.monotonic() - row.began) for row in running)
        todo = max(0, expected - num_seen) + num_going
        return max(0.0, todo * mean - spent) / max(1, len(running))


def parameters_text(trial: Trial) -> str:
    """What sets a trial apart, in one line: the last part of each path, where that is enough to tell them apart."""
    names = short_names(list(trial.parameters))
    told = [f"{names[path]}={shown(value)}" for path, value in trial.parameters.items()]
    return "  ".join(told) or trial.group


def _live_metrics(shown: Mapping[str, Any]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in shown.items() if isinstance(value, int | float))


def shown(value: Any) -> str:
    """Write a parameter's value for people."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


HEADLINE = ("ner_f1", "image_entity_accuracy", "rougeL", "bleu")
"""The results that stand beside the objective; `metrics.json` has the others."""


def sweep_tables(result: LaunchResult) -> list[Table]:
    """A row a trial, and where seeds repeat a row a group.

    Of a group stand the number of its trials that finished, and mean and the sample's standard deviation (over n - 1)
    of those that have the figure.
    """
    names = _names(result.trials)
    figures = _figures(result)
    trials = Table(title="trials; results on the test split", title_justify="left")
    for column in ("trial", "status", *names.values(), "seed"):
        trials.add_column(column, no_wrap=column in {"trial", "status"})
    for column in figures:
        trials.add_column(column, justify="right", overflow="fold")
    for trial in result.trials:
        cells = [_cell(_figure(trial, column)) for column in figures]
        seed = str(trial.trial.seed)
        trials.add_row(trial.trial.name, trial.status, *_parameters(trial, names), seed, *cells)
    groups = _groups(result.trials)
    repeated = any(len(members) > 1 for members in groups.values())
    return [trials, _group_table(groups, names, figures)] if repeated else [trials]


def sweep_lines(result: LaunchResult) -> list[str]:
    """The best, what failed, and where everything lies."""
    told = result.sweep or {}
    lines = []
    best, objective = told.get("best"), told.get("objective")
    if best is not None and objective is not None:
        at = ", ".join(f"{path} = {shown(value)}" for path, value in best["parameters"].items())
        lines.append(f"best: {objective['metric']} {best['value']:.4f} at {at or best['group']}")
    if result.trials:
        lines.append(f"runs: {result.trials[0].run_dir.parent}")
    if result.link:
        lines.append(f"tracker: {result.link}")
    return lines


def _group_table(
    groups: Mapping[str, Sequence[TrialResult]], names: Mapping[str, str], figures: Sequence[str]
) -> Table:
    table = Table(title="mean ± standard deviation over seeds", title_justify="left")
    for column in ("group", *names.values(), "n"):
        table.add_column(column)
    for column in figures:
        table.add_column(column, justify="right", overflow="fold")
    for group, members in groups.items():
        cells = [spread([_figure(each, column) for each in members]) for column in figures]
        num_finished = sum(each.status == "finished" for each in members)
        table.add_row(group, *_parameters(members[0], names), str(num_finished), *cells)
    return table


def spread(values: Sequence[float | None]) -> str:
    """Write mean and standard deviation of the values that are there; of one value itself, of none a dash."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    mean = f"{statistics.mean(known):.4f}"
    return mean if len(known) == 1 else f"{mean} ± {statistics.stdev(known):.4f}"


def _groups(results: Sequence[TrialResult]) -> dict[str, list[TrialResult]]:
    groups: dict[str, list[TrialResult]] = {}
    for result in results:
        groups.setdefault(result.trial.group, []).append(result)
    return groups


def _names(results: Sequence[TrialResult]) -> dict[str, str]:
    paths = dict.fromkeys(path for result in results for path in result.trial.parameters)
    return short_names([path for path in paths if path != SEED])


def _parameters(result: TrialResult, names: Mapping[str, str]) -> list[str]:
    parameters = result.trial.parameters
    return [shown(parameters[path]) if path in parameters else "" for path in names]


def _figures(result: LaunchResult) -> list[str]:
    """The columns of figures: the objective's, and of the headline those that some trial has."""
    objective = (result.sweep or {}).get("objective")
    found = [name for name in HEADLINE if any(trial.metrics.get(name) is not None for trial in result.trials)]
    return [*([str(objective["metric"])] if objective else []), *found]


def _figure(result: TrialResult, column: str) -> float | None:
    return result.objective if column.startswith("validation/") else result.metrics.get(column)


def _cell(value: Any) -> str:
    return "–" if value is None else f"{value:.4f}"
