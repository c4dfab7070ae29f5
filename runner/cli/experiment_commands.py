"""Commands for an experiment: init, validate, plan, preview, launch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runner.cli.app import (
    INSPECT,
    RUN,
    SETUP,
    AsJson,
    Debug,
    Overrides,
    SpecFile,
    app,
    open_terminal,
    set_environment,
    show_sent_variables,
    warn_of_unusable_plugins,
)
from runner.cli.printing import print_json, print_text
from runner.errors import RequirementError, SpecError

if TYPE_CHECKING:
    from runner.cli.progress import Terminal
    from runner.execute.launch_context import LaunchContext
    from runner.execute.results_and_interfaces import Executor, LaunchResult
    from runner.signals import StopSignals
    from runner.spec.experiment_spec import ExperimentSpec
    from runner.spec.load import LoadedSpec


@app.command(rich_help_panel=SETUP)
def init(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Name of the experiment; the file is NAME.yaml. Default: `experiment`; with --from, the name of the "
            "shipped spec.",
        ),
    ] = None,
    *,
    source: Annotated[
        str | None, typer.Option("--from", metavar="SPEC", help="Copy this shipped spec and the specs that it extends.")
    ] = None,
    list_specs: Annotated[bool, typer.Option("--list", help="List the shipped specs and exit.")] = False,
    debug: Debug = False,
) -> None:
    """Write a starter spec, or a copy of a shipped spec, into the current folder."""
    from runner.spec.starter_and_shipped_specs import copy_shipped_spec, shipped_specs, write_starter

    if list_specs:
        for spec, description in shipped_specs().items():
            print_text(f"{spec:<18}{description}")
        return
    if source is None:
        written = [write_starter(name or "experiment", Path.cwd())]
    else:
        written = copy_shipped_spec(source, name, Path.cwd())
    warn_of_unusable_plugins()
    print_text(f"wrote {', '.join(path.name for path in written)}; next: runner validate {written[0].name}")


@app.command(rich_help_panel=SETUP)
def validate(
    specs: Annotated[list[Path], typer.Argument(metavar="SPEC", help="Specs of experiments or data sets.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Check specs in a fraction of a second, without loading a model or data."""
    from runner.errors import Problem
    from runner.spec.load import load_any

    problems: list[Problem] = []
    for path in specs:
        try:
            load_any(path, overrides or ())
        except SpecError as error:
            problems.extend(error.problems)
    if as_json:
        print_json({"valid": not problems, "errors": [problem.as_json() for problem in problems]})
    else:
        for problem in problems:
            print_text(problem)
        if problems:
            print_text(f"{len(problems)} problem(s) in {len({problem.file for problem in problems})} file(s)")
        else:
            print_text(f"{specs[0]} is valid" if len(specs) == 1 else f"{len(specs)} specs are valid")
    raise typer.Exit(2 if problems else 0)


