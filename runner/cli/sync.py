"""Command that delivers to the tracker what launches have left: sync."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from runner.cli.app import RUN, AsJson, Debug, app, settle_environment


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
    from runner.execute.standing import find
    from runner.execute.sync import Sync, Synced

    settle_environment()
    storage = storage.resolve()
    syncing, runs = Sync(storage), list[Synced]()
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
