"""What a person sees of a sweep: a table of its trials that is always there, or a line for each that begins or ends."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from runner.events import Event
from runner.execute.results import TrialResult
from runner.plan import Trial
from runner.sweep.point import short_names
from runner.terminal.progress import TITLES, Terminal, duration

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


class Board:
    """Shows a sweep; see `runner.execute.listener.LaunchListener`."""

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

    def __enter__(self) -> Board:
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
                row.figures = _figures(event["shown"]) or row.figures
            elif event["kind"] == "state" and event["state"] == "started":
                row.where = str(TITLES.get(event["step"], event["step"]))
            elif event["kind"] == "cache":
                row.where = event["message"]
            elif event["kind"] == "metrics":
                row.figures = _figures({k: v for k, v in event["values"].items() if k.startswith("validation/")})

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


def _figures(shown: Mapping[str, Any]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in shown.items() if isinstance(value, int | float))


def shown(value: Any) -> str:
    """Write a parameter's value for people."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
