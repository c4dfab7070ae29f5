"""Tables of results on standard output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from runner.cli.console import PlainConsole
from runner.cli.printing import print_text
from runner.execute.results_and_interfaces import INTERRUPTED, LaunchResult, TrialResult

Metrics = Mapping[str, float | None]

METRIC_ORDER = (
    "ner_precision",
    "ner_recall",
    "ner_f1",
    "image_entity_accuracy",
    "rouge1",
    "rouge2",
    "rougeL",
    "bleu",
)
"""The main metrics, in the order of the paper; others follow."""


def results_table(results: Sequence[TrialResult]) -> Table:
    """The summary at the end of a launch; see `metrics_table`."""
    return metrics_table("results on the test split", [(result.trial.name, result.metrics) for result in results])


def metrics_table(title: str, metrics_by_run: Sequence[tuple[str, Metrics]]) -> Table:
    """One row per metric, one column per run and parse mode.

    `published/ner_f1` is `ner_f1` for the parse mode `published`, so it is a column beside the main parse mode.

    Args:
        title: Title of the table.
        metrics_by_run: Column heading and metrics of each run.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    columns: list[Metrics] = []
    for heading, metrics in metrics_by_run:
        for mode, mode_metrics in _split_by_mode(metrics).items():
            table.add_column(f"parsed as {mode}" if mode else heading, justify="right")
            columns.append(mode_metrics)
    names = list(dict.fromkeys(name for metrics in columns for name in metrics))
    ordered = [*(name for name in METRIC_ORDER if name in names), *(name for name in names if name not in METRIC_ORDER)]
    empty = []
    for name in ordered:
        values = [metrics.get(name) for metrics in columns]
        if any(value is not None for value in values):
            label = f"answers {name.removeprefix('parse/')}" if name.startswith("parse/") else name
            table.add_row(label, *(_format_metric(value) for value in values))
        else:
            empty.append(name)
    if empty:
        table.caption = f"null (not requested, or a warning gives the reason): {', '.join(empty)}"
        table.caption_justify = "left"
    return table


def _split_by_mode(metrics: Metrics) -> dict[str, Metrics]:
    """Separate the metrics of the main parse mode (key `""`) from those of the other parse modes.

    A prefix is a parse mode if it has a count of clean answers; any other slash belongs to the name of the metric.
    """
    modes = [name.removesuffix("/parse/clean") for name in metrics if name.endswith("/parse/clean")]
    by_mode: dict[str, dict[str, float | None]] = {"": {}, **{mode: {} for mode in modes}}
    for name, value in metrics.items():
        mode, _, rest = name.partition("/")
        if mode in modes:
            by_mode[mode][rest] = value
        else:
            by_mode[""][name] = value
    return dict(by_mode)


def _format_metric(value: Any) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def print_results(result: LaunchResult) -> None:
    """Print the results of a launch on standard output: tables and the locations of the runs."""
    if result.sweep is not None:
        from runner.cli.sweep_progress_and_results import sweep_lines, sweep_tables

        print_tables(sweep_tables(result))
        for line in sweep_lines(result):
            print_text(line)
    else:
        _print_trials(result.trials)
    if result.exit_status == INTERRUPTED:
        print_text("run the same command again to resume")


def _print_trials(results: Sequence[TrialResult]) -> None:
    finished = [result for result in results if result.status == "finished"]
    if finished:
        print_tables([results_table(finished)])
    for result in results:
        print_text(f"run: {result.run_dir} ({result.status})")
        if result.link:
            print_text(f"tracker: {result.link}")


def print_tables(tables: Sequence[Table]) -> None:
    """Print tables on standard output."""
    console = PlainConsole()
    for table in tables:
        console.print(table)
