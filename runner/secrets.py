"""Keeps passwords out of what is written down, shown or sent, and credentials with the one process that needs them."""

from __future__ import annotations

import re
from collections.abc import Mapping

# A scheme is short, or a long line without any would be read anew from each of its letters.
_ADDRESS = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,30}://)(?P<user>[^\s/:@\"'<>]*)(?P<password>:[^\s/\"'<>]*)?@"
)
_QUERY = re.compile(r"(?<=[?&]password=)[^&\s\"'<>]+")
_WEB = ("http://", "https://")

_TRACKER = re.compile(r"MLFLOW_TRACKING_(USERNAME|PASSWORD|TOKEN|AWS_SIGV4)|DATABRICKS_\w+|PGPASSWORD|MYSQL_PWD")
"""Environment variables that only who writes to a tracker reads: MLflow's own, and those of its databases."""
_CLOUD = re.compile(r"AWS_\w+|MLFLOW_S3_\w+|AZURE_\w+|GOOGLE_APPLICATION_CREDENTIALS")
"""Those that open stores of objects."""


def holds_password(text: str) -> bool:
    """Whether an address with a password, or a web address with a token, stands in a text."""
    return without_passwords(text) != text


def without_passwords(text: str) -> str:
    """Take the passwords out of all addresses in a text, so that those still work where the environment has them.

    A database's user stays, as its library looks for that user's password elsewhere (`PGPASSWORD`, `~/.pgpass`). A web
    server's goes too: with a user in the address, HTTP libraries would pass over the environment's user and password.
    """
    return _QUERY.sub("", _ADDRESS.sub(_plain, text))


def for_workers(environment: Mapping[str, str], *, with_cloud: bool) -> dict[str, str]:
    """The environment less what the driver alone needs to write to the tracker.

    Args:
        environment: The driver's, or its node's.
        with_cloud: Workers reach a store of objects themselves, such as a shared cache, and keep the keys to it.
    """
    withheld = [_TRACKER] if with_cloud else [_TRACKER, _CLOUD]
    return {name: value for name, value in environment.items() if not any(each.fullmatch(name) for each in withheld)}


def _plain(found: re.Match[str]) -> str:
    keeps_user = found["user"] and not found["scheme"].lower().startswith(_WEB)
    return f"{found['scheme']}{found['user']}@" if keeps_user else found["scheme"]
