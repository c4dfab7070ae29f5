"""Identity by content: a hash over canonical JSON of all that can change a number."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from runner.errors import PluginError
from runner.stages import OutsideFingerprint


def fingerprint(value: Any) -> str:
    """Hash a value of plain data.

    Returns:
        SHA-256 over its canonical JSON, in hexadecimal.

    Raises:
        PluginError: It holds something that has no stable serialisation, such as a set or NaN.
    """
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """Write plain data as JSON in one way only: sorted keys, no white space, no NaN; see `fingerprint`."""
    return json.dumps(_checked(value, "value"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def identity(options: BaseModel) -> dict[str, Any]:
    """The options that can change a number: all but those marked `OutsideFingerprint`.

    The order of a mapping can matter (optimizer groups are matched in order), so mappings become lists of pairs.
    """
    return {
        name: _identity_value(getattr(options, name))
        for name, field in type(options).model_fields.items()
        if not _is_passed_over(field)
    }


def _is_passed_over(field: FieldInfo) -> bool:
    return any(isinstance(mark, OutsideFingerprint) for mark in field.metadata)


def _identity_value(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return identity(value)
    if isinstance(value, Mapping):
        return [[key, _identity_value(each)] for key, each in value.items()]
    if isinstance(value, list | tuple):
        return [_identity_value(each) for each in value]
    return value


def _checked(value: Any, place: str) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, list | tuple):
        return [_checked(each, f"{place}[{index}]") for index, each in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _checked(each, f"{place}.{key}") for key, each in value.items()}
    raise PluginError(
        f"{place} is {value!r} of type {type(value).__name__}, which has no stable serialisation; "
        "an option must be text, a finite number, true or false, or lists and mappings of those"
    )
