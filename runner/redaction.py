"""Removes passwords from text that is stored, displayed or sent, and credentials from the workers' environment."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any
from urllib.parse import quote_plus, unquote_plus

import yaml

# The length of a scheme is limited, because otherwise a long line without a URL takes quadratic time.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://")
_WEB = ("http://", "https://")
_SECRET_NAME = (
    r"password|passwd|pass|pwd|sslpassword|token|access_token|secret|api_?key|sig|signature|x-amz-signature|"
    r"x-amz-security-token"
)
_QUERY = re.compile(rf"(?P<name>[?&;](?:{_SECRET_NAME})=)[^&;#]+", re.IGNORECASE)
_ODBC_QUERY = re.compile(r"(?P<name>[?&]odbc_connect=)(?P<value>[^&#]+)", re.IGNORECASE)
_ODBC = re.compile(r"(?P<name>(?:^|;)\s*(?:pwd|password)\s*=\s*+)(?:\{(?:[^}]|\}\})*\}?|[^;{][^;]*)", re.IGNORECASE)
"""The password of an ODBC string: up to a semicolon, or in braces, where `}}` stands for `}`."""
_IS_ODBC = re.compile(r"\s*[\w ]{1,30}=[^;]*;.*", re.DOTALL)
_ODBC_IN_TEXT = re.compile(
    r"(?P<name>\b(?:pwd|password)\s{0,3}=\s{0,3}+)(?:\{(?:[^}\n]|\}\}){0,256}\}|[^;{\s\"'][^;\s\"']*)(?=;)|"
    r"(?P<last>;\s{0,3}(?:pwd|password)\s{0,3}=\s{0,3}+)(?:\{(?:[^}\n]|\}\}){0,256}\}|[^;{\s\"'][^;\s\"']*)",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\s\"<>]+")

_TRACKER = re.compile(r"MLFLOW_TRACKING_(USERNAME|PASSWORD|TOKEN|AWS_SIGV4)|DATABRICKS_\w+|PGPASSWORD|MYSQL_PWD")
"""Environment variables that only the process that writes to the tracker needs: those of MLflow and its databases."""
_CLOUD = re.compile(r"AWS_\w+|MLFLOW_S3_\w+|AZURE_\w+|GOOGLE_APPLICATION_CREDENTIALS")
"""Environment variables with credentials of object stores."""
_API_KEY = re.compile(r"(?!AWS_|AZURE_|MLFLOW_|RAY_)\w*?(API_?(KEY|TOKEN)\w*|_KEYS?)", re.IGNORECASE)
"""Environment variables with keys of model servers and other services."""


def has_password(value: str) -> bool:
    """Return whether a value contains a password; see `redact_value`."""
    return redact_value(value) != value


def redact_value(value: str) -> str:
    """Remove the passwords from a value, such as an option of a spec. A URL or an ODBC string is recognised as a whole.

    URLs still work where the environment has the passwords: the user of a database URL is kept, because the database
    library looks up that user's password elsewhere (`PGPASSWORD`, `~/.pgpass`). The user of a web URL is removed: with
    a user in the URL, HTTP libraries would ignore the user and password of the environment.
    """
    scheme = _SCHEME.match(value)
    if scheme:
        value = _redact_url(scheme[0], value[scheme.end() :])
    elif _IS_ODBC.fullmatch(value):
        value = _ODBC.sub(r"\g<name>", value)
    return redact_passwords(value)


def redact_tree(value: Any) -> Any:
    """Remove the passwords from every string of plain data; see `redact_value`."""
    if isinstance(value, Mapping):
        return {name: redact_tree(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_tree(item) for item in value]
    return redact_value(value) if isinstance(value, str) else value


def redact_override(override: str) -> str:
    """Remove the passwords from a `PATH=VALUE` assignment."""
    path, equals, value = override.partition("=")
    return f"{path}{equals}{redact_value(value)}"


def redact_yaml(text: str) -> str:
    """Remove the passwords from the text of a spec: from its values by their positions, and from its comments."""
    try:
        values = list(_scalars(yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))))
    except (yaml.YAMLError, RecursionError):
        values = []
    for node in sorted(values, key=lambda node: -int(node.start_mark.index)):
        redacted = redact_value(node.value)
        if redacted != node.value:
            line_end = "\n" if node.style in ("|", ">") else ""
            written = json.dumps(redacted, ensure_ascii=False) + line_end
            text = text[: node.start_mark.index] + written + text[node.end_mark.index :]
    return redact_passwords(text)


def _scalars(root: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    """Yield each scalar once; an alias is the node of its anchor."""
    seen, nodes = set[int](), [root]
    while nodes:
        node = nodes.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            yield node
        elif isinstance(node, yaml.SequenceNode):
            nodes += node.value
        elif isinstance(node, yaml.MappingNode):
            nodes += [part for pair in node.value for part in pair]


def redact_passwords(text: str) -> str:
    """Remove the passwords from the URLs and ODBC strings in a text, such as a message or a diff.

    A URL ends at white space, a double quote or an angle bracket; see `redact_value` for values.
    """
    return _ODBC_IN_TEXT.sub(lambda match: match["name"] or match["last"], _WORD.sub(_redact_word, text))


def _redact_word(match: re.Match[str]) -> str:
    word: str = match[0]
    if "://" not in word:
        return word
    starts = [scheme.start() for scheme in _SCHEME.finditer(word)]
    parts = [word[start:end] for start, end in zip([0, *starts], [*starts, len(word)], strict=True)]
    for index, part in enumerate(parts):
        scheme = _SCHEME.match(part)
        if scheme:
            parts[index] = _redact_url(scheme[0], part[scheme.end() :])
    return "".join(parts)


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


def is_loopback(host: str) -> bool:
    """Return True if only this machine can reach the address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _redact_url(scheme: str, rest: str) -> str:
    """Remove the password from a URL.

    Args:
        scheme: The scheme with `://`.
        rest: What follows.
    """
    end = _end_of_web_user(rest) if scheme.lower().startswith(_WEB) else _end_of_database_user(rest)
    if end >= 0:
        user = "" if scheme.lower().startswith(_WEB) else rest[:end].partition(":")[0]
        rest = (f"{user}@" if user else "") + rest[end + 1 :]
    rest = _ODBC_QUERY.sub(_redact_odbc_query, rest)
    return scheme + _QUERY.sub(r"\g<name>", rest)


