"""Commands for an experiment: init, validate, plan, launch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runner.cli.app import BEGIN, RUN, AsJson, Debug, Overrides, SpecFile, app, open_terminal, set_environment

if TYPE_CHECKING:
    from runner.cli.progress import Terminal
    from runner.execute.executor import Executor
    from runner.execute.experiment import Experiment
    from runner.execute.results import LaunchResult
    from runner.signals import StopSignals
    from runner.spec.experiment_spec import ExperimentSpec
    from runner.spec.load import LoadedSpec


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
    from runner.spec.load import load_any

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
    from runner.cli.plan_tables import plan_tables
    from runner.cli.progress import StageReporter
    from runner.cli.tables import print_tables
    from runner.errors import SpecError
    from runner.files import user_cache
    from runner.preflight.estimate import describe_plan
    from runner.spec.load import load_spec

    set_environment()
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


@app.command(rich_help_panel=RUN)
def launch(
    spec: SpecFile,
    *,
    overrides: Overrides = None,
    smoke: Annotated[
        bool,
        typer.Option(
            "--smoke",
            help="The same code path with a tiny twin of the model and a handful of samples; without Ray, "
            "unless an address is given.",
        ),
    ] = False,
    local: Annotated[bool, typer.Option("--local", help="In this process, without Ray, for debuggers.")] = False,
    address: Annotated[str | None, typer.Option(help="A Ray cluster to run on; none: this machine.")] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Hand the launch over to the cluster at --address, so that this may go.")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train, generate and score every trial of a spec; what is finished is not run again."""
    from runner.cli.tables import print_results
    from runner.execute.launch import make_executor
    from runner.signals import StopSignals
    from runner.spec.load import load_spec
    from runner.status.process_registry import registered_launch

    set_environment()
    loaded = load_spec(spec, overrides or ())
    address = address or os.environ.get("RAY_ADDRESS")
    if detach:
        from runner.cli.status_commands import launch_detached

        launch_detached(loaded, address, local=local, smoke=smoke, as_json=as_json)
        return
    terminal = open_terminal(live=not local)
    experiment = _experiment(loaded, terminal, overrides or (), smoke=smoke, elsewhere=bool(address) and not local)
    # From here to the end of the process: Ctrl-C asks, and is never an exception between two lines.
    interrupts = StopSignals()
    with registered_launch(experiment.folder):
        result = _launch(experiment, terminal, interrupts, lambda: make_executor(address, local=local, smoke=smoke))
    for trial in result.trials:
        if trial.error is not None:
            terminal.problem(f"{trial.trial.name}: {trial.error}" if result.sweep else str(trial.error))
            if debug and trial.trace:
                terminal.problem(trial.trace)
    if as_json:
        print(json.dumps(result.as_json(), ensure_ascii=False))
    else:
        print_results(result)
        if smoke and result.exit_status == 0:
            print("the smoke run passed: this spec's code path works; its figures mean nothing")
    raise typer.Exit(result.exit_status)


def _experiment(
    loaded: LoadedSpec[ExperimentSpec], terminal: Terminal, overrides: Sequence[str], *, smoke: bool, elsewhere: bool
) -> Experiment:
    from runner.cli.progress import StageReporter
    from runner.errors import SpecError
    from runner.execute.experiment import Experiment
    from runner.execute.launch import resolve_here
    from runner.plan import smoke as smoke_of

    spec = smoke_of(loaded.spec) if smoke else loaded.spec
    try:
        plan = resolve_here(spec, StageReporter(terminal, "data"), elsewhere=elsewhere)
    except SpecError as error:
        raise loaded.located(error) from error
    finally:
        terminal.close()
    return Experiment(loaded, plan, spec.compute.storage or Path("runs").resolve(), overrides, afresh=smoke)


def _launch(
    experiment: Experiment, terminal: Terminal, interrupts: StopSignals, make: Callable[[], Executor]
) -> LaunchResult:
    from runner.errors import SpecError
    from runner.execute.launch import launch

    try:
        if experiment.plan.spec.sweep is None:
            return launch(experiment, make, terminal, interrupts)
        # Optuna and Plotly are imported where something is searched.
        from runner.cli.sweep_display import SweepDisplay
        from runner.execute.launch import launch_sweep

        with SweepDisplay(terminal) as board:
            return launch_sweep(experiment, make, board, interrupts, board)
    except SpecError as error:
        raise experiment.loaded.located(error) from error
    finally:
        terminal.close()
