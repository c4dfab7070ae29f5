"""The command that runs an experiment: launch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runner.cli.app import RUN, AsJson, Debug, Overrides, SpecFile, app, open_terminal, settle_environment

if TYPE_CHECKING:
    from runner.execute.executor import Executor
    from runner.execute.experiment import Experiment
    from runner.execute.interrupts import Interrupts
    from runner.execute.results import LaunchResult
    from runner.spec.load import LoadedSpec
    from runner.spec.models import ExperimentSpec
    from runner.terminal.progress import Terminal


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
    from runner.execute.executor import make_executor
    from runner.execute.interrupts import Interrupts
    from runner.spec.load import load_spec
    from runner.standing.underway import noted
    from runner.terminal.tables import print_results

    settle_environment()
    loaded = load_spec(spec, overrides or ())
    address = address or os.environ.get("RAY_ADDRESS")
    if detach:
        from runner.cli.running import launch_detached  # late, as the help shows this command first

        launch_detached(loaded, address, local=local, smoke=smoke, as_json=as_json)
        return
    terminal = open_terminal(live=not local)
    experiment = _experiment(loaded, terminal, overrides or (), smoke=smoke, elsewhere=bool(address) and not local)
    # From here to the end of the process: Ctrl-C asks, and is never an exception between two lines.
    interrupts = Interrupts()
    with noted(experiment.folder):
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
    from runner.errors import SpecError
    from runner.execute.experiment import Experiment
    from runner.execute.launch import resolve_here
    from runner.plan import smoke as smoke_of
    from runner.terminal.progress import StageReporter

    spec = smoke_of(loaded.spec) if smoke else loaded.spec
    try:
        plan = resolve_here(spec, StageReporter(terminal, "data"), elsewhere=elsewhere)
    except SpecError as error:
        raise loaded.located(error) from error
    finally:
        terminal.close()
    return Experiment(loaded, plan, spec.compute.storage or Path("runs").resolve(), overrides, afresh=smoke)


def _launch(
    experiment: Experiment, terminal: Terminal, interrupts: Interrupts, make: Callable[[], Executor]
) -> LaunchResult:
    from runner.errors import SpecError
    from runner.execute.launch import launch

    try:
        if experiment.plan.spec.sweep is None:
            return launch(experiment, make, terminal, interrupts)
        # Optuna and Plotly are imported where something is searched.
        from runner.execute.launch_sweep import launch_sweep
        from runner.terminal.board import Board

        with Board(terminal) as board:
            return launch_sweep(experiment, make, board, interrupts, board)
    except SpecError as error:
        raise experiment.loaded.located(error) from error
    finally:
        terminal.close()
