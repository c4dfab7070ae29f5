"""Starts or joins a Ray cluster, lists its nodes and reserves resources on them."""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import chdir, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ray
import ray._private.worker
from ray._private.authentication import authentication_token_setup
from ray._private.authentication.authentication_utils import is_token_auth_enabled
from ray._private.services import find_node_ids  # no public function says whether this machine is a node
from ray._private.state import available_resources_per_node  # no public function lists them by node
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from runner.errors import RequirementError
from runner.execute.ray.placement import (
    NodeHistory,
    PlacementRequest,
    Resources,
    WorkerPlace,
    describe_shortage,
    plan_placement,
    worker_places,
)
from runner.spec.experiment_spec import ComputeOptions

# Ray's own commands ask a head with this class; no public function tries just once. It is compiled, so that mypy cannot
# see it.


ANSWER_SECONDS = 5.0
"""A head must accept a connection within this time; Ray itself would try for forty seconds."""

MODE = "RAY_AUTH_MODE"
"""The environment variable that says whether Ray uses a token: `token` or `disabled`."""

OWN_RAY_SWITCH = "enable_token_auth_by_default"
"""Ray's function that gives a Ray on this machine a token although `RAY_AUTH_MODE` is not set."""

TOKEN_FILE = Path("~/.ray/auth_token")
"""Where Ray looks for a token unless the environment names one."""


def check_reachable(address: str) -> None:
    """Check that something accepts connections at an address.

    Args:
        address: A cluster's address, such as `head:6379`. A URL, `auto` and `local` are left to Ray.

    Raises:
        RequirementError: It is no `host:port`, or nothing answers.
    """
    if not is_host_and_port(address):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise RequirementError(unreachable_message(address, "it is no host:port"))
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise RequirementError(unreachable_message(address, str(error))) from error


def unreachable_message(address: str, reason: str) -> str:
    """The message that no cluster answers at an address, with valid addresses as examples."""
    if address.startswith("https:") and not os.environ.get("RAY_TLS_CA_CERT"):
        reason = (
            f"{reason.rstrip('.')}; if a certificate authority of your own signed its certificate, set RAY_TLS_CA_CERT "
            "to that authority's file"
        )
    return (
        f"no cluster answers at {address} ({reason.rstrip('.')}); name its head, such as head:6379, or its head's "
        "dashboard, such as http://head:8265 (`ray start --head --dashboard-host=0.0.0.0` opens it to other machines)"
    )


def check_token_present() -> None:
    """Check that there is a token if the environment requires one; Ray's own code would abort the process.

    Raises:
        RequirementError: The environment requires a token, and there is none.
    """
    if not uses_token() or os.environ.get("RAY_AUTH_TOKEN"):
        return
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or TOKEN_FILE).expanduser()
    if not (file.is_file() and file.read_text(encoding="utf-8").strip()):
        cause = "RAY_AUTH_MODE is token" if os.environ.get(MODE) else f"Ray {ray.__version__} sends a token by default"
        raise RequirementError(
            f"{cause}, but {file} holds none: copy the cluster's token there, or set RAY_AUTH_TOKEN_PATH to its file; "
            f"for a cluster without tokens, set {MODE}=disabled"
        )


def check_token_accepted(address: str) -> None:
    """Check that a cluster accepts this machine's token; `ray.init` would try for minutes and give no reason.

    Args:
        address: As for `check_reachable`; only a `host:port` is checked.

    Raises:
        RequirementError: The cluster requires a token, and this machine sends none or another one.
    """
    if is_host_and_port(address):
        try:
            GcsClient(address=address)
        except AuthenticationError as error:
            raise RequirementError(token_message(address)) from error


def check_is_node(address: str) -> None:
    """Check that Ray runs on this machine; `ray.init` would wait for a minute and give no reason.

    Args:
        address: As for `check_reachable`; only a `host:port` is checked.

    Raises:
        RequirementError: This machine is no node of a cluster.
    """
    if is_host_and_port(address) and not find_node_ids():  # type: ignore[no-untyped-call]
        raise RequirementError(
            f"this machine is no node of the cluster at {address}: run the command on a node, or add `--detach "
            f"--address http://{address.rpartition(':')[0]}:8265`; `ray start --address={address} --num-cpus=0` makes "
            "this machine a node that runs no trials"
        )


def is_host_and_port(address: str) -> bool:
    """Whether an address is neither a URL nor `auto` or `local`, which Ray interprets itself."""
    return "://" not in address and address not in {"auto", "local"}


