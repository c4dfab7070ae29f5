"""What the project runs on a node of the cluster: one actor per node, one task per worker, and version checks."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from runner.errors import LostWorkerError, RequirementError
from runner.execute.fork_executor import run_in_fork, server_environment
from runner.execute.fork_server import ForkRequest, start_server
from runner.execute.ray.placement import sort_gpu_ids
from runner.fingerprint_and_provenance import code_hash, package_versions
from runner.preflight.resources import gpu_memory_problem, local_gpus
from runner.spec.experiment_spec import ComputeOptions
from runner.stages.registry import STAGES, installed_plugins
from runner.trial.run_trial import Outcome

import ray  # isort: skip - after runner's modules, which need not wait for it
from ray.exceptions import RayError

Versions = Mapping[str, str]
"""Version or hash by the name of a package, of a distribution, or of a distribution's code."""


def software_versions() -> dict[str, str]:
    """The versions of this machine's software.

    The local part of a main package's version (after `+`) is omitted: it names the device that a build of torch is
    for, which may differ between a laptop and a cluster.

    Raises:
        PluginError: Two distributions offer the same plugin.
    """
    plugins = [plugin for stage in STAGES for plugin in installed_plugins(stage).values()]
    distributions = dict(plugin.distribution.rsplit(" ", 1) for plugin in plugins if " " in plugin.distribution)
    top_packages = {"runner", *(plugin.entry.module.split(".")[0] for plugin in plugins)}
    return {
        **{name: version.split("+")[0] for name, version in package_versions().items()},
        **distributions,
        **{f"the code of {name}": code_hash(name) for name in sorted(top_packages)},
    }


def version_differences(ours: Versions, theirs: Versions) -> list[str]:
    """List the software in which two machines differ, with this machine's version before the other's."""
    names = [*ours, *(name for name in theirs if name not in ours)]
    return [
        f"{name} {ours.get(name, 'missing')} here and {theirs.get(name, 'missing')} there"
        for name in names
        if ours.get(name) != theirs.get(name)
    ]


LOOPBACK = "127.0.0.1"
"""An address that only this machine can reach."""
MAX_STARTING_TRIALS = 256
"""For how many groups of workers a node keeps ports reserved and GPUs registered; not more start at the same time."""
GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"
"""Torch's environment variable with the network interface at which gloo listens."""
GPUS_SECONDS = 300.0
"""How long a worker waits until Ray has started the other workers of its trial on the node."""
GPUS_POLL_SECONDS = 0.05
"""How long a worker sleeps before it asks again for the GPUs of the other workers of its trial."""


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class NodeActor:
    """Holds the fork servers of a node; if it dies, Ray restarts it, and new servers are started."""

    def __init__(self, working_folder: str | None) -> None:
        """Initialize the actor without servers.

        Args:
            working_folder: The current folder of the processes that it starts; None for that of the node's Ray.
        """
        if working_folder is not None:
            os.chdir(working_folder)
        self._servers: dict[tuple[int, bool, tuple[str, ...]], tuple[subprocess.Popen[bytes], str]] = {}
        self._ports: deque[socket.socket] = deque(maxlen=MAX_STARTING_TRIALS)
        self._gpu_groups: dict[str, dict[int, list[str]]] = {}

    def fork_server(self, cores: int, modules: Sequence[str], *, with_cloud: bool, keys: tuple[str, ...] = ()) -> str:
        """Return the address of the server for processes with this number of threads, started if needed.

        OpenMP reads the number of threads when it is loaded, so that each number needs its own server. So do processes
        that keep the credentials of an object store, or an API key.

        Args:
            cores: Number of threads of each process.
            modules: The modules that the server imports.
            with_cloud: See `runner.redaction.worker_environment`.
            keys: See `runner.redaction.worker_environment`.
        """
        key = (cores, with_cloud, keys)
        server, address = self._servers.get(key, (None, ""))
        if server is None or server.poll() is not None:
            environment = server_environment(os.environ, cores, with_cloud=with_cloud, keys=keys)
            server, address = self._servers[key] = start_server(modules, environment)
        return address

    def rendezvous_address(self, *, is_only_node: bool) -> tuple[str, int]:
        """Return this node's address and a free port, where the workers of a trial can meet.

        If all workers are on this node, the address is one that other machines cannot reach.

        The port stays bound here without listening, so that no other process gets it. The worker that listens can bind
        it too, since both reuse addresses.
        """
        reserved = socket.socket()
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("", 0))
        self._ports.append(reserved)
        address = LOOPBACK if is_only_node else str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
        return address, reserved.getsockname()[1]

    def register_gpus(
        self, group_id: str, local_rank: int, local_world_size: int, gpu_ids: Sequence[str]
    ) -> list[str] | None:
        """Register the GPUs of one worker, and return those of all workers that its trial has on this node.

        Args:
            group_id: The name of the group of workers.
            local_rank: The worker's number on this node.
            local_world_size: How many workers the group has on this node.
            gpu_ids: The worker's GPUs.

        Returns:
            The ids in the order of the node's GPUs; None until all workers are registered.
        """
        group = self._gpu_groups.setdefault(group_id, {})
        group[local_rank] = list(gpu_ids)
        while len(self._gpu_groups) > MAX_STARTING_TRIALS:
            del self._gpu_groups[next(iter(self._gpu_groups))]
        if len(group) < local_world_size:
            return None
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        return sort_gpu_ids((gpu_id for gpu_ids in group.values() for gpu_id in gpu_ids), visible)

    def software_versions(self) -> dict[str, str]:
        """Return the versions of this node's software."""
        return software_versions()


