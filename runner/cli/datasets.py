"""Commands on data sets that are there: stats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from runner.cli.app import LOOK, AsJson, Debug, app, open_terminal, settle_environment

DatasetFolder = Annotated[Path, typer.Argument(metavar="DATASET", help="A data set's folder.")]


@app.command(rich_help_panel=LOOK)
def stats(
    dataset: DatasetFolder,
    *,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC|CHECKPOINT",
            help="Count tokens too: as a spec shows samples to its model, or for a checkpoint's folder or hub name.",
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with figures to this file.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show a data set in figures: the paper's Table 1, labels, entities, segments, image sizes, tokens."""
    from runner.execute.stats import describe
    from runner.preview.figures import write_figures
    from runner.terminal.progress import StageReporter
    from runner.terminal.stats import stats_tables
    from runner.terminal.tables import print_tables

    settle_environment()
    terminal = open_terminal()
    try:
        figures = describe(dataset.resolve(), model, StageReporter(terminal, "tokens"))
    finally:
        terminal.close()
    if html is not None:
        write_figures(html, figures)
    if as_json:
        print(json.dumps(figures.as_json(), ensure_ascii=False))
        return
    print_tables(stats_tables(figures))
    if html is not None:
        print(f"page: {html}")