@app.command(rich_help_panel=SETUP)
def plan(spec: SpecFile, overrides: Overrides = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """Show what a launch would run: trials, steps, tokens, parameter groups, memory, disk, time, machines, claims."""
    from runner.cli.plan_and_preview_display import plan_tables
    from runner.cli.progress import StageReporter
    from runner.cli.results_display import print_tables
    from runner.files import user_cache_dir
    from runner.preflight.estimate import describe_plan
    from runner.spec.load import load_spec
    from runner.sweep.claim_registry import plan_claims

    set_environment()
    loaded = load_spec(spec, overrides or ())
    terminal = open_terminal()
    try:
        _announce_data_generation(loaded.spec, terminal)
        show_sent_variables(loaded, terminal)
        description = describe_plan(loaded, StageReporter(terminal, "data"), user_cache_dir("plans"))
        description["claims"] = plan_claims(loaded.spec)
    except SpecError as error:
        raise loaded.with_locations(error) from error
    finally:
        terminal.close()
    if as_json:
        print_json(description)
        return
    print_tables(plan_tables(description))
    for line in description["advice"]:
        print_text(f"memory: {line}")
    for line in description["unmet"]:
        print_text(f"missing: {line}")


def _announce_data_generation(spec: ExperimentSpec, terminal: Terminal) -> None:
    from runner.resolved_plan import create_plugin
    from runner.stages import GeneratedData

    data = create_plugin(spec.data)
    if isinstance(data, GeneratedData) and (message := data.pending_generation()):
        terminal.say(message)


class Step(StrEnum):
    """The steps of a trial, in order."""

    TRAIN = "train"
    GENERATE = "generate"
    SCORE = "score"


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
    split: Annotated[
        Split, typer.Option(help="Split to show: train (prompts and targets) or test (prompts and reference answers).")
    ] = Split.TRAIN,
    number: Annotated[str, typer.Option("-n", metavar="N|all", help="Show the first N samples, or all samples.")] = "3",
    arm: Annotated[str | None, typer.Option(help="Show the samples as this arm of the sweep uses them.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write an HTML page with the samples and their images to this file.")
    ] = None,
    overrides: Overrides = None,
    smoke: Annotated[
        bool,
        typer.Option(
            "--smoke", help="Show the samples as a smoke run uses them: few samples, and the tokens of a tiny model."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line per sample and nothing else.")] = False,
    debug: Debug = False,
) -> None:
    """Show samples as the model receives them: images, prompt, trained tokens, lengths and detected problems."""
    from runner.cli.plan_and_preview_display import show_samples
    from runner.cli.progress import StageReporter
    from runner.preflight.preview import load_preview
    from runner.resolved_plan import smoke_spec
    from runner.spec.load import load_spec
    from runner.spec.variants import select_arm

    set_environment()
    num_samples = _num_samples(number)
    loaded = load_spec(spec, overrides or ())
    if arm is not None:
        loaded = select_arm(loaded, arm)
    terminal = open_terminal()
    try:
        loaded_preview = load_preview(
            smoke_spec(loaded.spec) if smoke else loaded.spec, split.value, StageReporter(terminal, "data")
        )
        terminal.close()
        title = f"{loaded.spec.name}, {f'arm {arm}, ' if arm else ''}{split}"
        num_with_problems = show_samples(
            loaded_preview.preview_samples(num_samples), html=html, title=title, as_json=as_json
        )
    except SpecError as error:
        raise loaded.with_locations(error) from error
    finally:
        terminal.close()
    raise typer.Exit(1 if num_with_problems else 0)


@app.command(rich_help_panel=RUN)
def launch(
    spec: SpecFile,
    sbatch_options: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- SBATCH_OPTION...]",
            help="Only with --slurm: options of `sbatch`, such as `-- --partition=gpu --time=8:00:00`. They replace "
            "those that follow from the spec.",
            show_default=False,
        ),
    ] = None,
    *,
    overrides: Overrides = None,
    smoke: Annotated[
        bool,
        typer.Option(
            "--smoke",
            help="Test the spec with a tiny model and a few samples. Ray is used only if --address or RAY_ADDRESS "
            "names a cluster.",
        ),
    ] = False,
    rerun: Annotated[
        Step | None,
        typer.Option(
            help="Run this step and the steps after it again in every trial, although they are finished. The cache is "
            "neither read nor changed."
        ),
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="Run all trials in this process, without Ray, for debugging.")
    ] = False,
    address: Annotated[
        str | None,
        typer.Option(
            help="Address of the Ray cluster that runs the trials. Default: the value of the environment variable "
            "RAY_ADDRESS; if it is not set, Ray runs on this machine."
        ),
    ] = None,
    detach: Annotated[
        bool,
        typer.Option(
            "--detach",
            help="Start the launch on the cluster that --address or RAY_ADDRESS names, and exit. The launch continues "
            "there.",
        ),
    ] = False,
    slurm: Annotated[
        bool,
        typer.Option(
            "--slurm",
            help="Submit the launch to Slurm as a batch job, and exit. The section `compute` of the spec says which "
            "resources the job gets.",
        ),
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train, generate and score every trial of a spec. Finished trials are not run again."""
    from runner.cli.results_display import print_results
    from runner.execute.launch import make_executor
    from runner.signals import StopSignals
    from runner.spec.load import load_spec
    from runner.status.running_launches import registered_launch

    set_environment()
    if sbatch_options and not slurm:
        raise typer.BadParameter(f"unexpected argument {sbatch_options[0]!r}; options of sbatch need --slurm")
    loaded = load_spec(spec, overrides or ())
    if slurm:
        from runner.cli.submitted_launches import launch_with_slurm

        show_sent_variables(loaded, open_terminal())
        conflicting = {"--detach": detach, "--local": local, "--address": address, "--rerun": rerun}
        launch_with_slurm(
            loaded,
            sbatch_options or (),
            smoke=smoke,
            conflicting=[name for name, is_given in conflicting.items() if is_given],
            as_json=as_json,
        )
        return
    address = address or os.environ.get("RAY_ADDRESS")
    if detach:
        from runner.cli.submitted_launches import launch_detached

        show_sent_variables(loaded, open_terminal())
        launch_detached(loaded, address, local=local, smoke=smoke, rerun=rerun, as_json=as_json)
        return
    terminal = open_terminal(live=not local)
    try:
        experiment = _resolve_experiment(
            loaded, terminal, overrides or (), smoke=smoke, rerun=rerun, elsewhere=bool(address) and not local
        )
        # From here to the end of the process, Ctrl-C requests a stop and never raises an exception.
        signals = StopSignals()
        with registered_launch(experiment.folder):
            result = _launch(experiment, terminal, signals, lambda: make_executor(address, local=local, smoke=smoke))
    except RequirementError as error:
        raise RequirementError(f"{error} (`runner doctor SPEC` shows what else a launch lacks here)") from error
    for trial in result.trials:
        if trial.error is not None:
            terminal.problem(f"{trial.trial.name}: {trial.error}" if result.sweep else str(trial.error))
            if debug and trial.trace:
                terminal.problem(trial.trace)
    if as_json:
        print_json(result.as_json())
    else:
        print_results(result)
        if smoke and result.exit_status == 0:
            print_text("the smoke run passed: the code of this spec runs; its metrics have no meaning")
    raise typer.Exit(result.exit_status)


def _resolve_experiment(
    loaded: LoadedSpec[ExperimentSpec],
    terminal: Terminal,
    overrides: Sequence[str],
    *,
    smoke: bool,
    rerun: str | None,
    elsewhere: bool,
) -> LaunchContext:
    from runner.cli.progress import StageReporter
    from runner.execute.launch import resolve_for_launch
    from runner.execute.launch_context import LaunchContext
    from runner.preflight.sent_variables import without_sweep
    from runner.resolved_plan import smoke_spec

    spec = smoke_spec(loaded.spec) if smoke else loaded.spec
    try:
        show_sent_variables(without_sweep(loaded, spec) if smoke else loaded, terminal)
        if not elsewhere:
            _announce_data_generation(spec, terminal)
        plan = resolve_for_launch(spec, StageReporter(terminal, "data"), on_cluster=elsewhere)
    except SpecError as error:
        raise loaded.with_locations(error) from error
    finally:
        terminal.close()
    storage = spec.compute.storage or Path("runs").resolve()
    return LaunchContext(loaded, plan, storage, overrides, from_scratch=smoke, rerun=rerun)


def _launch(
    experiment: LaunchContext, terminal: Terminal, signals: StopSignals, make_executor: Callable[[], Executor]
) -> LaunchResult:
    from runner.execute.launch import launch

    try:
        if experiment.plan.spec.sweep is None:
            return launch(experiment, make_executor, terminal, signals)
        # Only sweeps import Optuna and Plotly.
        from runner.cli.sweep_progress_and_results import SweepDisplay
        from runner.execute.launch_sweep import launch_sweep

        with SweepDisplay(terminal) as display:
            return launch_sweep(experiment, make_executor, display, signals, display)
    except SpecError as error:
        raise experiment.loaded.with_locations(error) from error
    finally:
        terminal.close()
