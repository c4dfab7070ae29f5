"""Starts or joins a Ray cluster, lists its nodes and reserves resources on them."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private.state import available_resources_per_node  # there is no public one by node
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from runner.errors import RequirementError
from runner.execute.ray.placement import Resources, Shape

# What Ray's own commands ask a head with: nothing public asks just once. It is compiled, and mypy cannot see it.


ANSWER_SECONDS = 5.0
"""A head that does not take a connection within this is not there; Ray would ask for forty seconds."""

TOKEN_FILE = Path("~/.ray/auth_token")
"""Where Ray looks for a token that the environment does not name."""


def refuse_unreachable(address: str) -> None:
    """Refuse an address at which nobody takes connections.

    Args:
        address: A cluster's, such as `head:6379`; one with a scheme, and Ray's own words, are left to Ray.

    Raises:
        UnmetError: It is no `host:port`, or nobody answers.
    """
    if not is_host_and_port(address):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise RequirementError(nobody(address, "it is no host:port"))
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise RequirementError(nobody(address, str(error))) from error


def nobody(address: str, reason: str) -> str:
    """Phrase that there is no cluster at an address, and which address would be right."""
    if address.startswith("https:") and not os.environ.get("RAY_TLS_CA_CERT"):
        reason = (
            f"{reason.rstrip('.')}; if its certificate is of an authority of your own, name that by RAY_TLS_CA_CERT"
        )
    return (
        f"no cluster answers at {address} ({reason.rstrip('.')}); name its head, such as head:6379, or its head's "
        "dashboard, such as http://head:8265 (`ray start --head` opens it to others with --dashboard-host=0.0.0.0)"
    )


def refuse_missing_token() -> None:
    """Refuse to ask with a token where there is none: Ray's own code would abort the process.

    Raises:
        UnmetError: The environment promises a token, and there is none.
    """
    if not asks_with_token() or os.environ.get("RAY_AUTH_TOKEN"):
        return
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or TOKEN_FILE).expanduser()
    if not (file.is_file() and file.read_text(encoding="utf-8").strip()):
        raise RequirementError(
            f"RAY_AUTH_MODE is token, and {file} holds none: copy the cluster's token there, or name its file in "
            "RAY_AUTH_TOKEN_PATH"
        )


def refuse_wrong_token(address: str) -> None:
    """Refuse a cluster that does not take this machine's token; `ray.init` would try for minutes, and not say why.

    Args:
        address: As `refuse_unreachable` takes it; only of a `host:port` it is known.

    Raises:
        UnmetError: The cluster asks for another token, or for one at all.
    """
    if is_host_and_port(address):
        try:
            GcsClient(address=address)
        except AuthenticationError as error:
            raise RequirementError(token_advice(address)) from error


def is_host_and_port(address: str) -> bool:
    """Whether an address is neither a URL nor one of Ray's own words."""
    return "://" not in address and address not in {"auto", "local"}


def asks_with_token() -> bool:
    """Whether this machine shows a token to clusters."""
    return os.environ.get("RAY_AUTH_MODE", "").lower() == "token"


def token_advice(address: str) -> str:
    """Phrase what is right where a cluster did not take what it was shown."""
    if asks_with_token():
        right = f"copy the cluster's to {TOKEN_FILE}, or name its file in RAY_AUTH_TOKEN_PATH"
        return f"{address} does not take this machine's token: {right}"
    return f"{address} asks for a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the token's file"


# Ray reads this when it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# An accelerator that a worker was given none of stays visible: on a CPU it makes no difference, and Ray warns of it.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# A worker that is ended at once has no result that anybody waits for; Ray would print that as an error.
os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")


OBJECT_STORE_BYTES = 200_000_000
"""Only plans and outcomes cross, so a machine of its own needs no large store."""

RESERVATION_SECONDS = 5.0
"""In which places that are free are given; when another one's trial took them meanwhile, the next poll tries again."""

KNOWN_SECONDS = 1.0
"""How long nodes stay known, as a driver that waits for room asks many times a second."""


