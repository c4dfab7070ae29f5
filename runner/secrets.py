"""Keeps passwords that stand in addresses out of what is written down, shown or sent."""

from __future__ import annotations

import re

_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^\s/:@\"'<>]*)(?P<password>:[^\s/\"'<>]*)?@")
_QUERY = re.compile(r"(?<=[?&]password=)[^&\s\"'<>]+")
_WEB = ("http://", "https://")


def holds_password(text: str) -> bool:
    """Whether an address with a password, or a web address with a token, stands in a text."""
    return without_passwords(text) != text


def without_passwords(text: str) -> str:
    """Take the passwords out of all addresses in a text, so that those still work where the environment has them.

    A database's user stays, as its library looks for that user's password elsewhere (`PGPASSWORD`, `~/.pgpass`). A web
    server's goes too: with a user in the address, HTTP libraries would pass over the environment's user and password.
    """
    return _QUERY.sub("", _ADDRESS.sub(_plain, text))


def _plain(found: re.Match[str]) -> str:
    keeps_user = found["user"] and not found["scheme"].lower().startswith(_WEB)
    return f"{found['scheme']}{found['user']}@" if keeps_user else found["scheme"]