@dataclass(frozen=True)
class WorkerTask:
    """What one worker of a trial does, as plain data.

    Attributes:
        plan: The trial's plan as JSON.
        folder: Its run directory.
        steps: The steps to run.
        modules: The modules that the fork server imports, if it has to be started.
        cores: Number of threads.
        compute: The spec's `compute` section as JSON, with the resources of each worker.
        keys: The environment variables with API keys that the steps need.
        group: `RANK`, `WORLD_SIZE` and where the workers meet; empty for a single worker.
        group_id: A name that no other group of workers has.
        local_rank: Its number among the group's workers on this node.
        local_world_size: How many workers of the group this node has.
    """

    plan: str
    folder: str
    steps: Sequence[str]
    modules: Sequence[str]
    cores: int
    compute: Mapping[str, Any]
    keys: tuple[str, ...]
    group: Mapping[str, str]
    group_id: str
    local_rank: int
    local_world_size: int


@ray.remote(max_retries=0, max_calls=0)
def run_worker(node: Any, task: WorkerTask) -> dict[str, Any]:
    """Hold a worker's resources while a process that is forked for it runs; the process ends with this Ray task.

    Args:
        node: The `NodeActor` of this node.
        task: What the worker does.

    Returns:
        The outcome as plain data.
    """
    return _run_worker(node, task).as_json()


def _run_worker(node: Any, task: WorkerTask) -> Outcome:
    compute = ComputeOptions.model_validate(task.compute)
    own_gpus = [str(gpu_id) for gpu_id in ray.get_gpu_ids()]
    problem = gpu_memory_problem(compute, local_gpus(), own_gpus)
    if problem:
        return Outcome("failed", RequirementError(f"{problem} on {socket.gethostname()}"))
    try:
        gpus = _gpus_of_trial(node, task, own_gpus)
        # An empty value hides all GPUs. Without the variable, a worker without GPUs would use the node's first one.
        group = {**gloo_interface(task.group, os.environ), **task.group}
        environment: dict[str, str | None] = {**group, "CUDA_VISIBLE_DEVICES": ",".join(gpus)}
        request = ForkRequest(task.plan, task.folder, task.steps, environment)
        with_cloud = "://" in (compute.cache or "")
        server = ray.get(node.fork_server.remote(task.cores, task.modules, with_cloud=with_cloud, keys=task.keys))
        return run_in_fork(server, request)
    except LostWorkerError as error:
        return Outcome("failed", error)
    except (OSError, RayError) as error:
        return Outcome("failed", LostWorkerError(f"no worker could be started on {socket.gethostname()}: {error}"))


def gloo_interface(group: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """Choose the network interface at which gloo listens: that of the address at which other nodes reach this one.

    Without a choice, gloo listens at the address of the host's own name. Debian gives this name an address of the
    loopback interface, 127.0.1.1: workers on several nodes would then wait for each other until `ddp_timeout`.

    Args:
        group: Where the workers meet; empty for a single worker.
        environment: The environment of this node's Ray, whose choice counts.

    Returns:
        The variable for the worker; empty if there is nothing to choose.
    """
    if not group or GLOO_INTERFACE in environment:
        return {}
    address = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    interfaces = psutil.net_if_addrs().items()
    found = (name for name, addresses in interfaces if address in {each.address for each in addresses})
    name = next(found, None)
    return {} if name is None else {GLOO_INTERFACE: name}


def _gpus_of_trial(node: Any, task: WorkerTask, own_gpus: Sequence[str]) -> list[str]:
    """Return the GPUs of all workers of a trial on this node; waits until Ray has started the other workers.

    All of them see the same GPUs in the same order, because NCCL had errors where each worker saw only its own, or
    where the order differed from that of the machine (https://github.com/NVIDIA/nccl/issues/1906).

    Raises:
        LostWorkerError: Another worker did not start in time, or the node's actor has lost its registration.
    """
    deadline = time.monotonic() + GPUS_SECONDS
    while time.monotonic() < deadline:
        arguments = (task.group_id, task.local_rank, task.local_world_size, own_gpus)
        gpus: list[str] | None = ray.get(node.register_gpus.remote(*arguments))
        if gpus is not None:
            return gpus
        time.sleep(GPUS_POLL_SECONDS)
    raise LostWorkerError(
        f"the {task.local_world_size} workers of the trial on {socket.gethostname()} did not start within "
        f"{GPUS_SECONDS:g} seconds"
    )
