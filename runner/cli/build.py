"""Commands that make data sets: build."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from runner.cli.app import RUN, AsJson, Debug, Overrides, SpecFile, app, open_terminal

if TYPE_CHECKING:
    from runner.dataset.build import Built


@app.command(rich_help_panel=RUN)
def build(
    spec: SpecFile,
    *,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Import and crop, say what annotating would take, and stop.")
    ] = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="A few tweets through all stages, with nobody asked, beside the data set.")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Make a data set from a corpus: import, crop, annotate, review, split, publish; what is done is not done again."""
    from runner.dataset.build import build_dataset, smoke_of
    from runner.errors import SpecError
    from runner.spec.dataset_spec import DatasetSpec
    from runner.spec.load import load

    loaded = load(spec, DatasetSpec, overrides or ())
    terminal = open_terminal()
    try:
        built = build_dataset(smoke_of(loaded.spec) if smoke else loaded.spec, terminal, dry_run=dry_run)
    except SpecError as error:
        raise loaded.located(error) from error
    finally:
        terminal.close()
    for reason, number in built.left_out.items():
        terminal.say(f"left out: {number:,} × {reason} (listed in {built.path / 'left_out.jsonl'})")
    if as_json:
        print(json.dumps(built.as_json(), ensure_ascii=False))
        return
    for line in _lines(built):
        print(line)


def _lines(built: Built) -> list[str]:
    """Say what came of it."""
    if built.fingerprint is not None:
        return [
            f"data set: {built.path}",
            f"samples: {', '.join(f'{split} {number:,}' for split, number in built.num_samples.items())}",
            f"fingerprint: {built.fingerprint}",
        ]
    if built.review is not None and built.review.undecided:
        number = built.review.undecided
        return [
            f"review waits: nobody has decided about {number:,} sample{'s' if number > 1 else ''}",
            f"next: runner review {built.path}, then build again; or build with --set publish=everything",
        ]
    return ["dry run: nothing was asked, nothing is published"]
