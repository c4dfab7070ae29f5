"""Commands for data sets: build, stats, review."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from getpass import getuser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runner.cli.app import DATASETS, AsJson, Debug, Overrides, app, open_terminal, set_environment, show_sent_variables
from runner.cli.printing import print_json, print_text

if TYPE_CHECKING:
    from runner.dataset.build.pipeline import BuildResult
    from runner.dataset.review.queue import ReviewQueue
    from runner.stages import Reporter


Replace = Annotated[
    bool,
    typer.Option(
        "--replace",
        help="Replace the folder even if it holds another data set, or files that are not part of the data set. They "
        "are deleted.",
    ),
]


@app.command(rich_help_panel=DATASETS)
def build(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="The spec of a data set (YAML).")],
    *,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Import the tweets, crop the segments, and estimate the tokens and cost of the summaries. No "
            "summary is requested, and nothing is published.",
        ),
    ] = False,
    smoke: Annotated[
        bool,
        typer.Option(
            "--smoke",
            help="Test the build with 8 tweets, without requests for summaries and without review. The data set is "
            "written to a folder of its own, whose name ends with _smoke.",
        ),
    ] = False,
    replace: Replace = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Build a data set from a corpus: import, crop, annotate, split, publish.

    Finished stages do not run again. If summaries wait for review, the build ends; build again after the review.
    """
    from runner.dataset.build.pipeline import build_dataset, smoke_spec
    from runner.errors import SpecError
    from runner.spec.dataset_spec import DatasetSpec
    from runner.spec.load import load

    loaded = load(spec, DatasetSpec, overrides or ())
    terminal = open_terminal()
    if not smoke:
        show_sent_variables(loaded, terminal)
    try:
        result = build_dataset(
            smoke_spec(loaded.spec) if smoke else loaded.spec, terminal, dry_run=dry_run, replace=replace
        )
    except SpecError as error:
        raise loaded.with_locations(error) from error
    finally:
        terminal.close()
    for reason, number in result.left_out.items():
        terminal.say(f"left out: {number:,} × {reason} (listed in {result.path / 'left_out.jsonl'})")
    if as_json:
        print_json(result.as_json())
        return
    for line in _build_summary(result):
        print_text(line)


def _build_summary(result: BuildResult) -> list[str]:
    if result.fingerprint is not None:
        return [
            f"data set: {result.path}",
            format_num_samples(result.num_samples),
            f"fingerprint: {result.fingerprint}",
        ]
    if result.review is not None and result.review.undecided:
        number = result.review.undecided
        return [
            f"review pending: {number:,} sample{'s have' if number > 1 else ' has'} no decision yet",
            f"next: runner review {result.path}, then build again; or build with --set publish=everything",
        ]
    return ["dry run: no annotation was requested and no data set was published"]


DatasetFolder = Annotated[Path, typer.Argument(metavar="DATASET", help="The folder of a data set.")]


@contextmanager
def stage_reporter(stage: str) -> Iterator[Reporter]:
    """Show the progress of a stage on standard error."""
    from runner.cli.progress import StageReporter

    terminal = open_terminal()
    try:
        yield StageReporter(terminal, stage)
    finally:
        terminal.close()


@app.command(rich_help_panel=DATASETS)
def stats(
    dataset: DatasetFolder,
    *,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC|CHECKPOINT",
            help="Also count the tokens of the samples, with the model and prompts of a spec, or with a checkpoint "
            "(a folder or a hub name).",
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write an HTML page with histograms and samples to this file.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show statistics of a data set: Table 1 as in the paper, labels, entities, segments, image sizes, tokens."""
    from runner.cli.cache_and_dataset_tables import stats_tables
    from runner.cli.results_display import print_tables
    from runner.dataset_statistics_report import describe_dataset, write_report

    set_environment()
    with stage_reporter("tokens") as reporter:
        statistics = describe_dataset(dataset.resolve(), model, reporter)
    if html is not None:
        write_report(html, statistics)
    if as_json:
        print_json(statistics.as_json())
        return
    print_tables(stats_tables(statistics))
    if html is not None:
        print_text(f"page: {html}")


def format_num_samples(num_samples: Mapping[str, int], kind: str = "samples") -> str:
    """Format the number of samples, or of examples, by split."""
    return f"{kind}: {', '.join(f'{split} {number:,}' for split, number in num_samples.items())}"


PORT = 8321


@app.command(rich_help_panel=DATASETS)
def review(
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET",
            help="The spec of a data set whose summaries wait for review, or the folder of this data set, even if it "
            "does not exist yet.",
        ),
    ],
    *,
    host: Annotated[
        str,
        typer.Option(
            help="Network address on which to serve the page. Anybody who can reach this address and has the printed "
            "token can accept and reject summaries."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on which to serve the page.")] = PORT,
    reviewer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Your name, which is stored with each of your decisions. Default: your login name."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the progress of the review as JSON and exit.")] = False,
    debug: Debug = False,
) -> None:
    """Serve the review page, on which people accept, edit or reject summaries."""
    from runner.dataset.review.queue import open_review
    from runner.errors import RequirementError
    from runner.redaction import is_loopback

    queue = open_review(dataset)
    _warn_torn_lines(queue)
    if as_json:
        print_json(queue.as_json())
        return
    try:
        from runner.dataset.review.access import review_token
        from runner.dataset.review.server import check_port_free, serve_review
    except ModuleNotFoundError as error:
        raise RequirementError(f"the review page needs NiceGUI ({error}): pip install 'mmre-runner[review]'") from error
    reviewer = reviewer or _login_name()
    check_port_free(host, port)
    token = review_token(dataset)
    if not is_loopback(host):
        print_text(
            f"warning: anybody who can reach {host}:{port} and has the token sees these images and may decide; the "
            "connection is not encrypted",
            file=sys.stderr,
        )
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/?token={token}"
    print_text(f"serving {address} (Ctrl-C stops it; every decision is saved)", file=sys.stderr)
    next_step = f"`runner build {dataset if dataset.is_file() else 'DATASET_SPEC'}` publishes the data set."
    serve_review(queue, host=host, port=port, token=token, reviewer=reviewer, next_step=next_step)


def _login_name() -> str:
    from runner.errors import RequirementError

    try:
        return getuser()
    except (KeyError, OSError) as error:  # For example in a container whose user has no name.
        raise RequirementError("the current user has no login name; name the reviewer with --reviewer NAME") from error


def _warn_torn_lines(queue: ReviewQueue) -> None:
    from runner.dataset.review.decisions import torn_lines_message

    log = queue.log
    torn = [*log.torn_lines, *([log.num_lines + 1] if log.ends_with_partial_line else [])]
    for path, lines in ((log.path, torn), (queue.boxes.path, queue.boxes.torn_lines)):
        if lines:
            print_text(f"warning: {torn_lines_message(path, lines)}", file=sys.stderr)
