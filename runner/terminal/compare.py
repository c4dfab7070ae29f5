"""A comparison on the terminal: groups, tests, samples on which two groups disagree, and what to bear in mind."""

from __future__ import annotations

from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from runner.compare import written
from runner.compare.comparison import Comparison

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
        told += [_table(each) for each in (written.intervals_table(found), written.parts_table(found)) if each.rows]
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
