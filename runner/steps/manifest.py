"""The optimizer's manifest in short: what each group holds and how it learns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner.stages import ParameterRow


def by_group(rows: Sequence[ParameterRow]) -> list[dict[str, Any]]:
    """Sum a manifest up, a row a group in the order of the spec.

    Returns:
        `group`, `num_parameters` (all its weights), `num_trainable`, and `lr` and `weight_decay`, the largest in it;
        both are None in a group where nothing learns.
    """
    members: dict[str, list[ParameterRow]] = {}
    for row in rows:
        members.setdefault(row.group, []).append(row)
    return [_summed(group, each) for group, each in members.items()]


def _summed(group: str, rows: Sequence[ParameterRow]) -> dict[str, Any]:
    learning = [row for row in rows if row.trainable]
    return {
        "group": group,
        "num_parameters": sum(row.num_parameters for row in rows),
        "num_trainable": sum(row.num_parameters for row in learning),
        "lr": max((row.lr for row in learning if row.lr is not None), default=None),
        "weight_decay": max((row.weight_decay for row in learning if row.weight_decay is not None), default=None),
    }
