"""Displays a comparison in the terminal: groups, tests, disagreements and warnings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

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


CLAIM_STYLES = {"supported": "green", "refuted": "red"}
ARM_STYLES = {"reinforces": "green", "trade": "yellow", "harms": "red"}
"""Colours of verdicts."""


def comparison_tables(comparison: Comparison, *, full: bool, samples: bool, width: int) -> list[Table]:
    """The tables of groups and tests, and on request of intervals, subgroups and single samples.

    Args:
        comparison: The comparison.
        full: Show the intervals of each group, and the subgroups of samples.
        samples: List the samples on which groups disagree.
        width: Width of the terminal in characters; a narrow one omits some columns of the tests.
    """
    first = [_claims_table(comparison)] if comparison.claims else []
    if full:
        first += [rich_table(table) for table in paper_tables.claim_tables(comparison)[1:]]
    first += [_reinforcement_table(source) for source in paper_tables.reinforcement_tables(comparison)]
    if len(comparison.groups) == 1:
        tables = [*first, rich_table(paper_tables.intervals_table(comparison))]
        return tables + [rich_table(table) for table in paper_tables.published_tables(comparison)]
    tables = [*first, rich_table(paper_tables.groups_table(comparison))]
    if comparison.tests:
        tables.append(_tests_table(comparison, width, full=full))
    if full:
        details = (paper_tables.intervals_table(comparison), paper_tables.subgroups_table(comparison))
        tables += [rich_table(table) for table in details if table.rows]
    if samples and comparison.disagreements:
        tables.append(_disagreements_table(comparison))
    return tables + [rich_table(table) for table in paper_tables.published_tables(comparison)]


def _claims_table(comparison: Comparison) -> Table:
    """One row per claim, with what is claimed, when it was registered, and what would decide it, in one column."""
    source = paper_tables.claim_tables(comparison)[0]
    table = _plain_table(source.title)
    table.add_column("verdict", no_wrap=True)
    table.add_column("claim", overflow="fold", ratio=1)
    for heading in source.headings[-2:]:
        table.add_column(heading.replace(" (", "\n("), justify="right", no_wrap=True)
    for row in source.rows:
        name, statement, registered, verdict, needed, *p_values = row
        lines = [f"{name}: {statement}", f"registered: {registered}"]
        lines += [] if needed == paper_tables.MISSING else [f"would decide: {needed}"]
        table.add_row(Text(verdict, CLAIM_STYLES.get(verdict, "")), Text("\n".join(lines)), *p_values)
    return table


def _reinforcement_table(source: paper_tables.Table) -> Table:
    """One row per arm; value, interval and difference of a task in one column, so that three tasks fit."""
    table = _plain_table(source.title)
    for heading in source.headings[:2]:
        table.add_column(heading, overflow="fold", no_wrap=heading == "verdict")
    tasks = range(2, len(source.headings) - 1, 2)
    for index in tasks:
        heading = source.headings[index].replace(": ", "\n") + f"\n{source.headings[index + 1]}"
        table.add_column(heading, justify="right", overflow="fold")
    for arm, verdict, *cells in source.rows:
        values = [
            "\n".join(dict.fromkeys([*cells[index - 2].replace(" [", "\n[").split("\n"), cells[index - 1]]))
            for index in tasks
        ]
        decided = verdict if cells[-1] == paper_tables.MISSING else f"{verdict}\np {cells[-1]}"
        table.add_row(arm, Text(decided, ARM_STYLES.get(verdict, "")), *map(Text, values))
    return table


def _plain_table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )


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
    table = _plain_table(source.title)
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
    for index, row in enumerate(source.rows):
        table.add_row(*row, end_section=index + 1 == source.num_own_rows)
    return table


def _disagreements_table(comparison: Comparison) -> Table:
    table = Table(title="samples with the largest disagreement; metrics as b → a", title_justify="left")
    for heading in ("sample", "a vs b", "metrics"):
        table.add_column(heading, overflow="fold")
    for sample in comparison.disagreements:
        values = [f"{name} {b:.2f} → {a:.2f}" for name, (a, b) in sample.values.items() if a != b]
        table.add_row(sample.id, sample.pair.name, ", ".join(values))
    return table
