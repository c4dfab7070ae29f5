"""What the project runs on a node of the cluster: one actor per node, one task per worker, and version checks."""

from __future__ import annotations

import os
import socket
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any

from runner.errors import LostWorkerError, RequirementError
from runner.execute.executor import forked_outcome, server_environment
from runner.execute.fork_server import ForkRequest, start_server
from runner.preflight.resources import gpu_too_small, local_gpus
from runner.provenance import code_hash, packages
from runner.spec.experiment_spec import ComputeOptions
from runner.stages.registry import STAGES, installed
from runner.trial.run_trial import Outcome

import ray  # isort: skip - after runner's modules, which need not wait for it
from ray.exceptions import RayError

Software = Mapping[str, str]
"""Version or hash by the name of a package, a distribution, or the code of one."""


def software() -> dict[str, str]:
    """The software of this machine.

    Of the main packages what stands before a `+` counts: behind it is the device that a build of torch is for, which
    a laptop and a rack need not share.

    Raises:
        PluginError: Two distributions offer the same plugin.
    """
    plugins = [plugin for stage in STAGES for plugin in installed(stage).values()]
    distributions = dict(plugin.distribution.rsplit(" ", 1) for plugin in plugins if " " in plugin.distribution)
    code = {"runner", *(_top(plugin.entry) for plugin in plugins)}
    return {
        **{name: version.split("+")[0] for name, version in packages().items()},
        **distributions,
        **{f"the code of {name}": code_hash(name) for name in sorted(code)},
    }


def differences(ours: Software, theirs: Software) -> list[str]:
    """Name what two machines do not have alike, the first one's version before the second one's."""
    names = [*ours, *(name for name in theirs if name not in ours)]
    return [
        f"{name} {ours.get(name, 'missing')} here and {theirs.get(name, 'missing')} there"
        for name in names
        if ours.get(name) != theirs.get(name)
    ]


def _top(entry: EntryPoint) -> str:
    return entry.module.split(".")[0]


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
            environment = server_environment(os.environ, cores, with_cloud=with_cloud)
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
    lacking = gpu_too_small(compute, local_gpus(), ray.get_gpu_ids())
    if lacking:
        return Outcome("failed", RequirementError(f"{lacking} on {socket.gethostname()}"))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    request = ForkRequest(work.plan, work.folder, work.steps, {**work.group, "CUDA_VISIBLE_DEVICES": visible})
    try:
        shared = "://" in (compute.cache or "")
        server = ray.get(node.fork_server.remote(work.cores, work.modules, with_cloud=shared))
        return forked_outcome(server, request)
    except (OSError, RayError) as error:
        return Outcome("failed", LostWorkerError(f"no worker could be started on {socket.gethostname()}: {error}"))
