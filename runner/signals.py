"""Signal handling: a reliable Ctrl-C for the command line, and the two-stage stop of a launch."""

from __future__ import annotations

import signal
import sys
import threading
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
def reliable_interrupts() -> Iterator[None]:
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


class StopSignals:
    """Counts Ctrl-C, and SIGTERM as one, from the start of a launch until the process ends.

    SIGTERM is how Slurm, a container and a machine that is shut down say that there is some time left.

    Nothing is raised, so that no moment is left in which one could end the launch without a word; but where a trial
    runs in this very process, which looks at no count.
    """

    def __init__(self) -> None:
        """Count from now on, where this is the main thread; elsewhere there is no Ctrl-C to hear."""
        self._count = 0
        self._raises = False
        if threading.current_thread() is threading.main_thread():
            # An alarm repeats an earlier Ctrl-C that was lost; see `reliable_interrupts` of the command line.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
                signal.signal(number, self._count_one)

    @property
    def asked(self) -> bool:
        """Whether the user asked to stop."""
        return self._count > 0

    @property
    def hurried(self) -> bool:
        """Whether the user asked to stop at once."""
        return self._count > 1

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Let the second Ctrl-C raise `KeyboardInterrupt` while something may run in this process."""
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    def _count_one(self, signum: int, frame: FrameType | None) -> None:
        self._count += 1
        if self._count > 1 and self._raises:
            raise KeyboardInterrupt
