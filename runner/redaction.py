"""Removes passwords from text that is stored, displayed or sent, and credentials from the workers' environment."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping

# The length of a scheme is limited, because otherwise a long line without a URL takes quadratic time.
_ADDRESS = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,30}://)(?P<user>[^\s/:@\"'<>]*)(?P<password>:[^\s/\"'<>]*)?@"
)
_QUERY = re.compile(r"(?<=[?&]password=)[^&\s\"'<>]+")
_WEB = ("http://", "https://")

_TRACKER = re.compile(r"MLFLOW_TRACKING_(USERNAME|PASSWORD|TOKEN|AWS_SIGV4)|DATABRICKS_\w+|PGPASSWORD|MYSQL_PWD")
"""Environment variables that only the process that writes to the tracker needs: those of MLflow and its databases."""
_CLOUD = re.compile(r"AWS_\w+|MLFLOW_S3_\w+|AZURE_\w+|GOOGLE_APPLICATION_CREDENTIALS")
"""Environment variables with credentials of object stores."""
_API_KEY = re.compile(r"(?!AWS_|AZURE_|MLFLOW_|RAY_)\w*?(API_?(KEY|TOKEN)\w*|_KEYS?)", re.IGNORECASE)
"""Environment variables with keys of model servers and other services."""


def has_password(text: str) -> bool:
    """Return whether a text contains a URL with a password or, in a web URL, with a token."""
    return redact_passwords(text) != text


def redact_passwords(text: str) -> str:
    """Remove the passwords from all URLs in a text; the URLs still work where the environment has the passwords.

    The user of a database URL is kept, because the database library looks up that user's password elsewhere
    (`PGPASSWORD`, `~/.pgpass`). The user of a web URL is removed: with a user in the URL, HTTP libraries would ignore
    the user and password of the environment.
    """
    return _QUERY.sub("", _ADDRESS.sub(_redact_url, text))


def worker_environment(
    environment: Mapping[str, str], *, with_cloud: bool, keys: Collection[str] = ()
) -> dict[str, str]:
    """Return an environment without the credentials that a worker does not need.

    Args:
        environment: The environment of the driver or its node.
        with_cloud: Keep the credentials of object stores, because workers access one, such as a shared cache.
        keys: The variables with API keys to keep, because the worker's plugins send their values to a server.
    """
    removed = [_TRACKER, _API_KEY] if with_cloud else [_TRACKER, _CLOUD, _API_KEY]
    return {
        name: value
        for name, value in environment.items()
        if name in keys or not any(pattern.fullmatch(name) for pattern in removed)
    }


def without_api_keys(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process that sends requests to no model server."""
    return {name: value for name, value in environment.items() if not _API_KEY.fullmatch(name)}


def _redact_url(match: re.Match[str]) -> str:
    keeps_user = match["user"] and not match["scheme"].lower().startswith(_WEB)
    return f"{match['scheme']}{match['user']}@" if keeps_user else match["scheme"]


def is_loopback(host: str) -> bool:
    """Return True if only this machine can reach the address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
