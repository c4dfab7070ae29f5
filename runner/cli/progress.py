"""Displays a launch: progress bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

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

from runner.cli.console import OutlastingStream, PlainConsole
from runner.execute.results_and_interfaces import Start, TrialResult, describe_start
from runner.resolved_plan import Trial
from runner.trial.run_directory_and_events import Event

STAGE_TITLES = {
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
"""Labels of the progress bars."""

PLAIN_LINES = 10
"""Number of progress lines of a stage without a terminal."""


class Terminal:
    """Shows progress and messages of one trial on standard error; implements `LaunchListener`."""

    def __init__(self, stream: IO[str], *, live: bool = True) -> None:
        """Write to a stream.

        Args:
            stream: Where to write.
            live: Show progress bars if the stream is a terminal.
        """
        self.console = PlainConsole(file=OutlastingStream(stream), soft_wrap=True)
        self.live = live and self.console.is_terminal
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._printed_parts: dict[str, int] = {}
        self._waiting_reason = ""

    def say(self, message: str) -> None:
        """Print a line."""
        self.console.print(message)

    def warn(self, message: str) -> None:
        """Print a warning in yellow."""
        self.console.print(f"warning: {message}", style="yellow")

    def problem(self, message: str) -> None:
        """Print an error in red."""
        self.console.print(message, style="red")

    def trial_started(self, trial: Trial, folder: Path, start: Start) -> None:
        """Announce a trial that starts or resumes."""
        self.say(describe_start(start, f"{trial.plan.spec.name}/{trial.name} in {folder}"))

    def trial_waiting(self, trial: Trial, reason: str) -> None:
        """Say what a trial waits for, once per reason."""
        if reason != self._waiting_reason:
            self._waiting_reason = reason
            self.say(f"{trial.plan.spec.name}/{trial.name} is waiting for {reason}")

    def trial_ended(self, result: TrialResult) -> None:
        """Stop the bars, so that later lines are printed below them."""
        self.close()
        if result.reused:
            self.say(f"{result.trial.plan.spec.name}/{result.trial.name} is already finished; nothing was run")

    def search_updated(self, summary: Mapping[str, Any]) -> None:
        """Do nothing: a single trial has no search."""

    def stopping(self) -> None:
        """Confirm that the user requested a stop."""
        self.say("stopping: saving the state; press Ctrl-C again to stop at once")

    def event(self, trial: str, event: Event) -> None:
        """Show an event of the running trial."""
        kind = event["kind"]
        if kind == "progress":
            self.progress(event["stage"], event["done"], event["total"], event["shown"])
        elif kind == "warning":
            self.warn(event["message"])
        elif kind == "cache":
            (self.warn if event["state"] == "trouble" else self.say)(event["message"])
        elif kind == "parameters":
            for group in event["groups"]:
                self.say(_group_line(group))
        elif kind == "state" and event["state"] == "started" and not self.live:
            self.say(f"{STAGE_TITLES.get(event['step'], event['step'])} …")

    def progress(self, stage: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """Show the progress of a stage, with metrics beside the bar."""
        text = "  ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in metrics.items())
        title = STAGE_TITLES.get(stage, stage)
        if not self.live:
            self._print_progress(title, done, total, text)
            return
        bars = self._bars()
        if title not in self._tasks:
            self._tasks[title] = bars.add_task(title, total=total, metrics=text)
        bars.update(self._tasks[title], completed=done, total=total, metrics=text)

    def reporter(self, stage: str) -> StageReporter:
        """Create a reporter for a stage that runs in the driver process."""
        return StageReporter(self, stage)

    def close(self) -> None:
        """Stop updating the bars; they stay visible."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
            self._tasks = {}

    def _bars(self) -> Progress:
        if self._progress is None:
            self._progress = Progress(
                SpinnerColumn(finished_text="✓"),
                TextColumn("{task.description:<10}", markup=False),
                BarColumn(bar_width=28),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[metrics]}", markup=False),
                console=self.console,
                refresh_per_second=5,
            )
            self._progress.start()
        return self._progress

    def _print_progress(self, title: str, done: int, total: int, metrics: str) -> None:
        part = done * PLAIN_LINES // total if total else PLAIN_LINES
        if part > self._printed_parts.get(title, 0):
            self._printed_parts[title] = part
            self.say(f"{title} {done}/{total}  {metrics}".rstrip())


class StageReporter:
    """A `Reporter` for work in the driver process, shown on a terminal."""

    def __init__(self, terminal: Terminal, stage: str) -> None:
        """Report under the name of a stage."""
        self._terminal, self._stage = terminal, stage

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Ignore metrics: work in the driver process has none to record."""

    def progress(self, done: int, total: int, **metrics: float) -> None:
        """Show the progress of the stage."""
        self._terminal.progress(self._stage, done, total, metrics)

    def warn(self, message: str) -> None:
        """Print a warning."""
        self._terminal.warn(message)

    def stop_requested(self) -> bool:
        """Return False: Ctrl-C interrupts work in the driver process directly."""
        return False


def _group_line(group: Mapping[str, Any]) -> str:
    """Describe a parameter group: its size, and its learning rate or that it is frozen."""
    if not group["num_trainable"]:
        return f"{group['group']}: {group['num_parameters']:,} parameters, frozen"
    total = "" if group["num_trainable"] == group["num_parameters"] else f" of {group['num_parameters']:,}"
    return f"{group['group']}: {group['num_trainable']:,}{total} parameters at lr {group['lr']:g}"


DURATION_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def format_duration(seconds: float) -> str:
    """Format a duration in its two largest units: `40 s`, `2 min 8 s`, `12 min`, `3 h 30 min`, `2 d 2 h`."""
    whole = round(seconds)
    index = next(
        (index for index, (_, length) in enumerate(DURATION_UNITS) if whole >= length), len(DURATION_UNITS) - 1
    )
    unit, length = DURATION_UNITS[index]
    if unit == "s":
        return f"{whole} s"
    smaller_unit, smaller_length = DURATION_UNITS[index + 1]
    number, smaller_number = divmod(round(whole / smaller_length), length // smaller_length)
    if index and number * length == DURATION_UNITS[index - 1][1]:  # Rounding up filled the next larger unit.
        return f"1 {DURATION_UNITS[index - 1][0]}"
    return f"{number} {unit} {smaller_number} {smaller_unit}" if smaller_number else f"{number} {unit}"
