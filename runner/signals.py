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


STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that ask to stop: Ctrl-C; SIGTERM from Slurm, a container runtime or a shutdown; SIGHUP from a terminal that
is closed, such as that of a lost SSH connection."""
REPEAT_SECONDS = 0.5
"""Seconds after which an interrupt is raised again if it was lost."""


def handled_signals() -> tuple[signal.Signals, ...]:
    """The signals that a command handles: `STOP_SIGNALS`, and SIGALRM, which repeats an interrupt that was lost.

    SIGHUP is left out if it is ignored, as under `nohup`.
    """
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return (*(number for number in STOP_SIGNALS if not (number == signal.SIGHUP and is_ignored)), signal.SIGALRM)


@contextmanager
def reliable_interrupts() -> Iterator[None]:
    """Raise `KeyboardInterrupt` on `STOP_SIGNALS`, and raise it again if it is lost.

    Python only prints an exception in a weak reference callback, which every import has, and compiled code can drop an
    exception. A launch spends its first seconds on such imports. After the command, Ctrl-C is ignored, because it could
    only add a traceback at the end of the process.
    """
    for number in handled_signals():
        signal.signal(number, _interrupt)
    hook, sys.unraisablehook = sys.unraisablehook, _ignore_lost_interrupts
    try:
        yield
    finally:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = hook


def _interrupt(signum: int, frame: FrameType | None) -> None:
    if _is_being_handled():
        return
    signal.setitimer(signal.ITIMER_REAL, REPEAT_SECONDS)
    raise KeyboardInterrupt


def _is_being_handled() -> bool:
    """Return whether a `KeyboardInterrupt` is already propagating, for example through cleanup code."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _ignore_lost_interrupts(unraisable: UnraisableHookArgs) -> None:
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)


class StopSignals:
    """Counts `STOP_SIGNALS` from the start of a launch until the process ends.

    No exception is raised, so a signal can never end the launch without a message. The exception is a trial that runs
    in this process and does not check the count; see `raising`.
    """

    def __init__(self) -> None:
        """Start counting. Outside the main thread nothing is counted, because Python handles signals only there."""
        self._count = 0
        self._raises = False
        if threading.current_thread() is threading.main_thread():
            for number in handled_signals():
                signal.signal(number, self._on_signal)

    @property
    def stop_requested(self) -> bool:
        """Whether the user asked to stop."""
        return self._count > 0

    @property
    def stop_now_requested(self) -> bool:
        """Whether the user asked to stop at once."""
        return self._count > 1

    @contextmanager
    def raise_second_interrupt(self) -> Iterator[None]:
        """Raise `KeyboardInterrupt` on the second Ctrl-C, while a trial may run in this process."""
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self._count += 1
        if self._count > 1 and self._raises:
            raise KeyboardInterrupt