def uses_token(*, of_own_ray: bool = False) -> bool:
    """Whether Ray uses a token: what `RAY_AUTH_MODE` says, or else Ray's own default.

    Ray is asked for its default, because that depends on the version. Tokens exist since 2.52; since 2.59, a Ray that
    `ray.init` starts has one by default; Ray's pages announce 2.61 as the version that sends one to every cluster.

    Args:
        of_own_ray: Ask about a Ray that starts on this machine, not about a cluster at an address.
    """
    mode = os.environ.get(MODE)
    if mode is not None:
        return mode.lower() == "token"
    # Ray has no function that says what `ray.init` would do; the one that switches the token on is new in 2.59.
    return is_token_auth_enabled() or (of_own_ray and hasattr(authentication_token_setup, OWN_RAY_SWITCH))


def token_message(address: str) -> str:
    """The message that a cluster did not accept this machine's token, or the lack of one, with the remedy."""
    if uses_token():
        remedy = f"copy the cluster's token to {TOKEN_FILE}, or set RAY_AUTH_TOKEN_PATH to its file"
        return f"{address} does not accept this machine's token: {remedy}"
    return f"{address} requires a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the token's file"


# Ray reads this when it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray hides no GPUs from its own processes without GPUs, and warns if this is not set. `run_worker` hides them from the
# processes that compute.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# Ray prints what the programs of a lost node have logged to standard output, where `--json` promises nothing but the
# result, and no option prevents it. The launch itself says that the node is lost.
ray._private.worker.listen_error_messages = lambda worker, threads_stopped: None
# Nothing waits for the result of a worker that is killed; Ray would print that as an error.
os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")


OBJECT_STORE_BYTES = 200_000_000
"""Size of the object store of a Ray on this machine; only plans and outcomes are sent, so that it can be small."""

RESERVATION_SECONDS = 5.0
"""How long Ray may take to reserve free resources. If another driver took them first, the next poll tries again."""

NODES_CACHE_SECONDS = 1.0
"""How long the list of nodes is cached, since a driver that waits for resources asks many times a second."""


def connect(address: str | None) -> None:
    """Join the cluster at an address, or start Ray on this machine; the signal handlers remain as they are.

    Raises:
        RequirementError: There is no cluster at that address, or it requires a token that this machine lacks.
    """
    if address:
        check_reachable(address)
        check_token_present()
        check_token_accepted(address)
        check_is_node(address)
    sigterm_handler = signal.getsignal(signal.SIGTERM)
    # What Ray starts inherits this, so that a terminal that is closed does not end it while the trials save.
    signals = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    if token_path := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        # Ray reads it in another current folder, see below.
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(Path(token_path).expanduser().absolute())
    options: dict[str, Any] = {}
    if not address:
        make_token_private()
        options = {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
        options["_temp_dir"] = _private_folder()
    try:
        # Ray puts the current folder in front of the workers' import path, where a package called `runner` or `plugins`
        # would be imported instead of ours. A folder without such packages has no effect.
        with chdir(_private_folder()):
            ray.init(
                address=address or "local",
                logging_level=logging.ERROR,
                log_to_driver=False,
                **options,
            )
    except AuthenticationError as error:
        raise RequirementError(token_message(address or "this machine")) from error
    except Exception as error:  # if a node is slow to start, Ray raises no narrower exception
        if address is None and "AF_UNIX" in str(error):
            raise RequirementError(
                f"Ray does not start on this machine, because the path of the folder for temporary files is too long: "
                f"{tempfile.gettempdir()}; set TMPDIR to a shorter path, such as /tmp"
            ) from error
        if address is None:
            raise RequirementError(f"Ray does not start on this machine: {error}") from error
        raise RequirementError(unreachable_message(address, str(error))) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        # Ray's handler ends the driver on SIGTERM; ours lets the trials save.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, sigterm_handler)


@cache
def _private_folder() -> str:
    """Create a folder for Ray's sockets and logs that no other user can reach, until this process ends.

    Ray lets all users write into the folder that it is given, so this folder lies in one that only this user can enter.
    """
    private = tempfile.mkdtemp(prefix="runner-")
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    folder = Path(private) / "ray"
    folder.mkdir()
    return str(folder)


def make_token_private() -> None:
    """Create the token of a Ray on this machine so that only this user can read it.

    Ray itself would create a file whose permissions follow the umask. A file that Ray created earlier is made private.
    Nothing is done if Ray uses no token, or a token in the environment.
    """
    if not uses_token(of_own_ray=True) or os.environ.get("RAY_AUTH_TOKEN"):
        return
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or TOKEN_FILE).expanduser()
    if file.is_file():
        if file.stat().st_mode & 0o077 and file.stat().st_uid == os.getuid():
            file.chmod(0o600)
    elif not os.environ.get("RAY_AUTH_TOKEN_PATH"):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
        unfinished.touch(mode=0o600, exist_ok=False)
        unfinished.write_text(secrets.token_hex(32), encoding="utf-8")
        with suppress(FileExistsError):  # another launch was faster
            os.link(unfinished, file)
        unfinished.unlink()


def disconnect() -> None:
    """Leave the cluster; a Ray that was started here ends."""
    ray.shutdown()


