"""Tables on standard output: results, comparisons, data-set statistics, cached artifacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from runner.cli.sweep_display import sweep_lines, sweep_tables
from runner.compare import paper_tables as written
from runner.compare.comparison import Comparison
from runner.dataset.dataset_statistics import SPREAD, DatasetStatistics
from runner.execute.results import INTERRUPTED, LaunchResult, TrialResult
from runner.preflight.dataset_report import TITLES, shown
from runner.trial.cache_contents import CachedItem, total

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


SECONDS = {"d": 86400, "h": 3600, "min": 60, "s": 1}
UNITS = {"TB": 10**12, "GB": 10**9, "MB": 10**6, "kB": 10**3, "B": 1}


def cache_table(rows: Sequence[CachedItem], now: datetime, title: str) -> Table:
    """A row a thing; the last one sums up."""
    table = Table(title=title, title_justify="left", show_footer=True)
    summed = total(rows)
    table.add_column("kind", footer=f"{len(rows):,}", no_wrap=True)
    table.add_column("key", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True, footer=size(summed["size"]))
    table.add_column("own", justify="right", no_wrap=True, footer=size(summed["freed"]))
    table.add_column("last used", justify="right", no_wrap=True)
    table.add_column("made by", overflow="fold")
    table.add_column("used by", overflow="fold")
    for row in rows:
        place = f"{row.key[:12]} at the mirror" if row.at_mirror else row.key[:12]
        ago = f"{age((now - row.last_used).total_seconds())} ago"
        table.add_row(row.kind, place, size(row.size), size(row.freed), ago, row.made_by or "", _users(row))
    return table


def _users(row: CachedItem) -> str:
    if row.used_by is None:
        return "unknown"
    return f"{len(row.used_by):,} trials" if len(row.used_by) > 1 else next(iter(row.used_by), "nobody")


def size(number: int) -> str:
    """Bytes for people: `1.5 GB`."""
    unit = next((name for name, each in UNITS.items() if number >= each), "B")
    return f"{number:,} B" if unit == "B" else f"{number / UNITS[unit]:,.1f} {unit}"


def age(seconds: float) -> str:
    """A time for people, in its largest unit: `3 d`."""
    unit = next((name for name, each in SECONDS.items() if seconds >= each), "s")
    return f"{max(0, int(seconds // SECONDS[unit]))} {unit}"


PAPER = "in the paper"


def stats_tables(figures: DatasetStatistics) -> list[Table]:
    """Lay out the counts by split, and what is measured; the paper's figures stand beside where it has them."""
    return [_counts(figures), _spreads(figures)]


def _counts(figures: DatasetStatistics) -> Table:
    published = figures.published["counts"] if figures.published else {}
    table = Table(title=figures.name, title_justify="left")
    table.add_column("how many")
    for column in [*figures.counts, "all", *([PAPER] if published else [])]:
        table.add_column(column, justify="right")
    for name, number in figures.total.items():
        row = [*(shown(each.get(name, 0)) for each in figures.counts.values()), shown(number)]
        told = [shown(published[name]) if name in published else ""] if published else []
        table.add_row(name, *row, *told)
    return table


def _spreads(figures: DatasetStatistics) -> Table:
    published = figures.published["spreads"] if figures.published else {}
    table = Table(title="how long and how large", title_justify="left")
    table.add_column("what is measured")
    for column in SPREAD:
        table.add_column(column, justify="right")
    spreads = figures.spreads
    for name in (name for name in TITLES if name in spreads):
        table.add_row(TITLES[name], *(shown(spreads[name][figure]) for figure in SPREAD))
        if name in published:
            table.add_row(f"  {PAPER}", *(shown(published[name][figure]) for figure in SPREAD), style="cyan")
    if figures.model is not None:
        estimated = "; those of text are estimated from characters" if figures.estimated else ""
        table.caption, table.caption_justify = f"tokens for {figures.model}{estimated}", "left"
    return table


WIDE = 140
"""Columns of a terminal that all columns of the tests have room in."""
LEFT_OUT = ("a", "b", "p", "effect size", "over seeds")
"""Columns of the tests that are left out where there is less."""
SURE = 0.05
"""Differences whose corrected p-value is no larger are printed in green or red."""


def comparison_tables(found: Comparison, *, full: bool, samples: bool, width: int) -> list[Table]:
    """The groups and the tests; on demand intervals and parts of the test split, and samples one by one.

    Args:
        found: The comparison.
        full: Whether to show each group's intervals, and the parts.
        samples: Whether to list them.
        width: Of the terminal, in letters: where it is small some columns of the tests are left out.
    """
    if len(found.groups) == 1:
        return [_table(written.intervals_table(found))]
    told = [_table(written.groups_table(found)), *([_tests(found, width)] if found.tests else [])]
    if full:
        told += [_table(each) for each in (written.intervals_table(found), written.subgroups_table(found)) if each.rows]
    if samples and found.disagreements:
        told.append(_disagreements(found))
    return told


def _tests(found: Comparison, width: int) -> Table:
    """The tests, those that are sure after the correction in colour."""
    plain = written.tests_table(found)
    table = Table(title=escape(plain.title), title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    shown = [place for place, heading in enumerate(plain.headings) if width >= WIDE or not _is_left_out(heading)]
    for place in shown:
        justify: Literal["left", "right"] = "left" if place < plain.num_names else "right"
        table.add_column(escape(plain.headings[place]), justify=justify, no_wrap=place >= plain.num_names - 1)
    for test, row in zip(found.tests, plain.rows, strict=True):
        style = ("green" if test.difference > 0 else "red") if test.p_holm <= SURE else ""
        table.add_row(*(escape(row[place]) for place in shown), style=style)
    if width < WIDE:
        table.caption = f"with {WIDE} columns, and in --json, also: {', '.join(LEFT_OUT)}"
    return table


def _is_left_out(heading: str) -> bool:
    """Whether it is one of them; an interval's heading begins with its confidence."""
    return heading.rsplit("% ", maxsplit=1)[-1] in LEFT_OUT


def _table(plain: written.Table) -> Table:
    table = Table(title=escape(plain.title), title_justify="left")
    for place, heading in enumerate(plain.headings):
        table.add_column(escape(heading), justify="left" if place < plain.num_names else "right", overflow="fold")
    for row in plain.rows:
        table.add_row(*(escape(cell) for cell in row))
    return table


def _disagreements(found: Comparison) -> Table:
    table = Table(title="samples on which they disagree most; each figure of a, then of b", title_justify="left")
    for heading in ("sample", "comparison", "figures"):
        table.add_column(heading, overflow="fold")
    for each in found.disagreements:
        told = [f"{name} {one:.2f} / {other:.2f}" for name, (one, other) in each.figures.items() if one != other]
        pair = f"{each.pair.a.label} – {each.pair.b.label}"
        table.add_row(escape(each.id), escape(pair), escape(", ".join(told)))
    return table
