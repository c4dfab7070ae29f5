"""Commands that list plugins, write the schema of specs, and serve the pages of the tracker: plugins, schema, ui."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from runner.cli.app import INSPECT, AsJson, Debug, app, set_environment, warn_of_unusable_plugins
from runner.cli.printing import print_json, print_text
from runner.errors import SpecError
from runner.redaction import is_loopback, without_api_keys


@app.command(rich_help_panel=INSPECT)
def plugins(as_json: AsJson = False, debug: Debug = False) -> None:
    """List the installed plugins by stage."""
    from runner.spec.schema import list_plugins

    rows = list_plugins()
    warn_of_unusable_plugins()
    if as_json:
        print_json(rows)
        return
    for row in rows:
        print_text(f"{row['stage']:<10} {row['name']:<24} {row['distribution']}")


@app.command(rich_help_panel=INSPECT)
def schema(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the schema to this file. Default: standard output.")
    ] = None,
    dataset: Annotated[
        bool, typer.Option("--dataset", help="Write the schema of data-set specs, not of experiment specs.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Write the JSON Schema of specs, with which editors check the options of all installed plugins."""
    from runner.spec.dataset_spec import DatasetSpec
    from runner.spec.experiment_spec import ExperimentSpec
    from runner.spec.schema import spec_schema

    warn_of_unusable_plugins()
    text = json.dumps(spec_schema(DatasetSpec if dataset else ExperimentSpec), indent=2, ensure_ascii=False)
    if output is None:
        print_text(text)
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
    host: Annotated[str, typer.Option(help="Network address on which to serve the web interface.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port on which to serve the web interface.")] = 5000,
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--allowed-hosts",
            metavar="NAME",
            help="A further name of this machine that browsers may use in the address. May be repeated.",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Serve the web interface of the tracker (MLflow)."""
    set_environment()
    command, path = _serve_command(spec, host, port, allowed_hosts or ())
    if not is_loopback(host):
        print_text(
            f"warning: anybody who can reach {host}:{port} sees and can change all runs, without a password",
            file=sys.stderr,
        )
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/{path}"
    print_text(f"serving {address} (Ctrl-C ends it)", file=sys.stderr)
    os.execve(command[0], list(command), without_api_keys(os.environ))


def _serve_command(spec: Path | None, host: str, port: int, allowed_hosts: Sequence[str]) -> tuple[Sequence[str], str]:
    """The command that serves the tracker's pages, for a spec's store or the MLflow store under `runs/` here.

    Returns:
        The command, and the path of the first page.

    Raises:
        SpecError: There is no such store yet.
    """
    from runner.resolved_plan import create_plugin
    from runner.spec.check import make_section
    from runner.spec.load import load_spec
    from runner.stages import Tracker

    if spec is None:
        tracker, storage = make_section("tracker", {"type": "mlflow"}), Path("runs").resolve()
    else:
        loaded = load_spec(spec).spec
        tracker, storage = loaded.tracker, loaded.compute.storage or Path("runs").resolve()
    if not storage.is_dir():
        raise SpecError(f"{storage}: no runs here yet. Start one with `runner launch SPEC`, or name a spec")
    opened: Tracker = create_plugin(tracker, storage)
    return opened.serve_command(host, port, allowed_hosts), opened.pages_path()