@dataclass(frozen=True)
class Node:
    """A node that is alive.

    Attributes:
        id: Ray's id.
        name: Its host name and address.
        total: All its resources, free or not.
    """

    id: str
    name: str
    total: Resources


def nodes() -> list[Node]:
    """List the nodes that are alive."""
    infos: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [
        Node(info["NodeID"], f"{info['NodeManagerHostname']} ({info['NodeManagerAddress']})", info["Resources"])
        for info in infos
        if info["Alive"]
    ]


@dataclass(frozen=True)
class Reservation:
    """The reserved resources of a trial.

    Attributes:
        group: Ray's placement group.
        request: The resources that were requested.
        nodes: The id of each bundle's node.
    """

    group: PlacementGroup
    request: PlacementRequest
    nodes: tuple[str, ...]

    def workers(self) -> list[WorkerPlace]:
        """List the place of each worker, by rank."""
        return worker_places(self.request.workers_per_bundle, self.nodes)


class ReservationPool:
    """The reservations of this driver's trials, and the resources that are free beside them."""

    def __init__(self) -> None:
        """Initialize the pool without reservations."""
        self._reservations: list[Reservation] = []
        self._nodes: list[Node] = []
        self._names: dict[str, str] = {}
        self._cached_until = 0.0
        self._history = NodeHistory()

    def nodes(self) -> list[Node]:
        """The nodes that are alive, from a list that is at most `NODES_CACHE_SECONDS` old."""
        if time.monotonic() > self._cached_until:
            self._nodes = nodes()
            self._names |= {node.id: node.name for node in self._nodes}
            self._history.update(((node.name, node.total) for node in self._nodes), time.monotonic())
            self._cached_until = time.monotonic() + NODES_CACHE_SECONDS
        return self._nodes

    def gone(self, node_ids: Iterable[str]) -> list[str]:
        """Return the names of those nodes that are no longer alive."""
        alive = {node.id for node in self.nodes()}
        return sorted(self._names.get(node_id, node_id) for node_id in node_ids if node_id not in alive)

    def request(self, compute: ComputeOptions, workers: int) -> PlacementRequest:
        """Compute the resources of a trial on the nodes that are alive; if they are too few, also on those away.

        Args:
            compute: The spec's `compute` section.
            workers: How many workers run.

        Raises:
            RequirementError: The cluster cannot hold the trial, even if all nodes that are away come back.
        """
        alive = [node.total for node in self.nodes()]
        try:
            return plan_placement(compute, alive, workers)
        except RequirementError:
            away = self._history.away()
            if not away:
                raise
            return plan_placement(compute, [*alive, *away], workers)

    def describe_wait(self, request: PlacementRequest) -> str:
        """Describe what a trial is waiting for, what is free, and which nodes are away."""
        shortage, away = describe_shortage(request, self.free()), self._history.describe(time.monotonic())
        return f"{shortage}; nodes that are away: {away}" if away else shortage

    def free(self) -> list[dict[str, float]]:
        """The free resources of each node that is alive.

        Ray's own numbers are some tenths of a second old, so that this driver's reservations are subtracted here too.
        """
        available: Mapping[str, Resources] = available_resources_per_node()  # type: ignore[no-untyped-call]
        return [
            {name: min(amount, available.get(node, {}).get(name, 0)) for name, amount in unreserved.items()}
            for node, unreserved in self._unreserved().items()
        ]

    def _unreserved(self) -> dict[str, dict[str, float]]:
        """The resources of each node that this driver's trials have not reserved."""
        unreserved = {node.id: dict(node.total) for node in self.nodes()}
        for reservation in self._reservations:
            for bundle, node in zip(reservation.request.bundles(), reservation.nodes, strict=True):
                for name, amount in bundle.items() if node in unreserved else ():
                    unreserved[node][name] = max(0.0, unreserved[node][name] - amount)
        return unreserved

    def reserve(self, request: PlacementRequest) -> Reservation | None:
        """Reserve resources; None if they are not free now."""
        if not request.fits(self._unreserved().values()) or not request.fits(self.free()):
            return None
        strategy = "STRICT_SPREAD" if request.is_spread else "PACK"
        group = placement_group(request.bundles(), strategy=strategy)
        if not group.wait(timeout_seconds=RESERVATION_SECONDS):
            remove_placement_group(group)
            return None
        placed: Mapping[int, str] = placement_group_table(group)["bundles_to_node_id"]
        bundle_nodes = tuple(placed[bundle] for bundle in range(len(request.workers_per_bundle)))
        reservation = Reservation(group, request, bundle_nodes)
        self._reservations.append(reservation)
        return reservation

    def release(self, reservation: Reservation) -> None:
        """Release a reservation; what still runs there is killed."""
        self._reservations.remove(reservation)
        remove_placement_group(reservation.group)
