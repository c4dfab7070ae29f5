"""The command line: parses, imports what the command needs (the one place that may), calls it and prints."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from runner.errors import RunnerError

if TYPE_CHECKING:
    from runner.execute.launch import TrialResult
    from runner.spec.load import LoadedSpec
    from runner.spec.models import ExperimentSpec
    from runner.terminal import Terminal

app = typer.Typer(
    name="runner",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Declarative experiment specs for multimodal information extraction, trained, evaluated and tracked. "
    "The usual way: init, validate, plan, launch, compare in `ui`.",
)

SpecFile = Annotated[Path, typer.Argument(metavar="SPEC", help="A spec in YAML, or a run's plan.json.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change a value of the spec; may be repeated."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]

BEGIN, RUN, LOOK = "Begin", "Run", "Look"


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
    """Show what would run: steps, tokens, parameters a group, and where."""
    from runner.errors import SpecError
    from runner.execute.estimate import describe_plan
    from runner.spec.load import load_spec
    from runner.terminal import StageReporter, plan_tables, print_tables

    _settle_environment()
    loaded = load_spec(spec, overrides or ())
    terminal = _terminal()
    try:
        told = describe_plan(loaded.spec, StageReporter(terminal, "data"))
    except SpecError as error:
        raise loaded.located(error) from error
    finally:
        terminal.close()
    if as_json:
        print(json.dumps(told, ensure_ascii=False))
        return
    print_tables(plan_tables(told))
    for line in told["unmet"]:
        print(f"unmet: {line}")


@app.command(rich_help_panel=RUN)
def launch(
    spec: SpecFile,
    overrides: Overrides = None,
    smoke: Annotated[
        bool,
        typer.Option("--smoke", help="The same code path with a tiny twin of the model and a handful of samples."),
    ] = False,
    local: Annotated[bool, typer.Option("--local", help="In this process, without Ray, for debuggers.")] = False,
    address: Annotated[str | None, typer.Option(help="A Ray cluster to run on; none: this machine.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train, generate and score every trial of a spec; what is finished is not run again."""
    from runner.execute.launch import as_json_document, worst
    from runner.spec.load import load_spec
    from runner.terminal import print_results

    _settle_environment()
    loaded = load_spec(spec, overrides or ())
    terminal = _terminal(live=not local)
    results = _launch(loaded, terminal, overrides or (), smoke=smoke, local=local, address=address)
    for result in results:
        if result.error is not None:
            terminal.problem(str(result.error))
            if debug and result.trace:
                terminal.problem(result.trace)
    if as_json:
        print(json.dumps(as_json_document(results), ensure_ascii=False))
    else:
        print_results(results)
        if smoke and worst(results) == 0:
            print("the smoke run passed: this spec's code path works; its figures mean nothing")
    raise typer.Exit(worst(results))


def _launch(
    loaded: LoadedSpec[ExperimentSpec],
    terminal: Terminal,
    overrides: Sequence[str],
    *,
    smoke: bool,
    local: bool,
    address: str | None,
) -> list[TrialResult]:
    from runner.errors import SpecError
    from runner.execute.launch import Launch, resolve_here
    from runner.plan import smoke as smoke_of
    from runner.terminal import StageReporter

    spec = smoke_of(loaded.spec) if smoke else loaded.spec
    address = address or os.environ.get("RAY_ADDRESS")
    try:
        made = resolve_here(spec, StageReporter(terminal, "data"), elsewhere=bool(address) and not local)
        storage = spec.compute.storage or Path("runs").resolve()
        launch = Launch(loaded, made, storage, overrides, terminal, afresh=smoke)
        return launch.run(lambda: _executor(local, address))
    except SpecError as error:
        raise loaded.located(error) from error
    finally:
        terminal.close()


def _executor(local: bool, address: str | None) -> Any:
    if local:
        from runner.execute.local import LocalExecutor

        return LocalExecutor()
    from runner.execute.ray.executor import RayExecutor

    return RayExecutor(address)


@app.command(rich_help_panel=RUN)
def build(spec: SpecFile, overrides: Overrides = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """Make a data set from a published corpus: import, crop, split, publish."""
    from runner.dataset.build import build_dataset
    from runner.errors import SpecError
    from runner.spec.dataset_spec import DatasetSpec
    from runner.spec.load import load
    from runner.terminal import StageReporter

    loaded = load(spec, DatasetSpec, overrides or ())
    terminal = _terminal()
    try:
        built = build_dataset(loaded.spec, StageReporter(terminal, "crop"))
    except SpecError as error:
        raise loaded.located(error) from error
    finally:
        terminal.close()
    for reason, number in built.left_out.items():
        terminal.say(f"left out: {number:,} × {reason} (listed in {built.path / 'left_out.jsonl'})")
    if as_json:
        print(json.dumps(built.as_json(), ensure_ascii=False))
        return
    print(f"data set: {built.path}")
    print(f"samples: {', '.join(f'{split} {number:,}' for split, number in built.num_samples.items())}")
    print(f"fingerprint: {built.fingerprint}")


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

    _settle_environment()
    command = serve_command(spec, host, port)
    print(f"serving http://{host}:{port} (Ctrl-C ends it)", file=sys.stderr)
    os.execv(command[0], list(command))


def _settle_environment() -> None:
    """Set what libraries read when they are imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _terminal(*, live: bool = True) -> Terminal:
    from runner.terminal import Terminal

    return Terminal(sys.stderr, live=live)


def main() -> NoReturn:
    """Run a command; the user sees the text of errors, and a traceback only with `--debug`."""
    debug = "--debug" in sys.argv
    try:
        app(standalone_mode=True)
    except RunnerError as error:
        _tell(str(error), debug)
        sys.exit(error.exit_status)
    except SystemExit as end:
        # Typer turns Ctrl-C into an exit without a word.
        if isinstance(getattr(end.__context__, "__cause__", None), KeyboardInterrupt):
            _tell("interrupted; the same command goes on from where it stopped", debug)
        raise
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        _tell(f"an error in the program, not in your spec: {told} (--debug shows where)", debug)
        sys.exit(1)
    sys.exit(0)


def _tell(message: str, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    print(message, file=sys.stderr)


if __name__ == "__main__":
    main()
