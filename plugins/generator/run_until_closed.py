"""Runs a command until the command ends or standard input is closed, then ends all processes of the command.

Standard input is a pipe from the process that needs the command. The system closes the pipe when this process ends,
also if it is killed. So no server is left behind, which would keep the memory of its GPUs. vLLM needs this: its
processes outlive a server that is killed (https://github.com/vllm-project/vllm/issues/55510).

    python run_until_closed.py SECONDS COMMAND...

SECONDS is the time that the command has to end after a request (SIGTERM), before all its processes are killed. This
file uses the standard library alone, so that the interpreter starts fast.
"""

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress


def main() -> int:
    """Run the command, and return its exit status; minus the number of the signal that ended the command."""
    seconds, *command = sys.argv[1:]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    select.select([sys.stdin.fileno(), os.pidfd_open(process.pid)], [], [])
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(float(seconds))
    # The group of a process that has ended still holds the processes that it left.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


if __name__ == "__main__":
    sys.exit(main())
