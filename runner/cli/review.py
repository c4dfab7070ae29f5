"""The command that serves the review page."""

from __future__ import annotations

import json
import sys
from getpass import getuser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runner.cli.app import RUN, Debug, app

if TYPE_CHECKING:
    from runner.review.candidates import Review

PORT = 8321


@app.command(rich_help_panel=RUN)
def review(
    dataset: Annotated[
        Path, typer.Argument(metavar="DATASET", help="A data-set spec whose build waits for review, or its data set.")
    ],
    *,
    host: Annotated[str, typer.Option(help="Address to listen on. Whoever reaches another one may decide.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = PORT,
    reviewer: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who decides. Default: the name you are logged in with.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print how far the review is, and serve nothing.")] = False,
    debug: Debug = False,
) -> None:
    """Open the page on which summaries are accepted, edited or rejected, by key or click."""
    from runner.errors import UnmetError
    from runner.review.opening import open_review

    opened = open_review(dataset)
    _tell_torn(opened)
    if as_json:
        print(json.dumps(opened.as_json(), ensure_ascii=False))
        return
    try:
        from runner.review.serve import is_loopback, refuse_taken, serve_review
    except ModuleNotFoundError as error:
        raise UnmetError(f"the review page needs NiceGUI ({error}): pip install 'mmre-runner[review]'") from error
    who = reviewer or _logged_in()
    refuse_taken(host, port)
    if not is_loopback(host):
        print(
            f"warning: whoever reaches {host}:{port} sees these pictures and may decide, without a password",
            file=sys.stderr,
        )
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    print(f"serving {address} (Ctrl-C ends it; every decision is kept)", file=sys.stderr)
    then = f"`runner build {dataset if dataset.is_file() else 'DATASET_SPEC'}` publishes the data set."
    serve_review(opened, host=host, port=port, who=who, then=then)


def _logged_in() -> str:
    from runner.errors import UnmetError

    try:
        return getuser()
    except (KeyError, OSError) as error:  # As in a container whose user has no name.
        raise UnmetError("nobody is logged in here by name; say who decides with --reviewer NAME") from error


def _tell_torn(opened: Review) -> None:
    from runner.review.log import torn_message

    log = opened.log
    torn = [*log.torn, *([log.num_lines + 1] if log.ends_torn else [])]
    if torn:
        print(f"warning: {torn_message(log.path, torn)}", file=sys.stderr)
