"""Commands to look at what there is: plugins, schema, ui."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from runner.cli.app import LOOK, AsJson, Debug, app, settle_environment


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
    from runner.spec.models import ExperimentSpec
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
    from runner.execute.ui import serve_command

    settle_environment()
    command = serve_command(spec, host, port)
    print(f"serving http://{host}:{port} (Ctrl-C ends it)", file=sys.stderr)
    os.execv(command[0], list(command))
