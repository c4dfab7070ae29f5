"""Which model types of transformers passed the project's test, and why others are refused. Imports nothing heavy.

The command `python -m bench.model_matrix --write` writes the file with the results, and the table in docs/models.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal

RESULTS_FILE = Path(__file__).with_suffix(".json")

Result = Literal["passes", "refused", "fails", "not tried"]


@dataclass(frozen=True)
class TypeResult:
    """The result of the test of one model type.

    Attributes:
        result: `passes`; `refused` with an error of the product; `fails` in one of the checks; `not tried`.
        plugin: The plugin of the stage `model` that loads checkpoints of this type.
        detail: Why it does not pass; or what it needs.
    """

    result: Result
    plugin: str
    detail: str = ""


@cache
def type_results() -> Mapping[str, TypeResult]:
    """Return the results by transformers' name of the type."""
    content = json.loads(RESULTS_FILE.read_text(encoding="utf-8"))
    return {name: TypeResult(**values) for name, values in content["types"].items()}


def refusal(model_type: str, *, untested: bool) -> str | None:
    """Say why checkpoints of a model type are refused.

    Args:
        model_type: Transformers' name of the type.
        untested: Whether the user accepts types that were never tried. Types that fail are refused all the same.

    Returns:
        The reason and what would be right; None if checkpoints of the type can be used.
    """
    tested = type_results().get(model_type)
    if tested is not None and tested.result == "passes":
        return None
    if tested is not None and tested.result != "not tried":
        return (
            f"checkpoints of the type {model_type!r} are refused: {tested.detail}; use another model (docs/models.md)"
        )
    if untested:
        return None
    reason = f": {tested.detail}" if tested is not None else ""
    near = get_close_matches(model_type, [name for name, each in type_results().items() if each.result == "passes"], 1)
    return (
        f"checkpoints of the type {model_type!r} are untested{reason}. Use a type of the table in docs/models.md"
        f"{f', such as {near[0]}' if near else ''}, or set model.untested: true and compare the results yourself"
    )


def folder_model_type(folder: Path) -> str | None:
    """Return the model type in a checkpoint's configuration; None if there is no readable one."""
    try:
        content: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    model_type = content.get("model_type") if isinstance(content, dict) else None
    return model_type if isinstance(model_type, str) else None
