"""Runs trials in processes forked from a server that has imported their plugins."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from runner.errors import LostConnectionError, LostWorkerError, OutOfMemoryError, RequirementError, StepError
from runner.execute.fork_server import OUTPUT_FILE, ForkExit, ForkRequest, run_forked, start_server
from runner.redaction import worker_environment
from runner.resolved_plan import plan_json, stages_of_step
from runner.spec.experiment_spec import ComputeOptions, ExperimentSpec
from runner.stages.registry import find_plugin
from runner.trial.run_directory_and_events import RunDirectory, steps_of
from runner.trial.run_trial import Outcome


def plugin_modules(spec: ExperimentSpec) -> list[str]:
    """The modules of a plan's plugins, without the tracker's, which is used only in the driver."""
    sections = (section for section in spec.sections() if section.stage != "tracker")
    return [find_plugin(section.stage, section.type).entry.module for section in sections]


def needed_keys(spec: ExperimentSpec, steps: Collection[str]) -> tuple[str, ...]:
    """Return the variables with API keys that the plugins of some steps send to a server."""
    stages = {stage for step in steps for stage in stages_of_step(spec, step)}
    sections = [section for section in spec.sections() if section.stage in stages]
    return tuple(sorted({variable for section in sections for variable in section.options.key_variables}))


def server_environment(
    environment: Mapping[str, str], cores: int, *, with_cloud: bool, keys: Collection[str] = ()
) -> dict[str, str]:
    """The environment of a fork server and its processes.

    Args:
        environment: The environment of the process that starts the server.
        cores: Number of threads of each process.
        with_cloud: See `runner.redaction.worker_environment`.
        keys: See `runner.redaction.worker_environment`.
    """
    variables = {
        **worker_environment(environment, with_cloud=with_cloud, keys=keys),
        "OMP_NUM_THREADS": str(cores),
        # Threads that spin while they wait slow each other down fivefold if there are fewer cores than threads.
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        # A check for GPUs must not open them: a process that is forked afterwards could not use them.
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    }
    # The GPUs that the starting process sees are not necessarily those that a trial gets.
    variables.pop("CUDA_VISIBLE_DEVICES", None)
    return variables


def run_in_fork(server: str, request: ForkRequest) -> Outcome:
    """Run a request in a forked process; a process that ends without an outcome counts as failed.

    Raises:
        OSError: No server answers.
    """
    num_killed_before = processes_killed_for_memory()
    fork_exit = run_forked(server, request)
    memory_ran_out = processes_killed_for_memory() > num_killed_before
    return fork_exit.outcome or Outcome(
        "failed", failure_cause(fork_exit, request.folder, memory_ran_out=memory_ran_out)
    )


def processes_killed_for_memory() -> int:
    """How many processes the kernel has killed so far because memory ran out; 0 if the system does not count them."""
    file = Path("/proc/vmstat")
    counts = dict(line.split() for line in file.read_text(encoding="ascii").splitlines()) if file.exists() else {}
    return int(counts.get("oom_kill", 0))


def failure_cause(fork_exit: ForkExit, folder: str, *, memory_ran_out: bool) -> StepError:
    """The error for a process that ended without an outcome."""
    worker = f"the worker on {socket.gethostname()}"
    if fork_exit.code == -signal.SIGKILL and memory_ran_out:
        return OutOfMemoryError(f"the system killed {worker} because memory ran out")
    if fork_exit.code in {None, -signal.SIGKILL, -signal.SIGTERM}:
        return LostWorkerError(f"{worker} was killed")
    end = (
        f"was ended by {signal.Signals(-fork_exit.code).name}"
        if fork_exit.code < 0
        else f"exited with status {fork_exit.code}"
    )
    error_class = CRASHES.get(-fork_exit.code, StepError)
    return error_class(f"{worker} {end} without a result; its output is in {Path(folder) / OUTPUT_FILE}")


CRASHES: Mapping[int, type[StepError]] = {
    signal.SIGABRT: LostConnectionError,
    signal.SIGSEGV: LostWorkerError,
    signal.SIGBUS: LostWorkerError,
}
"""The kind of error by the signal of a crash. NCCL's watchdog aborts a worker that waits for another one in vain. A
faulty GPU, driver or machine can cause the others."""


class ForkedTrial:
    """A trial in its own process on this machine; see `RunningTrial`."""

    def __init__(self, server: subprocess.Popen[bytes], address: str, request: ForkRequest) -> None:
        """Start the trial."""
        self._server, self._address, self._request = server, address, request
        self._outcome: Outcome | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="forked")
        self._thread.start()

    def outcome(self) -> Outcome | None:
        """The trial's outcome; None while it runs."""
        return None if self._thread.is_alive() else self._outcome

    def kill(self) -> None:
        """Kill the trial at once, together with its server."""
        self._server.kill()
        self._thread.join()
        self._outcome = Outcome("interrupted")

    def _run(self) -> None:
        try:
            self._outcome = run_in_fork(self._address, self._request)
        except OSError as error:
            self._outcome = Outcome("failed", LostWorkerError(f"no worker could be started: {error}"))


class ForkedExecutor:
    """Runs trials on this machine one after another, as a Ray node would but without the time that Ray takes to start.

    See `Executor`.
    """

    def __init__(self) -> None:
        """Initialize the executor; the server is started with the first trial."""
        self._server: tuple[subprocess.Popen[bytes], str] | None = None
        self._server_key: tuple[Sequence[str], int, bool, tuple[str, ...]] | None = None
        self._running: ForkedTrial | None = None

    def check_placeable(self, compute: ComputeOptions) -> None:
        """See `Executor.check_placeable`.

        Raises:
            RequirementError: The spec asks for GPUs or for several workers.
        """
        if compute.workers > 1 or compute.gpus_per_worker:
            raise RequirementError("a trial with GPUs or several workers runs on Ray: omit --smoke")

    def start(self, spec: ExperimentSpec, folder: Path, compute: ComputeOptions) -> ForkedTrial | None:
        """Start a trial unless one is running; see `Executor.start`."""
        if self._running is not None and self._running.outcome() is None:
            return None
        cores = compute.cpus_per_worker or len(os.sched_getaffinity(0))
        steps = [step for step in steps_of(spec) if not RunDirectory(folder).is_finished(step)]
        with_cloud, keys = "://" in (compute.cache or ""), needed_keys(spec, steps)
        server, address = self._get_server(plugin_modules(spec), cores, with_cloud=with_cloud, keys=keys)
        # The spec asks for no GPUs, so that none is visible.
        request = ForkRequest(plan_json(spec), str(folder), steps, {"CUDA_VISIBLE_DEVICES": ""})
        self._running = ForkedTrial(server, address, request)
        return self._running

    def describe_wait(self, compute: ComputeOptions) -> str:
        """A trial waits for the one that is running; see `Executor.describe_wait`."""
        return "the running trial"

    def close(self) -> None:
        """Stop the server, which has no trial left."""
        if self._server is not None:
            server, _ = self._server
            assert server.stdin is not None
            server.stdin.close()
            server.wait()
            self._server = None

    def _get_server(
        self, modules: Sequence[str], cores: int, *, with_cloud: bool, keys: tuple[str, ...] = ()
    ) -> tuple[subprocess.Popen[bytes], str]:
        """The server for such processes; one that has loaded other plugins is stopped."""
        key = (modules, cores, with_cloud, keys)
        if self._server is None or self._server_key != key or self._server[0].poll() is not None:
            self.close()
            environment = server_environment(os.environ, cores, with_cloud=with_cloud, keys=keys)
            self._server = start_server(modules, environment)
            self._server_key = key
        return self._server
