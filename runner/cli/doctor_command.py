"""The command doctor: what this machine and a spec's storage, tracker and cluster offer and lack."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runner.cli.app import SETUP, AsJson, Debug, Overrides, app, open_terminal, set_environment
from runner.cli.printing import print_json, print_text

if TYPE_CHECKING:
    from runner.preflight.doctor import Finding

MARKS = {"ok": "ok      ", "warning": "warning ", "problem": "PROBLEM "}


@app.command(rich_help_panel=SETUP)
def doctor(
    spec: Annotated[
        Path | None,
        typer.Argument(metavar="[SPEC]", help="The spec of an experiment. Default: what every launch needs."),
    ] = None,
    *,
    overrides: Overrides = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Also ask the nodes of the Ray cluster at this address. Default: the value of the environment "
            "variable RAY_ADDRESS."
        ),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Try what a launch needs: packages, GPUs, storage, locks, clocks, tracker, cluster; says what to do."""
    from runner.execute.doctor import examine
    from runner.preflight.doctor import summary, worst_level
    from runner.spec.load import load_spec

    set_environment()
    if spec is None and overrides:
        raise typer.BadParameter("needs a SPEC", param_hint="--set")
    loaded = load_spec(spec, overrides or ()) if spec is not None else None
    address = address or os.environ.get("RAY_ADDRESS")
    findings = []
    terminal = open_terminal()
    try:
        for finding in examine(loaded.spec if loaded is not None else None, address):
            findings.append(finding)
            if not as_json:
                _print_finding(finding)
    finally:
        terminal.close()
    level = worst_level(findings)
    if as_json:
        print_json(summary(findings))
    else:
        print_text(
            {
                "ok": "nothing to do",
                "warning": "a launch can start; the warnings say what would be better",
                "problem": "a launch would fail; solve the problems first",
            }[level]
        )
    raise typer.Exit(1 if level == "problem" else 0)


def _print_finding(finding: Finding) -> None:
    print_text(f"{MARKS[finding.level]}{finding.topic}: {finding.text}", flush=True)
    if finding.remedy:
        print_text(f"        -> {finding.remedy}", flush=True)
