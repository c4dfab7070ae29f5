"""What is printed when a command is done: tables on standard output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from runner.execute.results import INTERRUPTED, LaunchResult, TrialResult
from runner.terminal.sweep import sweep_lines, sweep_tables

Metrics = Mapping[str, float | None]

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
    """The summary at the end of a launch; see `metrics_table`."""
    return metrics_table("results on the test split", [(result.trial.name, result.metrics) for result in results])


def metrics_table(title: str, named: Sequence[tuple[str, Metrics]]) -> Table:
    """A row a metric, a column a trial and way of reading its answers.

    `published/ner_f1` is the figure `ner_f1` of answers read in the other way, so it stands beside it.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    columns: list[Metrics] = []
    for heading, metrics in named:
        for mode, figures in _by_mode(metrics).items():
            table.add_column(f"parsed as {mode}" if mode else heading, justify="right")
            columns.append(figures)
    names = list(dict.fromkeys(name for figures in columns for name in figures))
    absent = []
    for name in [*(name for name in HEADLINE if name in names), *(name for name in names if name not in HEADLINE)]:
        values = [figures.get(name) for figures in columns]
        if any(value is not None for value in values):
            table.add_row(_title(name), *(_figure(value) for value in values))
        else:
            absent.append(name)
    if absent:
        table.caption = f"not asked for: {', '.join(absent)}"
        table.caption_justify = "left"
    return table


def _by_mode(metrics: Metrics) -> dict[str, Metrics]:
    """Part the figures of the other ways of reading from the main one's, which has no name here.

    A way of reading is known by its count of clean answers; any other name with a slash is a metric's own.
    """
    modes = [name.removesuffix("/parse/clean") for name in metrics if name.endswith("/parse/clean")]
    parted: dict[str, dict[str, float | None]] = {"": {}, **{mode: {} for mode in modes}}
    for name, value in metrics.items():
        mode, _, rest = name.partition("/")
        if mode in modes:
            parted[mode][rest] = value
        else:
            parted[""][name] = value
    return dict(parted)


def _title(name: str) -> str:
    return f"answers {name.removeprefix('parse/')}" if name.startswith("parse/") else name


def _figure(value: Any) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def print_results(result: LaunchResult) -> None:
    """Print the end of a launch on standard output: the tables, and where everything lies."""
    if result.sweep is not None:
        print_tables(sweep_tables(result))
        for line in sweep_lines(result):
            print(line)
    else:
        _print_trials(result.trials)
    if result.exit_status == INTERRUPTED:
        print("the same command goes on from where it stopped")


def _print_trials(results: Sequence[TrialResult]) -> None:
    finished = [result for result in results if result.status == "finished"]
    if finished:
        print_tables([results_table(finished)])
    for result in results:
        print(f"run: {result.run_dir} ({result.status})")
        if result.link:
            print(f"tracker: {result.link}")


def print_tables(tables: Sequence[Table]) -> None:
    """Print tables on standard output."""
    console = Console(highlight=False)
    for table in tables:
        console.print(table)
