"""Commands that measure: evaluate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from runner.cli.app import MEASURE, AsJson, Debug, app, open_terminal


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
    from runner.execute.evaluate import Request, evaluate
    from runner.terminal.progress import StageReporter
    from runner.terminal.tables import metrics_table, print_tables

    request = Request(
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
    from runner.errors import UnmetError
    from runner.files import write_lines

    try:
        write_lines(file, rows)
    except OSError as error:
        raise UnmetError(f"--scores: {file} cannot be written: {error.strerror}") from error


def _listed(names: str | None) -> tuple[str, ...] | None:
    """Part what stands between commas."""
    return None if names is None else tuple(name.strip() for name in names.split(",") if name.strip())
