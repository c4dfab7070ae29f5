"""The command-line application: shared options, environment settings and the terminal."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from runner.cli.progress import Terminal


app = typer.Typer(
    name="runner",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Declarative experiment specs for multimodal information extraction, trained, evaluated and tracked. "
    "The usual way: init, validate, plan, preview, launch, compare.",
)

SpecFile = Annotated[Path, typer.Argument(metavar="SPEC", help="A spec in YAML, or a run's plan.json.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change a value of the spec; may be repeated."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]

BEGIN, RUN, MEASURE, DATA, LOOK = "Begin", "Run", "Measure", "Data sets", "Look"


def set_environment() -> None:
    """Set what libraries read when they are imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def open_terminal(*, live: bool = True) -> Terminal:
    """Open standard error for progress and messages; bars only where `live` is not refused."""
    from runner.cli.progress import Terminal

    return Terminal(sys.stderr, live=live)
