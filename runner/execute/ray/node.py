"""What this project does on a node of the cluster: one actor there, and one task for each worker of a trial."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import LostWorkerError, OutOfMemoryError, StepError, UnmetError
from runner.execute.forkserver import OUTPUT, Exit, Request, run_forked, start_server
from runner.execute.software import software
from runner.forecast.resources import local_gpus, too_small
from runner.secrets import for_workers
from runner.spec.models import ComputeOptions
from runner.steps.outcome import Outcome

import ray  # isort: skip - after runner's modules, which need not wait for it
from ray.exceptions import RayError

PORTS_KEPT = 256
"""How many ports a node remembers to have given away; more trials do not begin at once."""


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class NodeActor:
    """Keeps the fork servers of a node; restarted where it dies, with new ones."""

    def __init__(self) -> None:
        """Begin with no server."""
        self._servers: dict[tuple[int, bool], tuple[subprocess.Popen[bytes], str]] = {}
        self._ports: deque[socket.socket] = deque(maxlen=PORTS_KEPT)

    def fork_server(self, cores: int, modules: Sequence[str], *, with_cloud: bool) -> str:
        """The socket of the server for processes of so many threads, started where it does not run.

        OpenMP reads the number of threads when it is loaded, so that each number needs a server of its own; and so do
        those that keep the keys to a store of objects.
        """
        kind = (cores, with_cloud)
        server, address = self._servers.get(kind, (None, ""))
        if server is None or server.poll() is not None:
            environment = _server_environment(cores, with_cloud=with_cloud)
            server, address = self._servers[kind] = start_server(modules, environment)
        return address

    def meeting_point(self) -> tuple[str, int]:
        """This node's address and a port where the workers of a trial can meet.

        The port stays bound here without listening, so that nobody else is given it; the worker that listens may bind
        it too, as both reuse addresses.
        """
        held = socket.socket()
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("", 0))
        self._ports.append(held)
        return str(ray.util.get_node_ip_address()), held.getsockname()[1]  # type: ignore[no-untyped-call]

    def software(self) -> dict[str, str]:
        """The software of this node."""
        return software()


def _server_environment(cores: int, *, with_cloud: bool) -> dict[str, str]:
    told = {
        **for_workers(os.environ, with_cloud=with_cloud),
        "OMP_NUM_THREADS": str(cores),
        # Threads that spin while they wait slow each other fivefold where cores are fewer than threads.
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        # Asking whether there are GPUs must not open them: a process forked afterwards could not use them.
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    }
    # Which GPUs this actor sees says nothing of those that a trial gets.
    told.pop("CUDA_VISIBLE_DEVICES", None)
    return told


@dataclass(frozen=True)
class Work:
    """What one worker of a trial does, as plain data.

    Attributes:
        plan: The trial's plan as JSON.
        folder: Its run directory.
        steps: The steps to run.
        modules: What the fork server loads, if it is to be started.
        cores: Threads to compute with.
        compute: What each worker was promised, as JSON.
        group: `RANK`, `WORLD_SIZE` and where the workers meet; empty for one alone.
    """

    plan: str
    folder: str
    steps: Sequence[str]
    modules: Sequence[str]
    cores: int
    compute: Mapping[str, Any]
    group: Mapping[str, str]


@ray.remote(max_retries=0, max_calls=0)
def work_on(node: Any, work: Work) -> dict[str, Any]:
    """Hold a worker's place while a process forked for it runs; the process ends with this task.

    Returns:
        The outcome as plain data.
    """
    return _work(node, work).as_json()


def _work(node: Any, work: Work) -> Outcome:
    compute = ComputeOptions.model_validate(work.compute)
    lacking = too_small(compute, local_gpus(), ray.get_gpu_ids())
    if lacking:
        return Outcome("failed", UnmetError(f"{lacking} on {socket.gethostname()}"))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    request = Request(work.plan, work.folder, work.steps, {**work.group, "CUDA_VISIBLE_DEVICES": visible})
    killed_before = processes_killed_for_memory()
    try:
        shared = "://" in (compute.cache or "")
        server = ray.get(node.fork_server.remote(work.cores, work.modules, with_cloud=shared))
        ended = run_forked(server, request)
    except (OSError, RayError) as error:
        return Outcome("failed", LostWorkerError(f"no worker could be started on {socket.gethostname()}: {error}"))
    memory_ran_out = processes_killed_for_memory() > killed_before
    return ended.outcome or Outcome("failed", cause_of(ended, work.folder, memory_ran_out=memory_ran_out))


def processes_killed_for_memory() -> int:
    """How many processes this machine's system has ended so far because memory ran out; 0 where it does not say."""
    file = Path("/proc/vmstat")
    counts = dict(line.split() for line in file.read_text(encoding="ascii").splitlines()) if file.exists() else {}
    return int(counts.get("oom_kill", 0))


def cause_of(ended: Exit, folder: str, *, memory_ran_out: bool) -> StepError:
    """Say why a process ended that told no outcome."""
    where = f"on {socket.gethostname()}"
    if ended.code == -signal.SIGKILL and memory_ran_out:
        return OutOfMemoryError(f"the system ended the worker {where}, as memory ran out")
    if ended.code in {None, -signal.SIGKILL, -signal.SIGTERM}:
        return LostWorkerError(f"the worker {where} was killed")
    how = f"by {signal.Signals(-ended.code).name}" if ended.code < 0 else f"with status {ended.code}"
    return StepError(f"the worker {where} ended {how} and told nothing; its output is in {Path(folder) / OUTPUT}")
