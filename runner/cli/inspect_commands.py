"""Commands to inspect specs and plugins: preview, plugins, schema, ui."""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from runner.cli.app import LOOK, AsJson, Debug, Overrides, SpecFile, app, open_terminal, set_environment


class Split(StrEnum):
    """The splits of a data set."""

    TRAIN = "train"
    TEST = "test"


def _number(text: str) -> int | None:
    if text == "all":
        return None
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise typer.BadParameter(f"{text!r} is neither a number above 0 nor `all`", param_hint="-n")


@app.command(rich_help_panel=LOOK)
def preview(
    spec: SpecFile,
    *,
    split: Annotated[Split, typer.Option(help="`train` as it is trained on, or `test` as it is asked about.")] = (
        Split.TRAIN
    ),
    number: Annotated[str, typer.Option("-n", metavar="N|all", help="How many samples, from the first on.")] = "3",
    html: Annotated[Path | None, typer.Option(help="Write a page with the pictures to this file.")] = None,
    overrides: Overrides = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="With a tiny twin of the model.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON a sample and nothing else.")] = False,
    debug: Debug = False,
) -> None:
    """Show samples as the model gets them: pictures, prompt, the tokens that are trained, lengths, and the proof."""
    from runner.cli.preview_display import show_samples
    from runner.cli.progress import StageReporter
    from runner.errors import SpecError
    from runner.plan import smoke as smoke_of
    from runner.preflight.preview import load_preview
    from runner.spec.load import load_spec

    set_environment()
    wanted = _number(number)
    loaded = load_spec(spec, overrides or ())
    terminal = open_terminal()
    try:
        opened = load_preview(
            smoke_of(loaded.spec) if smoke else loaded.spec, split.value, StageReporter(terminal, "data")
        )
        terminal.close()
        wrong = show_samples(opened.shown(wanted), html=html, title=f"{loaded.spec.name}, {split}", as_json=as_json)
    except SpecError as error:
        raise loaded.located(error) from error
    finally:
        terminal.close()
    raise typer.Exit(1 if wrong else 0)


@app.command(rich_help_panel=LOOK)
def plugins(as_json: AsJson = False, debug: Debug = False) -> None:
    """List what is installed, by stage."""
    from runner.spec.schema import list_plugins

    rows = list_plugins()
    if as_json:
        print(json.dumps(rows, ensure_ascii=False))
        return
    for row in rows:
        print(f"{row['stage']:<10} {row['name']:<24} {row['distribution']}")


@app.command(rich_help_panel=LOOK)
def schema(
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write to this file.")] = None,
    dataset: Annotated[bool, typer.Option("--dataset", help="Of data-set specs instead of experiments.")] = False,
    debug: Debug = False,
) -> None:
    """Write the JSON Schema of a spec, from the installed plugins, for editors."""
    from runner.spec.dataset_spec import DatasetSpec
    from runner.spec.experiment_spec import ExperimentSpec
    from runner.spec.schema import spec_schema

    text = json.dumps(spec_schema(DatasetSpec if dataset else ExperimentSpec), indent=2, ensure_ascii=False)
    if output is None:
        print(text)
    else:
        output.write_text(text + "\n", encoding="utf-8")


@app.command(rich_help_panel=LOOK)
def ui(
    spec: Annotated[Path | None, typer.Argument(help="A spec whose store to show; none: the one under runs/.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5000,
    debug: Debug = False,
) -> None:
    """Serve the tracker's pages on a spec's store."""
    from runner.tracking.tracked_run import serve_command

    set_environment()
    command = serve_command(spec, host, port)
    print(f"serving http://{host}:{port} (Ctrl-C ends it)", file=sys.stderr)
    os.execv(command[0], list(command))
