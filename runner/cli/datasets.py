"""Commands on data sets that are there: stats, export, import."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner.cli.app import LOOK, AsJson, Debug, app, open_terminal, settle_environment

if TYPE_CHECKING:
    from runner.stages import Reporter

DatasetFolder = Annotated[Path, typer.Argument(metavar="DATASET", help="A data set's folder.")]


@contextmanager
def _reporter(stage: str) -> Iterator[Reporter]:
    from runner.terminal.progress import StageReporter

    terminal = open_terminal()
    try:
        yield StageReporter(terminal, stage)
    finally:
        terminal.close()


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
    from runner.terminal.stats import stats_tables
    from runner.terminal.tables import print_tables

    settle_environment()
    with _reporter("tokens") as reporter:
        figures = describe(dataset.resolve(), model, reporter)
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
    exchange = _exchange()
    with _reporter("export") as reporter:
        num_samples = exchange.export_dataset(dataset.resolve(), folder.resolve(), reporter)
    if as_json:
        print(json.dumps({"path": str(folder.resolve()), "num_samples": num_samples}, ensure_ascii=False))
        return
    print(f"export: {folder}")
    print(_samples(num_samples))
    print(f"to the hub: hf upload NAME {folder} --repo-type dataset")


@app.command("import", rich_help_panel=LOOK)
def import_(
    place: Annotated[str, typer.Argument(metavar="PLACE", help="An export's folder, or its name on the hub.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The data set's folder, to be made.")],
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Make a data set's folder of what `export` wrote, with the same fingerprint."""
    exchange = _exchange()
    with _reporter("import") as reporter:
        told = exchange.import_dataset(place, folder.resolve(), reporter)
    if as_json:
        shown = {name: told[name] for name in ("fingerprint", "num_samples", "statistics")}
        print(json.dumps({"path": str(folder.resolve()), **shown}, ensure_ascii=False))
        return
    print(f"data set: {folder}")
    print(_samples(told["num_samples"]))
    print(f"fingerprint: {told['fingerprint']}")


def _samples(num_samples: Mapping[str, int]) -> str:
    return f"samples: {', '.join(f'{split} {number:,}' for split, number in num_samples.items())}"


def _exchange() -> Any:
    """The module that needs Hugging Face's `datasets`, which is not everybody's."""
    from runner.errors import UnmetError

    try:
        from runner.dataset import exchange
    except ImportError as error:
        raise UnmetError(f"this needs Hugging Face's datasets: pip install 'mmre-runner[hub]' ({error})") from error
    return exchange
