"""Commands for stored artifacts and the tracker: cache, sync."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from runner.cli.app import LOOK, RUN, AsJson, Debug, app, set_environment

HOURS = {"h": 1, "d": 24, "w": 24 * 7}
BYTES = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def _duration(text: str | None) -> timedelta | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+) ?([hdw])", text)
    if not found:
        raise typer.BadParameter(f"{text!r} is no time such as 12h, 30d or 4w", param_hint="--older-than")
    return timedelta(hours=int(found[1]) * HOURS[found[2]])


def _size(text: str | None) -> int | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kMGT]B)", text)
    if not found:
        raise typer.BadParameter(f"{text!r} is no size such as 500MB or 1.5GB", param_hint="--larger-than")
    return int(float(found[1]) * BYTES[found[2]])


@app.command(rich_help_panel=LOOK)
def cache(
    *,
    storage: Annotated[Path, typer.Option(help="The folder of all runs.")] = Path("runs"),
    place: Annotated[
        str | None,
        typer.Option("--cache", metavar="PLACE", help="As compute.cache names it. Default: .cache in the storage."),
    ] = None,
    older_than: Annotated[
        str | None, typer.Option(metavar="TIME", help="Remove what was not used for so long: 12h, 30d, 4w.")
    ] = None,
    larger_than: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Remove what is larger: 500MB, 1.5GB.")
    ] = None,
    unused: Annotated[bool, typer.Option("--unused", help="Remove what no trial of the storage has.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show what trials share; remove what all the given options apply to. Trials keep what they have taken."""
    from runner.cli.tables import cache_table, print_tables
    from runner.errors import RequirementError
    from runner.trial.cache import Cache
    from runner.trial.cache_contents import PruneFilter, list_items, prune, total

    criteria = PruneFilter(_duration(older_than), _size(larger_than), unused)
    if dry_run and not criteria.any:
        raise typer.BadParameter("goes with --older-than, --larger-than or --unused", param_hint="--dry-run")
    opened, now = Cache.of(place, storage.resolve()), datetime.now(UTC)
    try:
        rows = list_items(opened, storage.resolve())
        chosen = [row for row in rows if criteria.apply(row, now)] if criteria.any else []
        if not dry_run and criteria.any:
            prune(opened, chosen)
    except OSError as error:
        raise RequirementError(f"the cache cannot be read or changed: {error}") from error
    removed = [] if dry_run else chosen
    if as_json:
        told = {
            "place": str(opened.root),
            "entries": [row.as_json() for row in rows if row not in removed],
            "chosen": [row.as_json() for row in chosen],
            "removed": len(removed),
            "freed": total(removed)["freed"],
        }
        print(json.dumps(told, ensure_ascii=False))
        return
    shown = chosen if criteria.any else rows
    title = "would be removed" if dry_run else "was removed" if criteria.any else f"is kept in {opened.root}"
    if shown:
        print_tables([cache_table(shown, now, f"what {title}")])
    else:
        print(f"nothing {title}")


@app.command(rich_help_panel=RUN)
def sync(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[EXPERIMENT|RUN]...", help="By name, its beginning, or folder. Default: all."),
    ] = None,
    storage: Annotated[Path, typer.Option(help="The folder of all runs.")] = Path("runs"),
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Deliver to the tracker what launches left that are gone, or that it did not answer."""
    from runner.status.status import find
    from runner.tracking.sync import StorageSync, SyncResult

    set_environment()
    storage = storage.resolve()
    syncing, runs = StorageSync(storage), list[SyncResult]()
    for found in find(names or (), storage):
        for run in syncing.experiment(found):
            runs.append(run)
            if not as_json and (run.delivered or run.error):
                print(f"{run.experiment}/{run.name}: {run.error or f'{run.status}, {run.events:,} events'}", flush=True)
    delivered = [run for run in runs if run.delivered]
    lacking = [run for run in runs if run.error]
    if as_json:
        listed = [run.as_json() for run in runs]
        told = {"runs": listed, "delivered": len(delivered), "lacking": len(lacking), "refused": syncing.refused}
        print(json.dumps(told, ensure_ascii=False))
    else:
        for name, reason in syncing.refused.items():
            print(f"{name}: {reason}")
        whole = len(runs) - len(delivered) - len(lacking)
        print(f"{len(delivered)} run(s) delivered, {whole} had nothing left to deliver, {len(lacking)} lack something")
    raise typer.Exit(1 if lacking or syncing.refused else 0)
