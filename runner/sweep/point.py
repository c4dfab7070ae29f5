"""What is known of a trial that has a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Point:
    """A trial that has a value.

    Attributes:
        parameters: By dotted path.
        value: The objective's.
    """

    parameters: Mapping[str, Any]
    value: float
