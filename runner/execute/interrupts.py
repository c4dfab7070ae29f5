"""Ctrl-C or SIGTERM while trials run: the first asks them to save and stop, the second ends them at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
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
            # An alarm repeats an earlier Ctrl-C that was lost; see `insistent_interrupts` of the command line.
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
