"""What is known of a trial that has a value, and how its parameters are named where there is little room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """Name each dotted path by its last parts, as few as tell it from the others."""
    names = {}
    for path in paths:
        parts = path.split(".")
        tails = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        names[path] = next(
            (tail for tail in tails if sum(f".{each}".endswith(f".{tail}") for each in paths) == 1), path
        )
    return names
