"""Displays a comparison in the terminal: groups, tests, disagreements and warnings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table

from runner.compare import tables as paper_tables
from runner.compare.comparison import Comparison
from runner.compare.statistics import PairedTest

OMISSIBLE_COLUMNS = ("effect size", "p", "a", "b", "p (Holm)", "over seeds", "over both")
"""Columns of the tests that a narrow terminal omits, the first one first, until the others fit.

The intervals with seeds are last, because a claim about a training method needs them.
"""


MIN_NAME_WIDTH = 8
"""Width in characters to which the names of groups are folded, so that 80 columns show the interval over seeds."""


GAP = 2
"""Number of characters between two columns of the tests."""


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
        return [rich_table(paper_tables.intervals_table(comparison))]
    tables = [rich_table(paper_tables.groups_table(comparison))]
    if comparison.tests:
        tables.append(_tests_table(comparison, width, full=full))
    if full:
        details = (paper_tables.intervals_table(comparison), paper_tables.subgroups_table(comparison))
        tables += [rich_table(table) for table in details if table.rows]
    if samples and comparison.disagreements:
        tables.append(_disagreements_table(comparison))
    return tables


def _tests_table(comparison: Comparison, width: int, *, full: bool) -> Table:
    """One row per test, without the columns that do not fit; significant differences are coloured."""
    source = paper_tables.tests_table(comparison, full=full)
    present = [column for column in OMISSIBLE_COLUMNS if column in map(_column_name, source.headings)]
    for num_omitted in range(len(present) + 1):
        omitted = present[:num_omitted]
        table = _tests_table_without(source, comparison.tests, omitted)
        if _minimum_width(table) <= width:
            break
    if omitted:
        table.caption = f"omitted: {', '.join(omitted)} (see --json, or use a wider terminal)"
    return table


def _minimum_width(table: Table) -> int:
    """Return the sum of the columns' least widths, and of the gaps between them."""
    widths = [column.min_width or 0 for column in table.columns]
    return sum(widths) + GAP * (len(widths) - 1)


def _column_name(heading: str) -> str:
    """Return the heading without the confidence level with which that of an interval begins."""
    return heading.rsplit("% ", maxsplit=1)[-1]


def _tests_table_without(source: paper_tables.Table, tests: Sequence[PairedTest], omitted: Sequence[str]) -> Table:
    table = Table(
        title=source.title,
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    columns = [index for index, heading in enumerate(source.headings) if _column_name(heading) not in omitted]
    for index in columns:
        justify: Literal["left", "right"] = "left" if index < source.num_text_columns else "right"
        # The names of the groups are folded, the other cells are not.
        can_fold = index < source.num_text_columns - 1
        widest = max(map(cell_len, [source.headings[index], *(row[index] for row in source.rows)]))
        table.add_column(
            source.headings[index],
            justify=justify,
            no_wrap=not can_fold,
            overflow="fold",
            min_width=min(widest, MIN_NAME_WIDTH) if can_fold else widest,
        )
    for test, row in zip(tests, source.rows, strict=True):
        style = ("green" if test.difference > 0 else "red") if test.p_holm <= SIGNIFICANCE else ""
        table.add_row(*(row[index] for index in columns), style=style)
    return table


def rich_table(source: paper_tables.Table) -> Table:
    """Make a table of a terminal from a table of text."""
    table = Table(title=source.title, title_justify="left")
    for index, heading in enumerate(source.headings):
        justify: Literal["left", "right"] = "left" if index < source.num_text_columns else "right"
        table.add_column(heading, justify=justify, overflow="fold")
    for row in source.rows:
        table.add_row(*row)
    return table


def _disagreements_table(comparison: Comparison) -> Table:
    table = Table(title="samples with the largest disagreement; metrics as b → a", title_justify="left")
    for heading in ("sample", "a vs b", "metrics"):
        table.add_column(heading, overflow="fold")
    for sample in comparison.disagreements:
        values = [f"{name} {b:.2f} → {a:.2f}" for name, (a, b) in sample.values.items() if a != b]
        table.add_row(sample.id, sample.pair.name, ", ".join(values))
    return table
