"""Command that compares: compare."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runner.cli.app import MEASURE, AsJson, Debug, app, settle_environment

if TYPE_CHECKING:
    from runner.compare.comparison import Comparison


Names = Annotated[list[str], typer.Argument(metavar="EXPERIMENT|RUN...", help="By name, its beginning, or folder.")]
By = Annotated[
    str | None,
    typer.Option(
        metavar="PATH|arm|experiment",
        help="What to group by: a path such as adapter.tasks. Default: what differs in its seed alone.",
    ),
]
Baseline = Annotated[
    str | None, typer.Option(metavar="VALUE", help="Compare with this group. Default: each with each.")
]
Figures = Annotated[
    list[str] | None, typer.Option(metavar="FIGURE", help="Such as ner_f1; may be repeated. Default: all.")
]
Mre = Annotated[
    bool, typer.Option("--mre", help="Mutual reinforcement: all tasks together, less each alone and all but one.")
]
Parse = Annotated[
    str | None, typer.Option(metavar="MODE", help="How answers are read. Default: as the runs' specs say.")
]
Finished = Annotated[bool, typer.Option("--finished", help="Leave out what is not finished, instead of refusing it.")]
Full = Annotated[
    bool, typer.Option("--full", help="Also show intervals of groups; differences by label and number of segments.")
]
NumSamples = Annotated[
    int | None,
    typer.Option(min=0, help="List so many samples on which two groups disagree. Default: 20, in --json and page."),
]
Resamples = Annotated[int, typer.Option(min=100, help="Times that the test samples are drawn anew.")]
Seed = Annotated[int, typer.Option(min=0, help="Of those draws.")]
Confidence = Annotated[float, typer.Option(min=0.5, max=0.999, help="Of intervals.")]
Storage = Annotated[Path, typer.Option(help="The folder of all runs.")]
Source = Annotated[
    Path | None,
    typer.Option("--from", metavar="SPEC", help="Fetch the experiments from the tracker of this spec."),
]
Html = Annotated[
    Path | None, typer.Option(help="Write a page with figures and samples, and add it to the tracker's runs.")
]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print the tables in Markdown.")]
Latex = Annotated[bool, typer.Option("--latex", help="Print the tables in LaTeX, for booktabs.")]


@app.command(rich_help_panel=MEASURE)
def compare(
    names: Names,
    *,
    by: By = None,
    baseline: Baseline = None,
    metric: Figures = None,
    mre: Mre = False,
    parse: Parse = None,
    finished: Finished = False,
    full: Full = False,
    samples: NumSamples = None,
    resamples: Resamples = 10_000,
    seed: Seed = 0,
    confidence: Confidence = 0.95,
    storage: Storage = Path("runs"),
    source: Source = None,
    html: Html = None,
    markdown: Markdown = False,
    latex: Latex = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Compare finished runs: figures over seeds, differences with intervals and p-values, on the same test samples."""
    if markdown + latex + as_json > 1:
        raise typer.BadParameter("choose one of --json, --markdown and --latex")
    from tempfile import TemporaryDirectory

    from runner.compare.comparison import DISAGREEMENTS, Question
    from runner.compare.comparison import compare as compare_runs
    from runner.compare.resampling import Resampling
    from runner.compare.tracked import fetch_runs

    question = Question(
        by=by,
        baseline=baseline,
        metrics=metric or None,
        parse=parse,
        finished=finished,
        mre=mre,
        samples=DISAGREEMENTS if samples is None else samples,
        resampling=Resampling(resamples, seed, confidence),
    )
    settle_environment()
    with TemporaryDirectory() as fetched:
        if source is not None:
            fetch_runs(names, source, Path(fetched))
            storage = Path(fetched)
        found = compare_runs(names, storage, question)
        if html is not None:
            _write_page(html, found, track=source is None)
    if as_json:
        print(json.dumps(found.as_json(), ensure_ascii=False))
    elif markdown or latex:
        _print_for_paper(found, latex=latex, full=full)
    else:
        _print_tables(found, full=full, samples=bool(samples))


def _write_page(file: Path, found: Comparison, *, track: bool) -> None:
    from runner.compare.page import write_page
    from runner.compare.tracked import attach_page

    write_page(file, found)
    print(f"page: {file}", file=sys.stderr)
    for told in attach_page(file, found.runs) if track else ():
        print(f"page: {told}", file=sys.stderr)


def _print_for_paper(found: Comparison, *, latex: bool, full: bool) -> None:
    from runner.compare import written

    print((written.latex if latex else written.markdown)(found, full=full), end="")


def _print_tables(found: Comparison, *, full: bool, samples: bool) -> None:
    from rich.console import Console

    from runner.terminal.compare import comparison_tables
    from runner.terminal.tables import print_tables

    print_tables(comparison_tables(found, full=full, samples=samples, width=Console().width))
    for each in found.warnings:
        print(f"note: {each}")
