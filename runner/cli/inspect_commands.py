"""Commands to inspect specs, plugins and tracked runs: preview, plugins, schema, ui."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from runner.cli.app import INSPECT, AsJson, Debug, Overrides, SpecFile, app, open_terminal, set_environment
from runner.errors import SpecError


class Split(StrEnum):
    """The splits of a data set that can be previewed."""

    TRAIN = "train"
    TEST = "test"


def _num_samples(text: str) -> int | None:
    """Parse `-n`: a positive number, or None for `all`."""
    if text == "all":
        return None
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise typer.BadParameter(f"{text!r} is neither a positive number nor `all`", param_hint="-n")


@app.command(rich_help_panel=INSPECT)
def preview(
    spec: SpecFile,
    *,
    split: Annotated[Split, typer.Option(help="train shows prompts and answers; test shows prompts only.")] = (
        Split.TRAIN
    ),
    number: Annotated[str, typer.Option("-n", metavar="N|all", help="Show the first N samples.")] = "3",
    html: Annotated[Path | None, typer.Option(help="Write a page with images to this file.")] = None,
    overrides: Overrides = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="Use a tiny model of the same family.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line per sample and nothing else.")] = False,
    debug: Debug = False,
) -> None:
    """Show samples as the model receives them: images, prompt, trained tokens, lengths and detected problems."""
    from runner.cli.plan_and_preview_display import show_samples
    from runner.cli.progress import StageReporter
    from runner.errors import SpecError
    from runner.preflight.preview import load_preview
    from runner.resolved_plan import smoke_spec
    from runner.spec.load import load_spec

    set_environment()
    num_samples = _num_samples(number)
    loaded = load_spec(spec, overrides or ())
    terminal = open_terminal()
    try:
        loaded_preview = load_preview(
            smoke_spec(loaded.spec) if smoke else loaded.spec, split.value, StageReporter(terminal, "data")
        )
        terminal.close()
        title = f"{loaded.spec.name}, {split}"
        num_with_problems = show_samples(
            loaded_preview.preview_samples(num_samples), html=html, title=title, as_json=as_json
        )
    except SpecError as error:
        raise loaded.with_locations(error) from error
    finally:
        terminal.close()
    raise typer.Exit(1 if num_with_problems else 0)


@app.command(rich_help_panel=INSPECT)
def plugins(as_json: AsJson = False, debug: Debug = False) -> None:
    """List the installed plugins by stage."""
    from runner.spec.schema import list_plugins

    rows = list_plugins()
    if as_json:
        print(json.dumps(rows, ensure_ascii=False))
        return
    for row in rows:
        print(f"{row['stage']:<10} {row['name']:<24} {row['distribution']}")


@app.command(rich_help_panel=INSPECT)
def schema(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the schema to this file. Default: standard output.")
    ] = None,
    dataset: Annotated[bool, typer.Option("--dataset", help="Write the schema of data-set specs instead.")] = False,
    debug: Debug = False,
) -> None:
    """Write the JSON Schema of specs. Editors use it to check the options of all installed plugins."""
    from runner.spec.dataset_spec import DatasetSpec
    from runner.spec.experiment_spec import ExperimentSpec
    from runner.spec.schema import spec_schema

    text = json.dumps(spec_schema(DatasetSpec if dataset else ExperimentSpec), indent=2, ensure_ascii=False)
    if output is None:
        print(text)
    else:
        output.write_text(text + "\n", encoding="utf-8")


@app.command(rich_help_panel=INSPECT)
def ui(
    spec: Annotated[
        Path | None,
        typer.Argument(
            metavar="SPEC", help="Show the runs of this spec's tracker. Default: the runs in the folder runs/."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address of the web interface.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the web interface.")] = 5000,
    debug: Debug = False,
) -> None:
    """Serve the web interface of the tracker (MLflow)."""
    set_environment()
    command = _serve_command(spec, host, port)
    print(f"serving http://{host}:{port} (Ctrl-C ends it)", file=sys.stderr)
    os.execv(command[0], list(command))


def _serve_command(spec: Path | None, host: str, port: int) -> Sequence[str]:
    """The command that serves the tracker's pages, for a spec's store or the MLflow store under `runs/` here.

    Raises:
        SpecError: There is no such store yet.
    """
    from runner.resolved_plan import create_plugin
    from runner.spec.check import make_section
    from runner.spec.load import load_spec

    if spec is None:
        tracker, storage = make_section("tracker", {"type": "mlflow"}), Path("runs").resolve()
    else:
        loaded = load_spec(spec).spec
        tracker, storage = loaded.tracker, loaded.compute.storage or Path("runs").resolve()
    if not storage.is_dir():
        raise SpecError(f"{storage}: no runs here yet. Start one with `runner launch SPEC`, or name a spec")
    command: Sequence[str] = create_plugin(tracker, storage).serve_command(host, port)
    return command


OBJECTIVE = "objective"
"""The metric under which the tracker shows a trial's objective value, whatever the objective's own name is."""


def objective_metric(objective: float | None) -> dict[str, float]:
    """A trial's objective value as a metric for the tracker; empty if the trial has none."""
    return {} if objective is None else {OBJECTIVE: objective}
