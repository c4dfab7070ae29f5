"""Calls a function in a forked process with limits of time and memory, for code that comes with a checkpoint."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

CPU_SECONDS = 10
"""Computing time of a call. Rendering a chat template takes milliseconds."""
WALL_SECONDS = 120.0
"""Time after which a call counts as hanging, on a machine however busy."""
MEMORY_BYTES = 1_000_000_000
"""Memory that a call may allocate beyond what this process has."""
OUTPUT_BYTES = 10_000_000
"""Maximum size of the text that a call returns."""


class LimitError(Exception):
    """A call failed, or exceeded a limit."""


class RaisedError(LimitError):
    """The function raised an exception, within its limits."""


def call_with_limits(function: Callable[[], str]) -> str:
    """Call a function in a fork of this process, and return the text that it returns.

    The function must need no locks that other threads of this process may hold, and no GPU.

    Raises:
        RaisedError: The function raised an exception; the message contains its name and text.
        LimitError: The function exceeded a limit; the message says which.
    """
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        _call_and_exit(function, writer)
    os.close(writer)
    try:
        output = _read(reader)
    finally:
        os.close(reader)
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    try:
        kind, text = json.loads(output)
    except ValueError as error:  # the kernel ended the process in the middle
        raise LimitError(f"it takes more than {CPU_SECONDS} seconds, or more memory than it may use") from error
    if kind == "error":
        raise RaisedError(text)
    return str(text)


def _call_and_exit(function: Callable[[], str], writer: int) -> NoReturn:
    """Call the function, write `["text", result]` or `["error", message]` to a pipe, and end this process."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        for limit, value in (
            (resource.RLIMIT_CPU, CPU_SECONDS),
            (resource.RLIMIT_AS, used + MEMORY_BYTES),
            (resource.RLIMIT_CORE, 0),
        ):
            resource.setrlimit(limit, (value, value))
        try:
            answer = ["text", function()]
        except MemoryError:
            answer = ["error", "it needs more memory than it may use"]
        except Exception as error:
            answer = ["error", f"{type(error).__name__}: {error}"[:1000]]
        content = json.dumps(answer).encode()
        while content:
            content = content[os.write(writer, content) :]
    finally:
        os._exit(0)


def _read(reader: int) -> bytes:
    """Read a pipe to its end.

    Raises:
        LimitError: The output is too large, or does not come.
    """
    output, deadline = bytearray(), time.monotonic() + WALL_SECONDS
    while select.select([reader], [], [], max(0.0, deadline - time.monotonic()))[0]:
        part = os.read(reader, 1 << 16)
        if not part:
            return bytes(output)
        output += part
        if len(output) > OUTPUT_BYTES:
            raise LimitError(f"its result has more than {OUTPUT_BYTES:,} bytes")
    raise LimitError(f"it takes more than {WALL_SECONDS:.0f} seconds")
