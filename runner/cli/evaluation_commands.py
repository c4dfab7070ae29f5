"""Commands for results: evaluate, compare."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner.cli.app import RESULTS, AsJson, Debug, app, open_terminal, set_environment
from runner.cli.printing import print_json, print_text

if TYPE_CHECKING:
    from runner.compare.comparison import Comparison
    from runner.tracking.destination import Destination


@app.command(rich_help_panel=RESULTS)
def evaluate(
    *,
    predictions: Annotated[Path, typer.Option(help='File with the outputs of a model: JSON lines {"id", "output"}.')],
    references: Annotated[
        Path, typer.Option(help='Reference answers: a data-set folder, or a file of JSON lines {"id", "target"}.')
    ],
    split: Annotated[
        str | None,
        typer.Option(help="Split to score, if the references are a data-set folder. Default: test."),
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B,…",
            help="Entity labels, if the references are not a data set. Default: the four labels of Twitter GMNER.",
        ),
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B,…",
            help="Tasks to score, such as summary, ner, match. Default: the tasks for which the references have "
            "answers.",
        ),
    ] = None,
    parse: Annotated[
        str | None,
        typer.Option(
            help="How answers are parsed: lossless (an entity may contain a colon) or published (the paper's rule). "
            "Default: lossless."
        ),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B,…",
            help="Names of the metric plugins to use. Default: rouge,bleu,ner_f1,image_entity_accuracy.",
        ),
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option(
            help="A spec or plan.json: use its adapter and its metrics, and read boxes in the frame of its model. "
            "Default: the adapter pfa."
        ),
    ] = None,
    allow_missing: Annotated[
        bool,
        typer.Option(
            "--allow-missing",
            help="Score a sample without an output as an empty answer. Without this option, such a sample is an error.",
        ),
    ] = False,
    scores: Annotated[
        Path | None, typer.Option(help="Write the scores of each sample to this file, as JSON lines.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Score a file with the outputs of any model, with the code that also scores a launch. No model is loaded.

    Options that take a list can be repeated.
    """
    from runner.cli.progress import StageReporter
    from runner.cli.results_display import metrics_table, print_tables
    from runner.evaluate_answer_file import EvaluateOptions, evaluate

    request = EvaluateOptions(
        predictions=predictions,
        references=references,
        split=split,
        labels=split_list(labels),
        tasks=split_list(tasks),
        parse=parse,
        metrics=None if metrics is None else split_list(metrics) or (),
        spec=spec,
        allow_missing=allow_missing,
    )
    terminal = open_terminal()
    try:
        evaluation = evaluate(request, StageReporter(terminal, "score"))
    finally:
        terminal.close()
    for warning in evaluation.warnings:
        terminal.warn(warning)
    if scores is not None:
        _write_scores(scores, evaluation.rows)
    if as_json:
        print_json(evaluation.as_json())
        return
    title = f"{', '.join(evaluation.tasks)} on {len(evaluation.rows):,} samples"
    print_tables([metrics_table(title, [(f"parsed as {evaluation.modes[0].mode}", evaluation.metrics)])])
    if evaluation.num_missing:
        print_text(f"{evaluation.num_missing:,} samples without an output are scored as empty answers")


def _write_scores(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    from runner.errors import RequirementError
    from runner.files import write_jsonl

    try:
        write_jsonl(file, rows)
    except OSError as error:
        raise RequirementError(f"--scores: {file} cannot be written: {error.strerror}") from error


def split_list(values: Sequence[str] | None) -> tuple[str, ...] | None:
    """Split the values of an option that can be repeated at their commas, each name once."""
    if values is None:
        return None
    names = (name.strip() for value in values for name in value.split(","))
    return tuple(dict.fromkeys(name for name in names if name))


Names = Annotated[
    list[str],
    typer.Argument(
        metavar="EXPERIMENT|RUN", help="Experiments or runs: a name, the start of a run's name, or a folder."
    ),
]
By = Annotated[
    str | None,
    typer.Option(
        metavar="PATH|arm|experiment",
        help="Group the runs by an option of their specs, such as adapter.tasks, by arm or by experiment. Default: "
        "runs that differ only in their seed form a group.",
    ),
]
Baseline = Annotated[
    str | None,
    typer.Option(
        metavar="VALUE",
        help="Compare every other group with the group of this name; the tables show the names. Default: compare all "
        "pairs, if there are at most 8 groups.",
    ),
]
Metrics = Annotated[
    list[str] | None,
    typer.Option(metavar="A,B,…", help="Show only these metrics, such as ner_f1. You can repeat this option."),
]
Mre = Annotated[
    bool,
    typer.Option(
        "--mre",
        help="Compare runs trained on all tasks with runs trained on one task, and with runs trained on all tasks but "
        "one. If the spec has a criterion, also show which arms reinforce, trade or harm.",
    ),
]
Parse = Annotated[
    str | None,
    typer.Option(
        metavar="MODE",
        help="Compare the scores of this parse mode: lossless, or published (the paper's rule). Default: adapter.parse "
        "of the runs; if the runs differ in it, this option is required.",
    ),
]
Finished = Annotated[
    bool, typer.Option("--finished", help="Ignore unfinished runs. Without this option, an unfinished run is an error.")
]
Full = Annotated[
    bool,
    typer.Option(
        "--full",
        help="Also show confidence intervals for each group, and the differences by entity label and by number of "
        "segments.",
    ),
]
NumSamples = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Number of samples to list for each pair of groups: the samples whose metrics differ most. Default: 20 "
        "with --json or --html, otherwise 0.",
    ),
]
Resamples = Annotated[int, typer.Option(min=100, help="Number of bootstrap and permutation resamples.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the resampling.")]
Confidence = Annotated[float, typer.Option(min=0.5, max=0.999, help="Confidence level of the intervals.")]
Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="image|text|content|none",
        help="Resample test samples together that have the same image, the same text, or the same image or text "
        "(content). Default: content, if the runs have recorded any such groups.",
    ),
]
Published = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME|FILE",
        help="Show published results beside the groups, in a part of their own and without tests: gmner, fmnerg, or a "
        "YAML file. You can repeat this option.",
    ),
]
Storage = Annotated[Path, typer.Option(help="The folder of all runs.")]
Source = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="SPEC",
        help="Download the experiments from the tracker of this spec, instead of reading the runs from --storage.",
    ),
]
Html = Annotated[
    Path | None,
    typer.Option(
        help="Write an HTML page with plots and samples to this file. Without --from, also add the page to the runs "
        "in the tracker, if its store is in --storage or --to names it."
    ),
]
Target = Annotated[
    Path | None,
    typer.Option(
        "--to",
        metavar="SPEC",
        help="Add the page of --html to the runs in the tracker of this spec. The addresses in the plans of runs are "
        "not used, because others may have written them.",
    ),
]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print the tables in Markdown.")]
Latex = Annotated[
    bool, typer.Option("--latex", help="Print the tables in LaTeX (they need the LaTeX package booktabs).")
]


