"""Makes Ctrl-C heard also where Python or a library drops it, and SIGTERM like it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

ASKS_TO_STOP = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and what Slurm, a container and a machine that is shut down send."""
AGAIN_SECONDS = 0.5
"""After which an interrupt that nothing came of is raised again."""


@contextmanager
def insistent_interrupts() -> Iterator[None]:
    """Raise `KeyboardInterrupt` on Ctrl-C and on SIGTERM, and again as long as it is lost.

    In a callback of a weak reference, of which every import has one, Python only notes an exception; and compiled code
    may drop one. A launch spends its first seconds on imports of such code. Afterwards the command is over, and Ctrl-C
    is ignored: it could only add a traceback to the end of the process.
    """
    for number in (*ASKS_TO_STOP, signal.SIGALRM):
        signal.signal(number, _interrupt)
    hook, sys.unraisablehook = sys.unraisablehook, _note_but_interrupts
    try:
        yield
    finally:
        for number in ASKS_TO_STOP:
            signal.signal(number, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = hook


def _interrupt(signum: int, frame: FrameType | None) -> None:
    if _is_heard():
        return
    signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)
    raise KeyboardInterrupt


def _is_heard() -> bool:
    """Whether an interrupt is on its way up, while what it passes cleans up."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _note_but_interrupts(lost: UnraisableHookArgs) -> None:
    if not issubclass(lost.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
