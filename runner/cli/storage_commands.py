"""Commands for cached artifacts and the upload to the tracker: cache, sync."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from runner.cli.app import INSPECT, RUN, AsJson, Debug, app, open_terminal, set_environment
from runner.cli.printing import print_json, print_text
from runner.files import parse_size

HOURS = {"h": 1, "d": 24, "w": 24 * 7}


def _parse_duration(text: str | None) -> timedelta | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+) ?([hdw])", text)
    if not match:
        raise typer.BadParameter(f"{text!r} is not a duration such as 12h, 30d or 4w", param_hint="--older-than")
    return timedelta(hours=int(match[1]) * HOURS[match[2]])


def _parse_size(text: str | None, option: str) -> int | None:
    if text is None:
        return None
    try:
        return parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


@app.command(rich_help_panel=INSPECT)
def cache(
    *,
    storage: Annotated[Path, typer.Option(help="The folder of all runs.")] = Path("runs"),
    location: Annotated[
        str | None,
        typer.Option(
            "--cache",
            metavar="PATH|URI",
            help="Folder or URI of the cache, as in a spec's compute.cache. Default: .cache in the folder of all runs.",
        ),
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Delete artifacts that were not used for this length of time, such as 12h, 30d or 4w."
        ),
    ] = None,
    larger_than: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Delete artifacts that are larger than this size, such as 500MB or 1.5GB."),
    ] = None,
    unused: Annotated[
        bool, typer.Option("--unused", help="Delete artifacts that no trial in the folder of all runs uses.")
    ] = False,
    max_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Delete the least recently used artifacts until the cache takes at most this size, such as 50GB. "
            "Files that a trial also has do not count.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show which artifacts would be deleted, but delete nothing.")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List cached models and answers. With filters, delete those that match all filters; trials keep their files."""
    from runner.cli.cache_and_dataset_tables import cache_table
    from runner.cli.results_display import print_tables
    from runner.errors import RequirementError
    from runner.trial.cache_and_mirror import Cache
    from runner.trial.cache_contents import PruneFilter, list_items, prune, sum_sizes

    criteria = PruneFilter(
        _parse_duration(older_than),
        _parse_size(larger_than, "--larger-than"),
        unused,
        _parse_size(max_size, "--max-size"),
    )
    if dry_run and not criteria.has_criteria:
        raise typer.BadParameter("needs --older-than, --larger-than, --unused or --max-size", param_hint="--dry-run")
    artifact_cache, now = Cache.open(location, storage.resolve()), datetime.now(UTC)
    try:
        rows = list_items(artifact_cache, storage.resolve(), open_terminal().warn)
        matching = criteria.select(rows, now) if criteria.has_criteria else []
        if not dry_run and criteria.has_criteria:
            prune(artifact_cache, matching)
    except OSError as error:
        raise RequirementError(f"the cache cannot be read or changed: {error}") from error
    deleted = [] if dry_run else matching
    if as_json:
        document = {
            "place": str(artifact_cache.root),
            "entries": [row.as_json() for row in rows if row not in deleted],
            "chosen": [row.as_json() for row in matching],
            "removed": len(deleted),
            "freed": sum_sizes(deleted)["freed"],
        }
        print_json(document)
        return
    listed = matching if criteria.has_criteria else rows
    title = "would be deleted" if dry_run else "deleted" if criteria.has_criteria else f"in {artifact_cache.root}"
    if listed:
        print_tables([cache_table(listed, now, f"artifacts {title}")])
    else:
        print_text(f"no artifacts {title}")


@app.command(rich_help_panel=RUN)
def sync(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="EXPERIMENT|RUN",
            help="Experiments or runs: a name, the start of a run's name, or a folder. Default: all experiments.",
        ),
    ] = None,
    storage: Annotated[Path, typer.Option(help="The folder of all runs.")] = Path("runs"),
    target: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="SPEC",
            help="Upload to the tracker of this spec. Without this option, only to a store in the folder of all runs: "
            "the addresses in the plans of runs are not used, because others may have written them.",
        ),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Upload to the tracker the results that earlier launches could not upload."""
    from runner.status.status import find_experiments
    from runner.tracking.destination import Destination
    from runner.tracking.sync import StorageSync, SyncResult

    set_environment()
    storage = storage.resolve()
    syncing, runs = StorageSync(Destination.from_options(storage, target)), list[SyncResult]()
    for experiment in find_experiments(names or (), storage):
        for run in syncing.sync_experiment(experiment):
            runs.append(run)
            if not as_json and (run.delivered or run.error):
                print_text(
                    f"{run.experiment}/{run.name}: {run.error or f'{run.status}, {run.events:,} events'}", flush=True
                )
    delivered = [run for run in runs if run.delivered]
    incomplete = [run for run in runs if run.error]
    if as_json:
        listed = [run.as_json() for run in runs]
        document = {
            "runs": listed,
            "delivered": len(delivered),
            "lacking": len(incomplete),
            "refused": syncing.refused,
        }
        print_json(document)
    else:
        for name, reason in syncing.refused.items():
            print_text(f"{name}: {reason}")
        num_complete = len(runs) - len(delivered) - len(incomplete)
        print_text(f"{len(delivered)} run(s) uploaded, {num_complete} already complete, {len(incomplete)} incomplete")
    raise typer.Exit(1 if incomplete or syncing.refused else 0)
