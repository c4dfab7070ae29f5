"""Displays a launch: progress bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from runner.execute.results import TrialResult
from runner.plan import Trial
from runner.trial.events import Event

TITLES = {
    "data": "data",
    "model": "model",
    "preflight": "preflight",
    "train": "training",
    "validate": "validation",
    "generate": "generation",
    "score": "scoring",
    "import": "import",
    "crop": "cropping",
    "annotate": "annotation",
}
"""What the bars are called."""

PLAIN_LINES = 10
"""How often a step tells how far it is where there is no terminal, besides its end."""


class Terminal:
    """Shows progress and messages on standard error, of one trial; implements `LaunchListener`."""

    def __init__(self, stream: IO[str], *, live: bool = True) -> None:
        """Show on a stream; bars only where it is a terminal and `live` is not refused."""
        self.console = Console(file=stream, highlight=False, soft_wrap=True)
        self.live = live and self.console.is_terminal
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._told: dict[str, int] = {}
        self._waits_for = ""

    def say(self, message: str) -> None:
        """Tell something, a line."""
        self.console.print(message, markup=False)

    def warn(self, message: str) -> None:
        """Tell what went wrong and stops nothing."""
        self.console.print(f"warning: {message}", style="yellow", markup=False)

    def problem(self, message: str) -> None:
        """Tell what is wrong."""
        self.console.print(message, style="red", markup=False)

    def trial_started(self, trial: Trial, folder: Path, *, resumed: bool) -> None:
        """A trial begins, or goes on."""
        self.say(f"{'resuming' if resumed else 'running'} {trial.plan.spec.name}/{trial.name} in {folder}")

    def trial_waits(self, trial: Trial, reason: str) -> None:
        """A trial found no room."""
        if reason != self._waits_for:
            self._waits_for = reason
            self.say(f"{trial.plan.spec.name}/{trial.name} waits for {reason}")

    def trial_ended(self, result: TrialResult) -> None:
        """A trial is at its end: bars stay as they are, and what follows is printed below."""
        self.close()
        if result.reused:
            self.say(f"{result.trial.plan.spec.name}/{result.trial.name} is finished already; nothing was run again")

    def searched(self, summary: Mapping[str, Any]) -> None:
        """Nothing is searched where there is one trial."""

    def stopping(self) -> None:
        """The user asked to stop."""
        self.say("stopping: the state is being saved; press Ctrl-C again to stop at once")

    def event(self, trial: str, event: Event) -> None:
        """Show an event of the trial that runs."""
        kind = event["kind"]
        if kind == "progress":
            self.progress(event["stage"], event["done"], event["total"], event["shown"])
        elif kind == "warning":
            self.warn(event["message"])
        elif kind == "cache":
            (self.warn if event["state"] == "trouble" else self.say)(event["message"])
        elif kind == "parameters":
            self.say("; ".join(_group(each) for each in event["groups"]))
        elif kind == "state" and event["state"] == "started" and not self.live:
            self.say(f"{TITLES.get(event['step'], event['step'])} …")

    def progress(self, stage: str, done: int, total: int, shown: Mapping[str, float]) -> None:
        """Show how far a step is, with figures beside the bar."""
        figures = "  ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in shown.items())
        title = TITLES.get(stage, stage)
        if not self.live:
            self._plain(title, done, total, figures)
            return
        bars = self._bars()
        if title not in self._tasks:
            self._tasks[title] = bars.add_task(title, total=total, figures=figures)
        bars.update(self._tasks[title], completed=done, total=total, figures=figures)

    def reporter(self, stage: str) -> StageReporter:
        """Where a stage of the driver's own work tells how far it is."""
        return StageReporter(self, stage)

    def close(self) -> None:
        """Leave the bars as they are."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
            self._tasks = {}

    def _bars(self) -> Progress:
        if self._progress is None:
            self._progress = Progress(
                SpinnerColumn(finished_text="✓"),
                TextColumn("{task.description:<10}"),
                BarColumn(bar_width=28),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"),
                console=self.console,
                refresh_per_second=5,
            )
            self._progress.start()
        return self._progress

    def _plain(self, title: str, done: int, total: int, figures: str) -> None:
        part = done * PLAIN_LINES // total if total else PLAIN_LINES
        if part > self._told.get(title, 0):
            self._told[title] = part
            self.say(f"{title} {done}/{total}  {figures}".rstrip())


class StageReporter:
    """A reporter for work in the driver itself, shown at once."""

    def __init__(self, terminal: Terminal, stage: str) -> None:
        """Show what a stage of this name reports."""
        self._terminal, self._stage = terminal, stage

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Figures of the driver's own work are not kept."""

    def progress(self, done: int, total: int, **shown: float) -> None:
        """Show how far it is."""
        self._terminal.progress(self._stage, done, total, shown)

    def warn(self, message: str) -> None:
        """Show a warning."""
        self._terminal.warn(message)

    def stop_requested(self) -> bool:
        """Ctrl-C ends the driver's own work by itself."""
        return False


def _group(told: Mapping[str, Any]) -> str:
    """Phrase how a group of parameters learns."""
    if not told["num_trainable"]:
        return f"{told['group']}: {told['num_parameters']:,} parameters, frozen"
    part = "" if told["num_trainable"] == told["num_parameters"] else f" of {told['num_parameters']:,}"
    return f"{told['group']}: {told['num_trainable']:,}{part} parameters at lr {told['lr']:g}"


def duration(seconds: float) -> str:
    """Write a time for people: `40 s`, `1.67 min`, `12 min`, `3.5 h`, `2.1 d`; at most 3 % off from a minute on."""
    minutes, hours = seconds / 60, seconds / 3600
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes:.3g} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} d"
