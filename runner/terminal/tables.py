"""What is printed when a command is done: tables on standard output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from runner.execute.launch import TrialResult

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
    for column in ("group", "parameters", "trainable", "lr", "weight decay"):
        groups.add_column(column, justify="left" if column == "group" else "right")
    for row in told["parameters"]:
        rates = ("–" if row[name] is None else f"{row[name]:g}" for name in ("lr", "weight_decay"))
        groups.add_row(row["group"], _count(row["num_parameters"]), _count(row["num_trainable"]), *rates)
    return [run, groups] if told["parameters"] else [run]


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