@app.command(rich_help_panel=RESULTS)
def compare(
    names: Names,
    *,
    by: By = None,
    baseline: Baseline = None,
    metric: Metrics = None,
    mre: Mre = False,
    parse: Parse = None,
    finished: Finished = False,
    full: Full = False,
    samples: NumSamples = None,
    resamples: Resamples = 10_000,
    seed: Seed = 0,
    confidence: Confidence = 0.95,
    cluster: Cluster = None,
    published: Published = None,
    storage: Storage = Path("runs"),
    source: Source = None,
    target: Target = None,
    html: Html = None,
    markdown: Markdown = False,
    latex: Latex = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Compare finished runs on the same test samples: means over seeds, differences, intervals, p-values, claims."""
    if markdown + latex + as_json > 1:
        raise typer.BadParameter("choose one of --json, --markdown and --latex")
    if target is not None and (html is None or source is not None):
        raise typer.BadParameter("needs --html, and cannot be combined with --from", param_hint="--to")
    from tempfile import TemporaryDirectory

    from runner.compare.comparison import DEFAULT_NUM_DISAGREEMENTS, CompareOptions
    from runner.compare.comparison import compare as compare_runs
    from runner.compare.resampling import Resampling
    from runner.compare.tracker_exchange import fetch_runs
    from runner.tracking.destination import Destination

    options = CompareOptions(
        by=by,
        baseline=baseline,
        metrics=split_list(metric) or None,
        parse=parse,
        finished_only=finished,
        mre=mre,
        num_disagreements=DEFAULT_NUM_DISAGREEMENTS if samples is None else samples,
        resampling=Resampling(resamples, seed, confidence),
        cluster=cluster,
        published=published or (),
    )
    set_environment()
    destination = Destination.from_options(storage, target) if source is None else None
    with TemporaryDirectory() as fetched:
        if source is not None:
            fetch_runs(names, source, Path(fetched))
            storage = Path(fetched)
        comparison = compare_runs(names, storage, options)
        if html is not None:
            _write_page(html, comparison, destination)
    if as_json:
        print_json(comparison.as_json())
    elif markdown or latex:
        _print_paper_tables(comparison, latex=latex, full=full)
    else:
        _print_tables(comparison, full=full, samples=bool(samples))


def _write_page(file: Path, comparison: Comparison, destination: Destination | None) -> None:
    from runner.compare.comparison_page import write_page
    from runner.compare.tracker_exchange import attach_page

    write_page(file, comparison)
    print_text(f"page: {file}", file=sys.stderr)
    for location in attach_page(file, comparison.runs, destination) if destination else ():
        print_text(f"page: {location}", file=sys.stderr)


def _print_paper_tables(comparison: Comparison, *, latex: bool, full: bool) -> None:
    from runner.compare import tables as paper_tables

    print_text((paper_tables.latex if latex else paper_tables.markdown)(comparison, full=full), end="")


def _print_tables(comparison: Comparison, *, full: bool, samples: bool) -> None:
    from runner.cli.comparison_display import comparison_tables
    from runner.cli.console import PlainConsole
    from runner.cli.results_display import print_tables

    print_tables(comparison_tables(comparison, full=full, samples=samples, width=PlainConsole().width))
    for note in comparison.notes:
        print_text(f"note: {note}")
