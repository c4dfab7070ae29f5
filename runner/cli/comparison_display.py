"""Displays a comparison in the terminal: groups, tests, disagreements and warnings."""

from __future__ import annotations

from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table

from runner.compare import tables as paper_tables
from runner.compare.comparison import Comparison

WIDE_TERMINAL = 140
"""Width in characters from which all columns of the tests fit."""


WIDE_ONLY_COLUMNS = ("a", "b", "p", "effect size", "over seeds")
"""Columns of the tests that a narrower terminal omits."""


SIGNIFICANCE = 0.05
"""Differences with a corrected p-value up to this are green or red."""


def comparison_tables(comparison: Comparison, *, full: bool, samples: bool, width: int) -> list[Table]:
    """The tables of groups and tests, and on request of intervals, subgroups and single samples.

    Args:
        comparison: The comparison.
        full: Show the intervals of each group, and the subgroups of samples.
        samples: List the samples on which groups disagree.
        width: Width of the terminal in characters; a narrow one omits some columns of the tests.
    """
    if len(comparison.groups) == 1:
        return [_rich_table(paper_tables.intervals_table(comparison))]
    tables = [_rich_table(paper_tables.groups_table(comparison))]
    if comparison.tests:
        tables.append(_tests_table(comparison, width))
    if full:
        details = (paper_tables.intervals_table(comparison), paper_tables.subgroups_table(comparison))
        tables += [_rich_table(table) for table in details if table.rows]
    if samples and comparison.disagreements:
        tables.append(_disagreements_table(comparison))
    return tables


def _tests_table(comparison: Comparison, width: int) -> Table:
    """One row per test; significant differences are coloured."""
    source = paper_tables.tests_table(comparison)
    table = Table(title=source.title, title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    columns = [
        index
        for index, heading in enumerate(source.headings)
        # The heading of an interval begins with its confidence level.
        if width >= WIDE_TERMINAL or heading.rsplit("% ", maxsplit=1)[-1] not in WIDE_ONLY_COLUMNS
    ]
    for index in columns:
        justify: Literal["left", "right"] = "left" if index < source.num_text_columns else "right"
        table.add_column(source.headings[index], justify=justify, no_wrap=index >= source.num_text_columns - 1)
    for test, row in zip(comparison.tests, source.rows, strict=True):
        style = ("green" if test.difference > 0 else "red") if test.p_holm <= SIGNIFICANCE else ""
        table.add_row(*(row[index] for index in columns), style=style)
    if width < WIDE_TERMINAL:
        omitted = ", ".join(WIDE_ONLY_COLUMNS)
        table.caption = f"omitted: {omitted} (see --json, or use {WIDE_TERMINAL} columns)"
    return table


def _rich_table(source: paper_tables.Table) -> Table:
    table = Table(title=source.title, title_justify="left")
    for index, heading in enumerate(source.headings):
        justify: Literal["left", "right"] = "left" if index < source.num_text_columns else "right"
        table.add_column(heading, justify=justify, overflow="fold")
    for row in source.rows:
        table.add_row(*(cell for cell in row))
    return table


def _disagreements_table(comparison: Comparison) -> Table:
    table = Table(title="samples with the largest disagreement; metrics as b → a", title_justify="left")
    for heading in ("sample", "a vs b", "metrics"):
        table.add_column(heading, overflow="fold")
    for sample in comparison.disagreements:
        values = [f"{name} {b:.2f} → {a:.2f}" for name, (a, b) in sample.values.items() if a != b]
        table.add_row(sample.id, paper_tables.pair_name(sample.pair), ", ".join(values))
    return table
