"""Commands for data sets: build, stats, export, import, review."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from getpass import getuser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner.cli.app import DATA, AsJson, Debug, Overrides, SpecFile, app, open_terminal, set_environment

if TYPE_CHECKING:
    from runner.dataset.build.pipeline import BuildResult
    from runner.dataset.review.queue import ReviewQueue
    from runner.stages import Reporter


@app.command(rich_help_panel=DATA)
def build(
    spec: SpecFile,
    *,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Import and crop, say what annotating would take, and stop.")
    ] = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="A few tweets through all stages, with nobody asked, beside the data set.")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Make a data set from a corpus: import, crop, annotate, review, split, publish; what is done is not done again."""
    from runner.dataset.build.pipeline import build_dataset, smoke_of
    from runner.errors import SpecError
    from runner.spec.dataset_spec import DatasetSpec
    from runner.spec.load import load

    loaded = load(spec, DatasetSpec, overrides or ())
    terminal = open_terminal()
    try:
        built = build_dataset(smoke_of(loaded.spec) if smoke else loaded.spec, terminal, dry_run=dry_run)
    except SpecError as error:
        raise loaded.located(error) from error
    finally:
        terminal.close()
    for reason, number in built.left_out.items():
        terminal.say(f"left out: {number:,} × {reason} (listed in {built.path / 'left_out.jsonl'})")
    if as_json:
        print(json.dumps(built.as_json(), ensure_ascii=False))
        return
    for line in _lines(built):
        print(line)


def _lines(built: BuildResult) -> list[str]:
    """Say what came of it."""
    if built.fingerprint is not None:
        return [
            f"data set: {built.path}",
            f"samples: {', '.join(f'{split} {number:,}' for split, number in built.num_samples.items())}",
            f"fingerprint: {built.fingerprint}",
        ]
    if built.review is not None and built.review.undecided:
        number = built.review.undecided
        return [
            f"review waits: nobody has decided about {number:,} sample{'s' if number > 1 else ''}",
            f"next: runner review {built.path}, then build again; or build with --set publish=everything",
        ]
    return ["dry run: nothing was asked, nothing is published"]


DatasetFolder = Annotated[Path, typer.Argument(metavar="DATASET", help="A data set's folder.")]


@contextmanager
def _reporter(stage: str) -> Iterator[Reporter]:
    from runner.cli.progress import StageReporter

    terminal = open_terminal()
    try:
        yield StageReporter(terminal, stage)
    finally:
        terminal.close()


@app.command(rich_help_panel=DATA)
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
    from runner.cli.tables import print_tables, stats_tables
    from runner.preflight.dataset_report import describe, write_figures

    set_environment()
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


@app.command(rich_help_panel=DATA)
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


@app.command("import", rich_help_panel=DATA)
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
    from runner.errors import RequirementError

    try:
        from runner.dataset import huggingface as exchange
    except ImportError as error:
        raise RequirementError(
            f"this needs Hugging Face's datasets: pip install 'mmre-runner[hub]' ({error})"
        ) from error
    return exchange


PORT = 8321


@app.command(rich_help_panel=DATA)
def review(
    dataset: Annotated[
        Path, typer.Argument(metavar="DATASET", help="A data-set spec whose build waits for review, or its data set.")
    ],
    *,
    host: Annotated[str, typer.Option(help="Address to listen on. Whoever reaches another one may decide.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = PORT,
    reviewer: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who decides. Default: the name you are logged in with.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print how far the review is, and serve nothing.")] = False,
    debug: Debug = False,
) -> None:
    """Open the page on which summaries are accepted, edited or rejected, by key or click."""
    from runner.dataset.review.queue import open_review
    from runner.errors import RequirementError

    opened = open_review(dataset)
    _tell_torn(opened)
    if as_json:
        print(json.dumps(opened.as_json(), ensure_ascii=False))
        return
    try:
        from runner.dataset.review.server import is_loopback, refuse_taken, serve_review
    except ModuleNotFoundError as error:
        raise RequirementError(f"the review page needs NiceGUI ({error}): pip install 'mmre-runner[review]'") from error
    who = reviewer or _logged_in()
    refuse_taken(host, port)
    if not is_loopback(host):
        print(
            f"warning: whoever reaches {host}:{port} sees these pictures and may decide, without a password",
            file=sys.stderr,
        )
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    print(f"serving {address} (Ctrl-C ends it; every decision is kept)", file=sys.stderr)
    then = f"`runner build {dataset if dataset.is_file() else 'DATASET_SPEC'}` publishes the data set."
    serve_review(opened, host=host, port=port, who=who, then=then)


def _logged_in() -> str:
    from runner.errors import RequirementError

    try:
        return getuser()
    except (KeyError, OSError) as error:  # As in a container whose user has no name.
        raise RequirementError("nobody is logged in here by name; say who decides with --reviewer NAME") from error


def _tell_torn(opened: ReviewQueue) -> None:
    from runner.dataset.review.decisions import torn_message

    log = opened.log
    torn = [*log.torn, *([log.num_lines + 1] if log.ends_torn else [])]
    if torn:
        print(f"warning: {torn_message(log.path, torn)}", file=sys.stderr)
