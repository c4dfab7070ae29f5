"""A rich console that shows texts of others as they are, and a stream that outlasts its reader."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from runner.cli.printing import printable

READER_IS_GONE = (errno.EPIPE, errno.EIO)
"""What writing to a pipe, or to a terminal, raises when its reader has ended."""


class OutlastingStream:
    """A stream on which a launch prints; what cannot be written is dropped.

    A launch of hours must neither end nor become deaf to Ctrl-C because `head` has read enough, a terminal is gone, or
    the disk of a log is full. rich ends the thread that prints to a closed pipe (`Console.on_broken_pipe`).
    """

    def __init__(self, stream: IO[str]) -> None:
        """Write to a stream."""
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        with self._dropping():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what the stream has buffered, or drop it."""
        with self._dropping():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        """Everything else is the stream's."""
        return getattr(self._stream, name)

    @contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in READER_IS_GONE:
                with suppress(OSError, ValueError):  # else Python fails to write the rest when the process ends
                    nowhere = os.open(os.devnull, os.O_WRONLY)
                    os.dup2(nowhere, self._stream.fileno())
                    os.close(nowhere)


class PlainConsole(Console):
    """A console that shows square brackets, `:names:` and control characters of a text instead of obeying them.

    Styles are given by `style=` and `Text`.
    """

    def __init__(self, **options: Any) -> None:
        """Take the options of `rich.console.Console`."""
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Any:
        """Convert a string to rich text."""
        return super().render_str(printable(text), **{**options, "markup": False, "emoji": False})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render something to segments; only rich's own segments control the terminal."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else printable(segment.text)
            yield segment if text == segment.text else Segment(text, segment.style)
