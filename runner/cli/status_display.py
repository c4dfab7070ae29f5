"""Prints the status of experiments and the events of a trial."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from runner.cli.progress import PLAIN_LINES, STAGE_TITLES, format_duration
from runner.cli.results_display import METRIC_ORDER
from runner.trial.run_directory_and_events import Event

NUM_METRICS = 3
"""How many metrics of a trial the table shows; `--json` has all of them."""

STALE_SECONDS = 300.0
"""A running trial without an event for this long may be stuck, and is marked. Writing a checkpoint of a large model
takes minutes, but fewer than this."""

STYLES = {
    "finished": "green",
    "running": "cyan",
    "failed": "red",
    "lost": "red",
    "damaged": "red",
    "interrupted": "yellow",
}

UNKNOWN = "–"
"""What a cell without a value shows."""


def status_table(experiment: Mapping[str, Any]) -> Table:
    """Build the table of an experiment's trials, one row per trial.

    Args:
        experiment: The experiment as `runner status --json` lists it.
    """
    trials = experiment["trials"]
    counts = Counter(trial["status"] for trial in trials)
    summary = ", ".join(f"{number} {status}" for status, number in counts.items())
    table = Table(title=f"{experiment['experiment']}: {summary}", title_justify="left")
    for heading in ("trial", "status", "step", "metrics", "last update"):
        table.add_column(heading, no_wrap=heading != "metrics")
    for trial in trials:
        status = trial["status"]
        table.add_row(
            trial["name"],
            Text(status, STYLES.get(status, "")),
            "\n".join(_step(trial)),
            trial["error"] or format_metrics(trial["metrics"]),
            _age(trial),
        )
    return table


def status_lines(experiment: Mapping[str, Any]) -> list[str]:
    """Format the lines below that table: the best point of a sweep so far, running launches, damaged files."""
    best = [_best(experiment["best"])] if experiment["best"] else []
    return [*best, *(_launch(launch) for launch in experiment["launches"]), *experiment["problems"]]


def jobs_table(jobs: Sequence[Mapping[str, Any]]) -> Table:
    """Build the table of a cluster's launches, one row per launch."""
    table = Table(title="launches on the cluster", title_justify="left")
    for heading in ("job", "status", "folder", "started"):
        table.add_column(heading)
    for job in jobs:
        started = datetime.fromtimestamp(job["started"]).strftime("%Y-%m-%d %H:%M:%S") if job["started"] else UNKNOWN
        waits_for = f" ({job['reason']})" if job.get("reason") else ""
        table.add_row(job["name"], job["status"] + waits_for, f"{job['storage']}/{job['experiment']}", started)
    return table


def format_metrics(metrics: Mapping[str, float | None]) -> str:
    """Format the most important metrics of a trial: those of validation, then of the test split, then of training."""
    known = {name: value for name, value in metrics.items() if value is not None}
    validation = [name for name in known if name.startswith("validation/")]
    order = [*validation, *METRIC_ORDER[2:], "train/loss"]
    names = [name for name in dict.fromkeys(order) if name in known] or list(known)
    return "  ".join(f"{name} {known[name]:.4g}" for name in names[:NUM_METRICS])


def _launch(launch: Mapping[str, Any]) -> str:
    job = f", job {launch['job']}" if launch["job"] else ""
    return f"launched {launch['started']} on {launch['host']} (process {launch['pid']}{job})"


def _best(best: Mapping[str, Any]) -> str:
    parameters = ", ".join(f"{name}={value}" for name, value in best["parameters"].items() if name != "seed")
    mean = f", mean of {len(best['trials'])}" if len(best["trials"]) > 1 else ""
    return f"best {best['metric']}: {best['value']:.4g}{mean} ({', '.join(best['trials'])}; {parameters})"


def _step(trial: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the step column; a running trial has an ETA, and more if it is known."""
    if trial["stage"] is None or trial["status"] == "finished":
        yield UNKNOWN
        return
    yield f"{STAGE_TITLES.get(trial['stage'], trial['stage'])} {trial['done']:,}/{trial['total']:,}"
    if trial["status"] == "running":
        yield f"ETA {UNKNOWN if trial['eta_seconds'] is None else format_duration(trial['eta_seconds'])}"
        if trial["trial_eta_seconds"] is not None:
            later = [f" + {STAGE_TITLES[step]}" for step in trial["trial_eta_without"]]
            yield f"trial {format_duration(trial['trial_eta_seconds'])}{''.join(later)}"
    if trial["resumed_from_step"] is not None:
        yield f"resumed from {trial['resumed_from_step']:,}"
    if trial["gpu_utilization"] is not None:
        yield f"GPU {trial['gpu_utilization']:.0f} %"


def _age(trial: Mapping[str, Any]) -> Text:
    if trial["age"] is None:
        return Text(UNKNOWN)
    text = f"{format_duration(trial['age'])} ago"
    return Text(text, "red" if trial["status"] == "running" and trial["age"] > STALE_SECONDS else "")


class EventLines:
    """Turns a trial's events into lines, each with its time on this machine's clock."""

    def __init__(self) -> None:
        """Start at the trial's first event."""
        self._last_parts: dict[str, int] = {}

    def format(self, event: Event) -> Iterator[str]:
        """Yield the line of an event; most progress events have none."""
        text = self._text(event)
        if text:
            local_time = datetime.fromisoformat(event["time"]).replace(tzinfo=UTC).astimezone()
            yield f"{local_time:%H:%M:%S}  {text}"

    def _text(self, event: Event) -> str:
        match event["kind"]:
            case "state":
                self._last_parts.pop(event["step"], None)
                detail = f": {event['detail']}" if "detail" in event else ""
                return f"{STAGE_TITLES.get(event['step'], event['step'])} {event['state']}{detail}"
            case "metrics":
                values = "  ".join(
                    f"{name} {value:.4g}" for name, value in event["values"].items() if value is not None
                )
                return f"step {event['step']}  {values}" if event["step"] is not None else f"results  {values}"
            case "progress":
                return self._progress(event["stage"], event["done"], event["total"])
            case "artifact":
                return f"{event['name']} is complete: {event['path']}"
            case "warning":
                return f"warning: {event['message']}"
        return ""

    def _progress(self, stage: str, done: int, total: int) -> str:
        part = done * PLAIN_LINES // total if total else PLAIN_LINES
        if part <= self._last_parts.get(stage, 0):
            return ""
        self._last_parts[stage] = part
        return f"{STAGE_TITLES.get(stage, stage)} {done:,}/{total:,}"
