"""Prints the status of experiments and the events of a trial."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.markup import escape
from rich.table import Table

from runner.cli.progress import PLAIN_LINES, TITLES, duration
from runner.cli.tables import HEADLINE
from runner.trial.events import Event

NUM_FIGURES = 3
"""So many figures of a trial are shown; `--json` has all of them."""

QUIET_SECONDS = 300.0
"""A running trial that has told nothing for so long may be stuck, and is marked: checkpoints of large models take
minutes to write, though fewer."""

STYLES = {"finished": "green", "running": "cyan", "failed": "red", "lost": "red", "interrupted": "yellow"}


def status_table(told: Mapping[str, Any]) -> Table:
    """A row a trial, of an experiment as `runner status --json` lists it."""
    trials = told["trials"]
    counted = ", ".join(f"{number} {status}" for status, number in Counter(each["status"] for each in trials).items())
    table = Table(title=f"{told['experiment']}: {counted}", title_justify="left")
    for heading in ("trial", "status", "step", "figures", "last told"):
        table.add_column(heading, no_wrap=heading != "figures")
    for trial in trials:
        status = trial["status"]
        style = STYLES.get(status, "")
        table.add_row(
            trial["name"],
            f"[{style}]{status}[/]" if style else status,
            _step(trial),
            escape(trial["error"] or figures(trial["metrics"])),
            _age(trial),
        )
    return table


def status_lines(told: Mapping[str, Any]) -> list[str]:
    """What is said below that table: the best of a sweep so far, and the launches that are at it."""
    best = [_best(told["best"])] if told["best"] else []
    return [*best, *(_launch(each) for each in told["launches"])]


def jobs_table(jobs: Sequence[Mapping[str, Any]]) -> Table:
    """A row a launch that a cluster knows of."""
    table = Table(title="launches on the cluster", title_justify="left")
    for heading in ("job", "status", "runs in", "began"):
        table.add_column(heading)
    for job in jobs:
        began = datetime.fromtimestamp(job["started"]).strftime("%Y-%m-%d %H:%M:%S") if job["started"] else "–"
        table.add_row(job["name"], job["status"], f"{job['storage']}/{job['experiment']}", began)
    return table


def figures(metrics: Mapping[str, float | None]) -> str:
    """The figures of a trial that tell most: of validation, then of the test, then of training."""
    known = {name: value for name, value in metrics.items() if value is not None}
    validation = [name for name in known if name.startswith("validation/")]
    order = [*validation, *(name for name in HEADLINE[2:] if name in known), "train/loss"]
    shown = [name for name in dict.fromkeys(order) if name in known] or list(known)
    return "  ".join(f"{name} {known[name]:.4g}" for name in shown[:NUM_FIGURES])


def _launch(told: Mapping[str, Any]) -> str:
    job = f", job {told['job']}" if told["job"] else ""
    return f"launched {told['started']} on {told['host']} (process {told['pid']}{job})"


def _best(told: Mapping[str, Any]) -> str:
    chosen = ", ".join(f"{name}={value}" for name, value in told["parameters"].items() if name != "seed")
    mean = f", the mean of {len(told['trials'])}" if len(told["trials"]) > 1 else ""
    return f"best {told['metric']}: {told['value']:.4g}{mean} ({', '.join(told['trials'])}; {chosen})"


def _step(trial: Mapping[str, Any]) -> str:
    if trial["stage"] is None or trial["status"] == "finished":
        return "–"
    return f"{TITLES.get(trial['stage'], trial['stage'])} {trial['done']:,}/{trial['total']:,}"


def _age(trial: Mapping[str, Any]) -> str:
    if trial["age"] is None:
        return "–"
    told = f"{duration(trial['age'])} ago"
    return f"[red]{told}[/]" if trial["status"] == "running" and trial["age"] > QUIET_SECONDS else told


class EventLines:
    """Turns a trial's events into lines, each with its time on this machine's clock."""

    def __init__(self) -> None:
        """Begin at the trial's first event."""
        self._told: dict[str, int] = {}

    def of(self, event: Event) -> Iterator[str]:
        """Yield the line of an event; most events of progress have none."""
        text = self._text(event)
        if text:
            moment = datetime.fromisoformat(event["time"]).replace(tzinfo=UTC).astimezone()
            yield f"{moment:%H:%M:%S}  {text}"

    def _text(self, event: Event) -> str:
        match event["kind"]:
            case "state":
                self._told.pop(event["step"], None)
                detail = f": {event['detail']}" if "detail" in event else ""
                return f"{TITLES.get(event['step'], event['step'])} {event['state']}{detail}"
            case "metrics":
                named = "  ".join(f"{name} {value:.4g}" for name, value in event["values"].items() if value is not None)
                return f"step {event['step']}  {named}" if event["step"] is not None else f"results  {named}"
            case "progress":
                return self._progress(event["stage"], event["done"], event["total"])
            case "artifact":
                return f"{event['name']} is complete: {event['path']}"
            case "warning":
                return f"warning: {event['message']}"
        return ""

    def _progress(self, stage: str, done: int, total: int) -> str:
        part = done * PLAIN_LINES // total if total else PLAIN_LINES
        if part <= self._told.get(stage, 0):
            return ""
        self._told[stage] = part
        return f"{TITLES.get(stage, stage)} {done:,}/{total:,}"
