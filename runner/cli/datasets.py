"""Commands on data sets that are there: stats, export, import."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from runner.cli.app import LOOK, AsJson, Debug, app, open_terminal, settle_environment

FOR_THE_HUB = "this needs Hugging Face's datasets: pip install 'mmre-runner[hub]'"

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


@app.command(rich_help_panel=LOOK)
def export(
    dataset: DatasetFolder,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to make.")],
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write a data set as Parquet with a card, for Hugging Face's datasets and its hub."""
    from runner.errors import UnmetError
    from runner.terminal.progress import StageReporter

    try:
        from runner.dataset.exchange import export_dataset
    except ImportError as error:
        raise UnmetError(f"{FOR_THE_HUB} ({error})") from error
    terminal = open_terminal()
    try:
        num_samples = export_dataset(dataset.resolve(), folder.resolve(), StageReporter(terminal, "export"))
    finally:
        terminal.close()
    if as_json:
        print(json.dumps({"path": str(folder.resolve()), "num_samples": num_samples}, ensure_ascii=False))
        return
    print(f"export: {folder}")
    print(f"samples: {', '.join(f'{split} {number:,}' for split, number in num_samples.items())}")
    print(f"to the hub: hf upload NAME {folder} --repo-type dataset")


@app.command("import", rich_help_panel=LOOK)
def import_(
    place: Annotated[str, typer.Argument(metavar="PLACE", help="An export's folder, or its name on the hub.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The data set's folder, to be made.")],
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Make a data set's folder of what `export` wrote, with the same fingerprint."""
    from runner.errors import UnmetError
    from runner.terminal.progress import StageReporter

    try:
        from runner.dataset.exchange import import_dataset
    except ImportError as error:
        raise UnmetError(f"{FOR_THE_HUB} ({error})") from error
    terminal = open_terminal()
    try:
        told = import_dataset(place, folder.resolve(), StageReporter(terminal, "import"))
    finally:
        terminal.close()
    if as_json:
        shown = {name: told[name] for name in ("fingerprint", "num_samples", "statistics")}
        print(json.dumps({"path": str(folder.resolve()), **shown}, ensure_ascii=False))
        return
    print(f"data set: {folder}")
    print(f"samples: {', '.join(f'{split} {number:,}' for split, number in told['num_samples'].items())}")
    print(f"fingerprint: {told['fingerprint']}")
