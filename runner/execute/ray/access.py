"""Refuses a cluster that does not answer, or that this machine has no token for, before Ray would wait or abort."""

from __future__ import annotations

import os
import socket
from pathlib import Path

# What Ray's own commands ask a head with: nothing public asks just once. It is compiled, and mypy cannot see it.
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError

from runner.errors import UnmetError

ANSWER_SECONDS = 5.0
"""A head that does not take a connection within this is not there; Ray would ask for forty seconds."""

TOKEN_FILE = Path("~/.ray/auth_token")
"""Where Ray looks for a token that the environment does not name."""


def refuse_silence(address: str) -> None:
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
        raise UnmetError(nobody(address, "it is no host:port"))
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UnmetError(nobody(address, str(error))) from error


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
        raise UnmetError(
            f"RAY_AUTH_MODE is token, and {file} holds none: copy the cluster's token there, or name its file in "
            "RAY_AUTH_TOKEN_PATH"
        )


def refuse_wrong_token(address: str) -> None:
    """Refuse a cluster that does not take this machine's token; `ray.init` would try for minutes, and not say why.

    Args:
        address: As `refuse_silence` takes it; only of a `host:port` it is known.

    Raises:
        UnmetError: The cluster asks for another token, or for one at all.
    """
    if is_host_and_port(address):
        try:
            GcsClient(address=address)
        except AuthenticationError as error:
            raise UnmetError(token_advice(address)) from error


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
