"""Commands for results: evaluate, compare."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner.cli.app import MEASURE, AsJson, Debug, app, open_terminal, set_environment

if TYPE_CHECKING:
    from runner.compare.comparison import Comparison


@app.command(rich_help_panel=MEASURE)
def evaluate(
    *,
    predictions: Annotated[Path, typer.Option(help='Outputs: JSON lines {"id", "output"}.')],
    references: Annotated[
        Path, typer.Option(help='What is right: a data set\'s folder, or JSON lines {"id", "target"}.')
    ],
    split: Annotated[str, typer.Option(help="Which split of a data set.")] = "test",
    labels: Annotated[
        str | None,
        typer.Option(metavar="A,B,…", help="Known labels. Default: the data set's, else those of Twitter GMNER."),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,…", help="Of summary, ner and match, what was asked. Default: what references answer."
        ),
    ] = None,
    parse: Annotated[str, typer.Option(help="How answers are read: lossless or published.")] = "lossless",
    metrics: Annotated[
        str, typer.Option(metavar="A,B,…", help="Metric plugins.")
    ] = "rouge,bleu,ner_f1,image_entity_accuracy",
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Count a missing output as an empty answer.")
    ] = False,
    scores: Annotated[Path | None, typer.Option(help="Write each sample's scores to this file, as JSON lines.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Score anybody's outputs, read by the rules of the paper's Algorithm 1; needs no model."""
    from runner.cli.progress import StageReporter
    from runner.cli.tables import metrics_table, print_tables
    from runner.trial.evaluate import EvaluateOptions, evaluate

    request = EvaluateOptions(
        predictions=predictions,
        references=references,
        split=split,
        labels=_listed(labels),
        tasks=_listed(tasks),
        parse=parse,
        metrics=_listed(metrics) or (),
        allow_missing=allow_missing,
    )
    terminal = open_terminal()
    try:
        found = evaluate(request, StageReporter(terminal, "score"))
    finally:
        terminal.close()
    if scores is not None:
        _write_scores(scores, found.rows)
    if as_json:
        print(json.dumps(found.as_json(), ensure_ascii=False))
        return
    title = f"{', '.join(found.tasks)} on {len(found.rows):,} samples"
    print_tables([metrics_table(title, [(f"parsed as {found.modes[0].mode}", found.figures)])])
    if found.num_missing:
        print(f"{found.num_missing:,} without an output count as empty answers")


def _write_scores(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    from runner.errors import RequirementError
    from runner.files import write_lines

    try:
        write_lines(file, rows)
    except OSError as error:
        raise RequirementError(f"--scores: {file} cannot be written: {error.strerror}") from error


def _listed(names: str | None) -> tuple[str, ...] | None:
    """Part what stands between commas."""
    return None if names is None else tuple(name.strip() for name in names.split(",") if name.strip())


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

    from runner.compare.comparison import DISAGREEMENTS, CompareOptions
    from runner.compare.comparison import compare as compare_runs
    from runner.compare.resampling import Resampling
    from runner.compare.tracker_runs import fetch_runs

    question = CompareOptions(
        by=by,
        baseline=baseline,
        metrics=metric or None,
        parse=parse,
        finished=finished,
        mre=mre,
        samples=DISAGREEMENTS if samples is None else samples,
        resampling=Resampling(resamples, seed, confidence),
    )
    set_environment()
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
    from runner.compare.comparison_page import write_page
    from runner.compare.tracker_runs import attach_page

    write_page(file, found)
    print(f"page: {file}", file=sys.stderr)
    for told in attach_page(file, found.runs) if track else ():
        print(f"page: {told}", file=sys.stderr)


def _print_for_paper(found: Comparison, *, latex: bool, full: bool) -> None:
    from runner.compare import paper_tables as written

    print((written.latex if latex else written.markdown)(found, full=full), end="")


def _print_tables(found: Comparison, *, full: bool, samples: bool) -> None:
    from rich.console import Console

    from runner.cli.tables import comparison_tables, print_tables

    print_tables(comparison_tables(found, full=full, samples=samples, width=Console().width))
    for each in found.warnings:
        print(f"note: {each}")
