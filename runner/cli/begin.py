"""Commands to begin with: init, validate, plan."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from runner.cli.app import BEGIN, AsJson, Debug, Overrides, SpecFile, app, open_terminal, settle_environment


@app.command(rich_help_panel=BEGIN)
def init(
    name: Annotated[str, typer.Argument(help="The experiment's name, and the file's.")] = "experiment",
    debug: Debug = False,
) -> None:
    """Write a starter spec into this folder."""
    from runner.spec.starter import write_starter

    path = write_starter(name, Path.cwd())
    print(f"wrote {path.name}; next: runner validate {path.name}")


@app.command(rich_help_panel=BEGIN)
def validate(
    specs: Annotated[list[Path], typer.Argument(metavar="SPEC...", help="Specs of experiments or data sets.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Check all of a spec that needs no model or data, in a fraction of a second."""
    from runner.errors import Problem, SpecError
    from runner.spec.kinds import load_any

    problems: list[Problem] = []
    for path in specs:
        try:
            load_any(path, overrides or ())
        except SpecError as error:
            problems.extend(error.problems)
    if as_json:
        print(json.dumps({"valid": not problems, "errors": [each.as_json() for each in problems]}))
    else:
        for problem in problems:
            print(problem)
        bad = {problem.file for problem in problems}
        print(f"{len(problems)} problem(s) in {len(bad)} file(s)" if problems else _valid(specs))
    raise typer.Exit(2 if problems else 0)


def _valid(specs: Sequence[Path]) -> str:
    return f"{specs[0]} is valid" if len(specs) == 1 else f"{len(specs)} specs are valid"


@app.command(rich_help_panel=BEGIN)
def plan(spec: SpecFile, overrides: Overrides = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """Show what would run: trials, steps, tokens, parameters a group, memory, disk, hours, and where."""
    from runner.errors import SpecError
    from runner.files import user_cache
    from runner.forecast.estimate import describe_plan
    from runner.spec.load import load_spec
    from runner.terminal.plan import plan_tables
    from runner.terminal.progress import StageReporter
    from runner.terminal.tables import print_tables

    settle_environment()
    loaded = load_spec(spec, overrides or ())
    terminal = open_terminal()
    try:
        told = describe_plan(loaded, StageReporter(terminal, "data"), user_cache("plans"))
    except SpecError as error:
        raise loaded.located(error) from error
    finally:
        terminal.close()
    if as_json:
        print(json.dumps(told, ensure_ascii=False))
        return
    print_tables(plan_tables(told))
    for line in told["advice"]:
        print(f"memory: {line}")
    for line in told["unmet"]:
        print(f"unmet: {line}")
