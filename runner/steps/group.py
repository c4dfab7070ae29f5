"""The workers of a group agree on what one of them found out; files in the run directory carry it."""

from __future__ import annotations

import os
import time

from runner.artifacts import RunDirectory
from runner.files import write_text
from runner.stages import StopRequestedError

POLL_SECONDS = 0.1


def tell_group(run: RunDirectory, step: str, *, make: bool) -> None:
    """Tell the other workers whether the step is to be run; the main one knows."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    for old in run.path.glob(f".{step}-in-group-*"):
        old.unlink(missing_ok=True)
    write_text(run.path / _file(step), "make" if make else "taken")


def told_to_make(run: RunDirectory, step: str) -> bool:
    """Wait for what the main worker tells; whether the step is to be run.

    Raises:
        StopRequestedError: The user asked to stop meanwhile.
    """
    file = run.path / _file(step)
    while not file.exists():
        if run.stop_request.exists():
            raise StopRequestedError
        time.sleep(POLL_SECONDS)
    return file.read_text(encoding="utf-8") == "make"


def _file(step: str) -> str:
    """A name that an earlier group of the same trial did not have: each meets at a port of its own."""
    return f".{step}-in-group-{os.environ.get('MASTER_ADDR', '')}-{os.environ.get('MASTER_PORT', '')}"
