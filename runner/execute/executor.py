"""Executors: the interface, in this process, and in processes forked from a server that has imported the plugins."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from runner.errors import LostWorkerError, OutOfMemoryError, RequirementError, StepError
from runner.execute.fork_server import OUTPUT, ForkExit, ForkRequest, run_forked, start_server
from runner.plan import read_plan
from runner.secrets import for_workers
from runner.spec.experiment_spec import ComputeOptions
from runner.stages.registry import find
from runner.trial.run_directory import RunDirectory, steps_of
from runner.trial.run_trial import Outcome, outcome_of_trial


def plugin_modules(plan: str) -> list[str]:
    """The modules of a plan's plugins, less the tracker's, which stays with the driver."""
    sections = (each for each in read_plan(plan).sections() if each.stage != "tracker")
    return [find(each.stage, each.type).entry.module for each in sections]


def server_environment(environment: Mapping[str, str], cores: int, *, with_cloud: bool) -> dict[str, str]:
    """The environment of a fork server and its processes.

    Args:
        environment: That of the process which starts it.
        cores: Threads of each process.
        with_cloud: See `runner.secrets.for_workers`.
    """
    told = {
        **for_workers(environment, with_cloud=with_cloud),
        "OMP_NUM_THREADS": str(cores),
        # Threads that spin while they wait slow each other fivefold where cores are fewer than threads.
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        # Asking whether there are GPUs must not open them: a process forked afterwards could not use them.
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    }
    # Which GPUs the one that starts it sees says nothing of those that a trial gets.
    told.pop("CUDA_VISIBLE_DEVICES", None)
    return told


def forked_outcome(server: str, request: ForkRequest) -> Outcome:
    """Run a request in a forked process; a process that ends without a word is an outcome that failed.

    Raises:
        OSError: No server answers.
    """
    killed_before = processes_killed_for_memory()
    ended = run_forked(server, request)
    memory_ran_out = processes_killed_for_memory() > killed_before
    return ended.outcome or Outcome("failed", failure_cause(ended, request.folder, memory_ran_out=memory_ran_out))


def processes_killed_for_memory() -> int:
    """How many processes this machine's system has ended so far because memory ran out; 0 where it does not say."""
    file = Path("/proc/vmstat")
    counts = dict(line.split() for line in file.read_text(encoding="ascii").splitlines()) if file.exists() else {}
    return int(counts.get("oom_kill", 0))


def failure_cause(ended: ForkExit, folder: str, *, memory_ran_out: bool) -> StepError:
    """Say why a process ended that told no outcome."""
    where = f"on {socket.gethostname()}"
    if ended.code == -signal.SIGKILL and memory_ran_out:
        return OutOfMemoryError(f"the system ended the worker {where}, as memory ran out")
    if ended.code in {None, -signal.SIGKILL, -signal.SIGTERM}:
        return LostWorkerError(f"the worker {where} was killed")
    how = f"by {signal.Signals(-ended.code).name}" if ended.code < 0 else f"with status {ended.code}"
    return StepError(f"the worker {where} ended {how} and told nothing; its output is in {Path(folder) / OUTPUT}")


class ForkedTrial:
    """A trial in a process of its own on this machine; see `RunningTrial`."""

    def __init__(self, server: subprocess.Popen[bytes], address: str, request: ForkRequest) -> None:
        """Begin it."""
        self._server, self._address, self._request = server, address, request
        self._outcome: Outcome | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="forked")
        self._thread.start()

    def outcome(self) -> Outcome | None:
        """How it ended; None while it runs."""
        return None if self._thread.is_alive() else self._outcome

    def end(self) -> None:
        """End it at once, and the server with it."""
        self._server.kill()
        self._thread.join()
        self._outcome = Outcome("interrupted")

    def _run(self) -> None:
        try:
            self._outcome = forked_outcome(self._address, self._request)
        except OSError as error:
            self._outcome = Outcome("failed", LostWorkerError(f"no worker could be started: {error}"))


