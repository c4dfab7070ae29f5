"""What `runner cache` prints: a row for each thing that is held."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.table import Table

from runner.cache.survey import Held, total

SECONDS = {"d": 86400, "h": 3600, "min": 60, "s": 1}
UNITS = {"TB": 10**12, "GB": 10**9, "MB": 10**6, "kB": 10**3, "B": 1}


def cache_table(rows: Sequence[Held], now: datetime, title: str) -> Table:
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


def _users(row: Held) -> str:
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
