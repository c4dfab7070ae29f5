"""The command-line application: its root command, shared options, environment settings and the terminal."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from runner.cli.printing import print_text

if TYPE_CHECKING:
    from runner.cli.progress import Terminal
    from runner.spec.load import LoadedSpec

SETUP, RUN, RESULTS, DATASETS, INSPECT = "Set up", "Run", "Results", "Data sets", "Inspect"

COMMANDS = {
    SETUP: ("init", "validate", "plan", "doctor"),
    RUN: ("launch", "status", "logs", "stop", "sync"),
    RESULTS: ("evaluate", "compare", "power"),
    DATASETS: ("build", "stats", "review", "export", "import"),
    INSPECT: ("preview", "plugins", "schema", "cache", "ui"),
}
"""The help lists panels and commands in this order, whatever the order in which modules are imported."""


class OrderedGroup(TyperGroup):
    """Lists the commands in the order of `COMMANDS`; commands that are missing there come last."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands."""
        order = [name for names in COMMANDS.values() for name in names]
        return sorted(self.commands, key=lambda name: order.index(name) if name in order else len(order))


app = typer.Typer(
    name="runner",
    cls=OrderedGroup,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

SpecFile = Annotated[
    Path, typer.Argument(metavar="SPEC", help="The spec of an experiment (YAML), or the plan.json of a run.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Replace a value of the spec, for this command only. You can repeat this option.",
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON document; standard output contains nothing else.")
]
Debug = Annotated[bool, typer.Option("--debug", help="If an error occurs, print its traceback.")]


def _print_version(requested: bool) -> None:
    if requested:
        print_text(f"mmre-runner {metadata.version('mmre-runner')}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Train, evaluate and track models for multimodal information extraction.

    A spec (a YAML file) describes an experiment.

    Usual order of commands: init, validate, plan, preview, launch, compare.
    """
    if context.invoked_subcommand is None:
        context.command.get_help(context)  # Typer prints the help and returns an empty text.


def warn_of_unusable_plugins() -> None:
    """Print on standard error which installed plugins cannot be used, and why."""
    from runner.stages.registry import plugin_problems

    for problem in plugin_problems():
        print_text(f"warning: {problem}", file=sys.stderr)


def set_environment() -> None:
    """Set the environment variables that libraries read at import."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def open_terminal(*, live: bool = True) -> Terminal:
    """Open standard error for progress and messages.

    Args:
        live: Show progress bars if standard error is a terminal.
    """
    from runner.cli.progress import Terminal

    return Terminal(sys.stderr, live=live)


def show_sent_variables(loaded: LoadedSpec[Any], terminal: Terminal) -> None:
    """Say which environment variables a spec sends to which address, before anything is sent; warn about mistakes."""
    from runner.preflight.sent_variables import report_sent_variables

    report_sent_variables(loaded, terminal.say, terminal.warn)
