"""Fingerprints: a hash over the canonical JSON of everything that can change a result."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from runner.errors import PluginError
from runner.stages import OutsideFingerprint


def fingerprint(value: Any) -> str:
    """Hash a value of plain data.

    Returns:
        SHA-256 over its canonical JSON, in hexadecimal.

    Raises:
        PluginError: The value contains something without a stable serialisation, such as a set or NaN.
    """
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """Serialise plain data as canonical JSON: sorted keys, no white space, no NaN; see `fingerprint`."""
    return json.dumps(_check_plain(value, "value"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def fingerprinted_options(options: BaseModel) -> dict[str, Any]:
    """Return the options that can change a result: all except those marked `OutsideFingerprint`.

    The order of a mapping can matter (optimizer groups are matched in order), so mappings become lists of pairs.
    """
    return {
        name: _identity_value(getattr(options, name))
        for name, field in type(options).model_fields.items()
        if not any(isinstance(marker, OutsideFingerprint) for marker in field.metadata)
    }


def _identity_value(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return fingerprinted_options(value)
    if isinstance(value, Mapping):
        return [[key, _identity_value(item)] for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [_identity_value(item) for item in value]
    return value


def _check_plain(value: Any, path: str) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, list | tuple):
        return [_check_plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _check_plain(item, f"{path}.{key}") for key, item in value.items()}
    raise PluginError(
        f"{path} is {value!r} of type {type(value).__name__}, which has no stable serialisation; "
        "an option must be text, a finite number, true or false, or lists and mappings of those"
    )