def connect(address: str | None) -> None:
    """Join the cluster at an address, or start Ray on this machine; signals mean afterwards what they meant before.

    Raises:
        UnmetError: There is no cluster at that address, or it asks for a token that this machine lacks.
    """
    if address:
        refuse_unreachable(address)
        refuse_missing_token()
        refuse_wrong_token(address)
    heard = signal.getsignal(signal.SIGTERM)
    own: dict[str, Any] = {} if address else {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    try:
        ray.init(
            address=address or "local",
            logging_level=logging.ERROR,
            log_to_driver=False,
            **own,
        )
    except AuthenticationError as error:
        raise RequirementError(token_advice(address or "this machine")) from error
    except Exception as error:  # of a node that is slow to start, Ray says so with no narrower kind
        if address is None:
            raise RequirementError(f"Ray does not start on this machine: {error}") from error
        raise RequirementError(nobody(address, str(error))) from error
    finally:
        # Ray ends a driver on SIGTERM; ours lets its trials save.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, heard)


def disconnect() -> None:
    """Leave the cluster; Ray that was started here ends."""
    ray.shutdown()


@dataclass(frozen=True)
class Node:
    """A living node.

    Attributes:
        id: Ray's.
        name: Its host's, or its address.
        total: What it has, free or not.
    """

    id: str
    name: str
    total: Resources


def nodes() -> list[Node]:
    """The living nodes."""
    listed: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [
        Node(each["NodeID"], f"{each['NodeManagerHostname']} ({each['NodeManagerAddress']})", each["Resources"])
        for each in listed
        if each["Alive"]
    ]


@dataclass(frozen=True)
class Reservation:
    """Places that a trial holds.

    Attributes:
        group: Ray's.
        shape: What was asked for.
        nodes: The node of each bundle, by id.
    """

    group: PlacementGroup
    shape: Shape
    nodes: tuple[str, ...]

    def workers(self) -> Iterator[tuple[int, str]]:
        """The bundle and the node of each worker."""
        for bundle, (size, node) in enumerate(zip(self.shape.sizes, self.nodes, strict=True)):
            for _ in range(size):
                yield bundle, node


class ReservationPool:
    """The places that this driver's trials hold, and what is free beside them."""

    def __init__(self) -> None:
        """Begin with none held."""
        self._held: list[Reservation] = []
        self._nodes: list[Node] = []
        self._known_until = 0.0

    def nodes(self) -> list[Node]:
        """The living nodes, as they were a moment ago."""
        if time.monotonic() > self._known_until:
            self._nodes = nodes()
            self._known_until = time.monotonic() + KNOWN_SECONDS
        return self._nodes

    def free(self) -> list[dict[str, float]]:
        """What is free on each living node.

        Ray's own account is some tenths of a second old, so that this driver's trials are counted here too.
        """
        available: Mapping[str, Resources] = available_resources_per_node()  # type: ignore[no-untyped-call]
        return [
            {name: min(amount, available.get(node, {}).get(name, 0)) for name, amount in left.items()}
            for node, left in self._left().items()
        ]

    def _left(self) -> dict[str, dict[str, float]]:
        """What this driver's trials leave of each node."""
        left = {node.id: dict(node.total) for node in self.nodes()}
        for held in self._held:
            for bundle, node in zip(held.shape.bundles(), held.nodes, strict=True):
                for name, amount in bundle.items() if node in left else ():
                    left[node][name] = max(0.0, left[node][name] - amount)
        return left

    def reserve(self, shape: Shape) -> Reservation | None:
        """Take places; None where there are none now."""
        if not shape.fits(self._left().values()) or not shape.fits(self.free()):
            return None
        strategy = "STRICT_SPREAD" if shape.apart else "PACK"
        group = placement_group(shape.bundles(), strategy=strategy)
        if not group.wait(timeout_seconds=RESERVATION_SECONDS):
            remove_placement_group(group)
            return None
        placed: Mapping[int, str] = placement_group_table(group)["bundles_to_node_id"]
        held = Reservation(group, shape, tuple(placed[bundle] for bundle in range(len(shape.sizes))))
        self._held.append(held)
        return held

    def release(self, held: Reservation) -> None:
        """Give places back; what still runs there is killed."""
        self._held.remove(held)
        remove_placement_group(held.group)
