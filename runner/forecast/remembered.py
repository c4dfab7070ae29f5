"""Keeps what a plan foretells: it follows from what it is made of, and working it out takes torch and seconds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from runner.errors import DataError, UnmetError
from runner.files import write_json
from runner.fingerprint import fingerprint
from runner.plan import Survey
from runner.provenance import code_hash, installed_packages
from runner.registry import find
from runner.spec.models import ExperimentSpec

NOT_HAD = "not had"
"""Before the reason, in the place of what cannot be had."""

MOST_KEPT = 200
"""Plans that are kept, the newest ones; each is a few kilobytes."""


def made_of(spec: ExperimentSpec, survey: Survey) -> dict[str, Any]:
    """All that a plan is worked out of.

    Returns:
        The spec; the content of data and model, or why they cannot be had; every installed package with its version;
        and the code of this project and of each plugin that the spec names.
    """
    tops = {find(each.stage, each.type).entry.module.partition(".")[0] for each in spec.sections()}
    return {
        "spec": spec.as_json(),
        "data": _or_why_not(lambda: survey.dataset(spec.data).fingerprint),
        "model": _or_why_not(lambda: survey.revision(spec)),
        "packages": installed_packages(),
        "code": {name: code_hash(name) for name in sorted({"runner", *tops})},
    }


def _or_why_not(look: Callable[[], str]) -> str:
    try:
        return look()
    except (DataError, UnmetError) as error:
        return f"{NOT_HAD}: {error}"


def lasts(parts: Mapping[str, Any], told: Mapping[str, Any]) -> bool:
    """Whether what was told follows from the parts alone: a checkpoint's files may have been away that are there."""
    is_estimated = bool(told.get("tokens", {}).get("estimated"))
    return NOT_HAD in f"{parts['data']}{parts['model']}" or not (is_estimated or told["unmet"])


def remembered(folder: Path, parts: Mapping[str, Any], work_out: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Give what was worked out of the same parts before, or work it out and keep it.

    Args:
        folder: Where it is kept, by a hash of the parts; one that cannot be written to keeps nothing.
        parts: See `made_of`.
        work_out: Gives plain data; what does not last is not kept, see `lasts`.
    """
    file = folder / f"{fingerprint(parts)}.json"
    with suppress(OSError, ValueError):
        return dict(json.loads(file.read_text(encoding="utf-8")))
    told = work_out()
    if not lasts(parts, told):
        return told
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, told)
        for old in sorted(folder.glob("*.json"), key=lambda each: each.stat().st_mtime)[:-MOST_KEPT]:
            old.unlink(missing_ok=True)
    return told
