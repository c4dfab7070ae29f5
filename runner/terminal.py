"""What a person sees of a launch: bars and colours on a terminal, plain lines where there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from rich.table import Table

from runner.events import Event
from runner.execute.launch import TrialResult
from runner.plan import Trial

TITLES = {
    "data": "data",
    "model": "model",
    "train": "training",
    "generate": "generation",
    "score": "scoring",
    "import": "import",
    "crop": "cropping",
}
"""What the bars are called."""

PLAIN_LINES = 10
"""How often a step tells how far it is where there is no terminal, besides its end."""

HEADLINE = (
    "ner_precision",
    "ner_recall",
    "ner_f1",
    "image_entity_accuracy",
    "rouge1",
    "rouge2",
    "rougeL",
    "bleu",
)
"""Metrics in the order that a reader of the paper looks for them; others follow."""


class Terminal:
    """Shows progress and messages on standard error; see `runner.execute.launch.LaunchListener`."""

    def __init__(self, stream: IO[str], *, live: bool = True) -> None:
        """Show on a stream; bars only where it is a terminal and `live` is not refused."""
        self.console = Console(file=stream, highlight=False, soft_wrap=True)
        self._live = live and self.console.is_terminal
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._told: dict[str, int] = {}

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

    def trial_ended(self, result: TrialResult) -> None:
        """A trial is at its end: bars stay as they are, and what follows is printed below."""
        self.close()
        if result.reused:
            self.say(f"{result.trial.plan.spec.name}/{result.trial.name} is finished already; nothing was run again")

    def stopping(self) -> None:
        """The user asked to stop."""
        self.say("stopping: the state is being saved; press Ctrl-C again to stop at once")

    def event(self, event: Event) -> None:
        """Show an event of the running trial."""
        kind = event["kind"]
        if kind == "progress":
            self.progress(event["stage"], event["done"], event["total"], event["shown"])
        elif kind == "warning":
            self.warn(event["message"])
        elif kind == "state" and event["state"] == "started" and not self._live:
            self.say(f"{TITLES.get(event['step'], event['step'])} …")

    def progress(self, stage: str, done: int, total: int, shown: Mapping[str, float]) -> None:
        """Show how far a step is, with figures beside the bar."""
        figures = "  ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in shown.items())
        title = TITLES.get(stage, stage)
        if not self._live:
            self._plain(title, done, total, figures)
            return
        bars = self._bars()
        if title not in self._tasks:
            self._tasks[title] = bars.add_task(title, total=total, figures=figures)
        bars.update(self._tasks[title], completed=done, total=total, figures=figures)

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


def results_table(results: Sequence[TrialResult]) -> Table:
    """The summary at the end of a launch: a row a metric, a column a trial and way of reading its answers.

    `published/ner_f1` is the figure `ner_f1` of answers read in the other way, so it stands beside it.
    """
    table = Table(title="results on the test split", title_justify="left")
    table.add_column("metric")
    columns = [(result, mode) for result in results for mode in _modes(result.metrics)]
    for result, mode in columns:
        heading = result.trial.name if mode == "" else f"parsed as {mode.rstrip('/')}"
        table.add_column(heading, justify="right")
    names = list(dict.fromkeys(_split(name)[1] for result in results for name in result.metrics))
    absent = []
    for name in [
        *(name for name in HEADLINE if name in names),
        *(name for name in names if name not in HEADLINE),
    ]:
        figures = [result.metrics.get(f"{mode}{name}") for result, mode in columns]
        if any(figure is not None for figure in figures):
            table.add_row(name.replace("parse/", "answers "), *(_figure(figure) for figure in figures))
        else:
            absent.append(name)
    if absent:
        table.caption = f"not asked for: {', '.join(absent)}"
        table.caption_justify = "left"
    return table


def _split(name: str) -> tuple[str, str]:
    """Part the way of reading from a metric's name: `published/ner_f1` to `published/` and `ner_f1`."""
    first, slash, rest = name.partition("/")
    return ("", name) if not slash or first == "parse" else (f"{first}/", rest)


def _modes(metrics: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(_split(name)[0] for name in metrics))


def _figure(value: Any) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def print_results(results: Sequence[TrialResult]) -> None:
    """Print the end of a launch on standard output: the table, and where everything lies."""
    finished = [result for result in results if result.status == "finished"]
    if finished:
        print_tables([results_table(finished)])
    for result in results:
        print(f"run: {result.run_dir} ({result.status})")
        if result.link:
            print(f"tracker: {result.link}")
        if result.status == "interrupted":
            print("the same command goes on from where it stopped")


def print_tables(tables: Sequence[Table]) -> None:
    """Print tables on standard output."""
    console = Console(highlight=False)
    for table in tables:
        console.print(table)


def plan_tables(told: Mapping[str, Any]) -> list[Table]:
    """What `runner plan` prints: the run in figures, and the optimizer's groups."""
    run = Table(title="what would run", title_justify="left", show_header=False)
    rows = {
        "fingerprint": (told["fingerprint"] or "unknown yet")[:16],
        "trials": _count(len(told["trials"])),
        "samples": ", ".join(f"{split} {number:,}" for split, number in told["num_samples"].items()),
        "steps a trial": _count(told["steps_per_trial"]),
        **{f"tokens: {name.replace('_', ' ')}": _count(value) for name, value in told["tokens"].items()},
        "where": told["where"],
    }
    for name, value in rows.items():
        run.add_row(name, value or "unknown yet")
    groups = Table(title="parameters", title_justify="left")
    for column in ("group", "parameters", "lr", "weight decay"):
        groups.add_column(column, justify="left" if column == "group" else "right")
    for row in told["parameters"]:
        groups.add_row(row["group"], _count(row["num_parameters"]), f"{row['lr']:g}", f"{row['weight_decay']:g}")
    return [run, groups] if told["parameters"] else [run]


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