class ForkedExecutor:
    """Runs trials on this machine one after the other, as a node of Ray would, and without what Ray costs to start."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self._server: tuple[subprocess.Popen[bytes], str] | None = None
        self._kind: tuple[Sequence[str], int, bool] | None = None
        self._running: ForkedTrial | None = None

    def refuse_unplaceable(self, compute: ComputeOptions) -> None:
        """See `Executor.refuse_unplaceable`.

        Raises:
            UnmetError: The spec asks for more than one process without GPUs.
        """
        if compute.workers > 1 or compute.gpus_per_worker:
            raise RequirementError("a trial with GPUs or several workers runs on Ray: leave --smoke out")

    def start(self, plan: str, folder: Path, compute: ComputeOptions) -> ForkedTrial | None:
        """Begin a trial, unless one runs; see `Executor.start`."""
        if self._running is not None and self._running.outcome() is None:
            return None
        cores = compute.cpus_per_worker or len(os.sched_getaffinity(0))
        server, address = self._serving(plugin_modules(plan), cores, with_cloud="://" in (compute.cache or ""))
        steps = [step for step in steps_of(read_plan(plan)) if not RunDirectory(folder).finished(step)]
        self._running = ForkedTrial(server, address, ForkRequest(plan, str(folder), steps, {}))
        return self._running

    def waits_for(self, compute: ComputeOptions) -> str:
        """There is one place."""
        return "the trial that runs"

    def close(self) -> None:
        """End the server, which has no trial left."""
        if self._server is not None:
            server, _ = self._server
            assert server.stdin is not None
            server.stdin.close()
            server.wait()
            self._server = None

    def _serving(self, modules: Sequence[str], cores: int, *, with_cloud: bool) -> tuple[subprocess.Popen[bytes], str]:
        """The server of such processes; one that has loaded other plugins is ended."""
        kind = (modules, cores, with_cloud)
        if self._server is None or self._kind != kind or self._server[0].poll() is not None:
            self.close()
            self._server = start_server(modules, server_environment(os.environ, cores, with_cloud=with_cloud))
            self._kind = kind
        return self._server


class LocalTrial:
    """A trial that runs in this process, to its end, when it is asked how it ended; see `RunningTrial`."""

    def __init__(self, plan: str, folder: Path) -> None:
        """Take the plan and the run directory."""
        self._plan, self._folder = plan, folder
        self._outcome: Outcome | None = None

    def outcome(self) -> Outcome:
        """How it ended.

        Raises:
            KeyboardInterrupt: The user ends it at once.
        """
        if self._outcome is None:
            self._outcome = Outcome("interrupted")
            self._outcome = outcome_of_trial(self._plan, self._folder)
        return self._outcome

    @property
    def over(self) -> bool:
        """Whether it has run."""
        return self._outcome is not None

    def end(self) -> None:
        """It runs no longer, since this is called."""


class LocalExecutor:
    """Runs each trial here, one after the other."""

    def __init__(self) -> None:
        """Nothing runs yet."""
        self._running: LocalTrial | None = None

    def refuse_unplaceable(self, compute: ComputeOptions) -> None:
        """See `Executor.refuse_unplaceable`.

        Raises:
            UnmetError: The spec asks for several workers, which one process cannot be.
        """
        if compute.workers > 1:
            raise RequirementError(
                f"compute.workers is {compute.workers}, and --local runs in one process: "
                "leave --local out, or add --set compute.workers=1"
            )

    def start(self, plan: str, folder: Path, compute: ComputeOptions) -> LocalTrial | None:
        """Take up a trial, if there is none to be run; see `Executor.start`."""
        if self._running is not None and not self._running.over:
            return None
        self._running = LocalTrial(plan, folder)
        return self._running

    def waits_for(self, compute: ComputeOptions) -> str:
        """There is one process."""
        return "the trial that runs in this process"

    def close(self) -> None:
        """Nothing was started."""


class RunningTrial(Protocol):
    """A trial that was started."""

    def outcome(self) -> Outcome | None:
        """How it ended; None while it runs. Never raises: a worker that died is an outcome that failed."""

    def end(self) -> None:
        """End it at once; what it saved stays."""


class Executor(Protocol):
    """Runs trials side by side; a request to stop reaches a trial by its run directory's stop file."""

    def refuse_unplaceable(self, compute: ComputeOptions) -> None:
        """Refuse what can never be placed.

        Raises:
            UnmetError: With what there is and what would fit.
        """

    def start(self, plan: str, folder: Path, compute: ComputeOptions) -> RunningTrial | None:
        """Begin the unfinished steps of a trial.

        Args:
            plan: The trial's plan as JSON.
            folder: Its run directory, which has been begun.
            compute: What the trial's workers need.

        Returns:
            The trial, or None where there is no room for it now.
        """

    def waits_for(self, compute: ComputeOptions) -> str:
        """What a trial that found no room waits for: "4 GPUs on one node; at most 2 are free on one"."""

    def close(self) -> None:
        """Let go of what was started."""