def _end_of_web_user(rest: str) -> int:
    """Return the index of the `@` after user and password, or -1; like urllib, before the first slash.

    If what precedes the slash has no valid port, it is not a host but a user with a password that contains a slash.
    """
    end = rest.rfind("@", 0, _index(rest, "/"))
    if end >= 0:
        return end
    _, colon, port = rest[: min(_index(rest, mark) for mark in "/?#")].rpartition(":")
    return rest.rfind("@") if colon and not (port.rstrip(".,;)'") or "0").isdigit() and "]" not in port else -1


def _end_of_database_user(rest: str) -> int:
    """Return the index of the `@` after user and password, or -1 if there is no password.

    Like in SQLAlchemy, the user ends at the first colon, and the password at the next `@`; it may contain slashes. If
    no slash comes first, the password ends at the last `@` before the slash.
    """
    colon = rest.find(":")
    if colon < 0 or "/" in rest[:colon]:
        return -1
    return max(rest.find("@", colon), rest.rfind("@", colon, _index(rest, "/")))


def _index(text: str, mark: str) -> int:
    """Return the index of a mark, or the length of the text if the mark is missing."""
    index = text.find(mark)
    return len(text) if index < 0 else index


def _redact_odbc_query(match: re.Match[str]) -> str:
    value = unquote_plus(match["value"])
    redacted = _ODBC.sub(r"\g<name>", value)
    return f"{match['name']}{match['value'] if redacted == value else quote_plus(redacted)}"
