"""Finds out what the nodes of a cluster offer and lack for a spec, for `runner doctor --address`."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.errors import RequirementError, RunnerError
from runner.execute.ray.cluster_and_reservations import Node, connect, disconnect, nodes
from runner.execute.ray.jobs import Jobs
from runner.execute.ray.node_worker import software_versions, version_differences
from runner.execute.ray.placement import plan_placement
from runner.preflight.doctor import Finding, connection_findings, skew_findings
from runner.spec.experiment_spec import ComputeOptions

import ray  # isort: skip - after cluster_and_reservations, which sets what Ray reads when it is imported
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

PROBE_SECONDS = 120.0
"""How long a node may take to answer; its processes are started for that."""
CONNECT_SECONDS = 5.0
"""How long a node may take to accept a connection of another node."""
NODE_FILE = "node"
"""Beginning of the name of the file that each node writes into the storage."""


@ray.remote(num_cpus=0)
class NodeProbe:
    """Answers questions about its node, and accepts connections of other nodes."""

    def __init__(self) -> None:
        """Listen on a port that the system chooses, as the workers of a trial do."""
        self._listener = socket.create_server(("", 0))

    def clock(self) -> float:
        """Return the node's time in seconds since 1970."""
        return time.time()

    def versions(self) -> dict[str, str]:
        """Return the versions of the node's software."""
        return software_versions()

    def listens_at(self) -> tuple[str, int]:
        """Return the node's address and the port on which this probe listens."""
        return str(ray.util.get_node_ip_address()), self._listener.getsockname()[1]  # type: ignore[no-untyped-call]

    def connection_problem(self, host: str, port: int) -> str:
        """Connect to another node's probe; return why that fails, or nothing."""
        try:
            socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
        except OSError as error:
            return f"port {port}: {error}"
        return ""

    def storage_problem(self, folder: str, node: str) -> str:
        """Write a file into a folder that the driver has made in the storage; return why that fails, or nothing."""
        if not Path(folder).is_dir():
            return f"{Path(folder).parent} is not the folder that the launch writes to"
        try:
            (Path(folder) / f"{NODE_FILE}-{node}").touch()
        except OSError as error:
            return f"{Path(folder).parent} cannot be written: {error.strerror or error}"
        return ""


def check_cluster(address: str, compute: ComputeOptions, probe_folder: Path | None) -> Iterator[Finding]:
    """Ask each node of a cluster for its software, clock, storage and connections to the other nodes.

    Args:
        address: The cluster's address, such as `head:6379`.
        compute: The spec's `compute` section, which the cluster must be able to place.
        probe_folder: A new folder in the storage, which all nodes should see; None if the storage cannot be written.
    """
    try:
        connect(address)
    except RequirementError as error:
        yield Finding("cluster", "problem", str(error), "the message says what to do")
        return
    try:
        found = nodes()
        yield Finding("cluster", "ok", f"{len(found)} node(s) answer at {address}: {_describe_nodes(found)}")
        try:
            plan_placement(compute, [node.total for node in found], compute.workers)
        except RunnerError as error:
            yield Finding("cluster", "problem", str(error), "change the section compute, or add nodes")
        yield from _check_nodes(found, probe_folder)
    finally:
        disconnect()


def check_dashboard(address: str) -> Iterator[Finding]:
    """Check that the dashboard of a cluster accepts jobs from this machine."""
    try:
        running = [job for job in Jobs(address).list_jobs() if job.status == "running"]
    except RunnerError as error:
        yield Finding("cluster", "problem", str(error), "the message says what to do")
        return
    text = f"the dashboard at {address} accepts jobs; {len(running)} launch(es) run there"
    yield Finding("cluster", "ok", text, "to ask each node, run `runner doctor SPEC --address auto` on the head")


def _describe_nodes(found: Sequence[Node]) -> str:
    return ", ".join(
        f"{node.name} with {node.total.get('CPU', 0):g} CPUs and {node.total.get('GPU', 0):g} GPUs" for node in found
    )


def _start_probe(node: Node) -> Any:
    strategy = NodeAffinitySchedulingStrategy(node.id, soft=False)
    return NodeProbe.options(scheduling_strategy=strategy).remote()  # type: ignore[attr-defined]


def _check_nodes(found: Sequence[Node], probe_folder: Path | None) -> Iterator[Finding]:
    names = _unique_names(found)
    probes = {names[node.id]: _start_probe(node) for node in found}
    for name, probe in [*probes.items()]:
        try:
            theirs = ray.get(probe.versions.remote(), timeout=PROBE_SECONDS)
        except RayError as error:
            text = f"node {name} starts no process: {str(error).splitlines()[0]}"
            yield Finding("cluster", "problem", text, "see the logs of Ray on that node, /tmp/ray/session_latest/logs")
            del probes[name]
            continue
        if differences := version_differences(software_versions(), theirs):
            text = f"node {name}: {'; '.join(differences)}"
            yield Finding("cluster", "problem", text, "install the same versions there and here")
    yield from skew_findings({name: _clock_ahead(probe) for name, probe in probes.items()})
    if probe_folder is not None:
        yield from _check_shared_storage(probes, probe_folder)
    yield from connection_findings([*probes], _connection_problems(probes))


def _unique_names(found: Sequence[Node]) -> dict[str, str]:
    """Return the name of each node by its id; with the beginning of the id if several nodes are on one machine."""
    names = Counter(node.name for node in found)
    return {node.id: node.name if names[node.name] == 1 else f"{node.name} {node.id[:6]}" for node in found}


def _check_shared_storage(probes: Mapping[str, Any], probe_folder: Path) -> Iterator[Finding]:
    for index, (name, probe) in enumerate(probes.items()):
        problem = ray.get(probe.storage_problem.remote(str(probe_folder), str(index)), timeout=PROBE_SECONDS)
        if not problem and not (probe_folder / f"{NODE_FILE}-{index}").exists():
            problem = f"what it writes to {probe_folder.parent} does not arrive here"
        if problem:
            remedy = "mount the shared folder at the same path on every node, and name it in compute.storage"
            yield Finding("cluster", "problem", f"node {name}: {problem}", remedy)


def _clock_ahead(probe: Any) -> float:
    """Return by how many seconds a node's clock is ahead of this one's, as seen in the middle of the question."""
    before = time.time()
    theirs: float = ray.get(probe.clock.remote(), timeout=PROBE_SECONDS)
    return theirs - (before + time.time()) / 2


def _connection_problems(probes: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    places = {name: ray.get(probe.listens_at.remote(), timeout=PROBE_SECONDS) for name, probe in probes.items()}
    questions = {
        (source, target): probes[source].connection_problem.remote(*place)
        for source in probes
        for target, place in places.items()
        if source != target
    }
    return {pair: ray.get(question, timeout=PROBE_SECONDS) for pair, question in questions.items()}
