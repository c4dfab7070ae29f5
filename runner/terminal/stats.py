"""What `runner stats` prints: how many there are of what, and how long and large."""

from __future__ import annotations

from rich.table import Table

from runner.dataset.figures import Figures
from runner.dataset.statistics import SPREAD
from runner.preview.figures import TITLES, shown

PAPER = "in the paper"


def stats_tables(figures: Figures) -> list[Table]:
    """Lay out the counts by split, and what is measured; the paper's figures stand beside where it has them."""
    return [_counts(figures), _spreads(figures)]


def _counts(figures: Figures) -> Table:
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


def _spreads(figures: Figures) -> Table:
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
