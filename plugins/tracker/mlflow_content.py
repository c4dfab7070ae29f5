"""Fits what the engine tells of a run to what MLflow takes: names, lengths, parameters, tags, data sets."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Param
from mlflow.utils.validation import (
    MAX_DATASET_DIGEST_SIZE,
    MAX_DATASET_NAME_SIZE,
    MAX_ENTITY_KEY_LENGTH,
    MAX_PARAM_VAL_LENGTH,
    MAX_TAG_VAL_LENGTH,
)

from runner.stages import DatasetInfo

CONTEXTS = {"train": "training", "test": "testing"}
"""MLflow's words for what a split is for; others are their own."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
"""What PostgreSQL does not take in a text, and what UTF-8 cannot write."""


def fitted_key(name: str) -> str:
    """Write a name with the letters that MLflow allows, in the length that it allows.

    One that had to be changed carries six digits of its own hash, so that no two names become one.
    """
    allowed = re.sub(r"[^\w/.\- :]", "_", name)
    # It reads names as paths, which must be in their simplest form.
    parts = [part for part in allowed.split("/") if part not in ("", ".", "..")]
    fitted = "/".join(parts)
    if fitted == name and 0 < len(name) <= MAX_ENTITY_KEY_LENGTH:
        return name
    mark = hashlib.sha256(name.encode("utf-8", errors="backslashreplace")).hexdigest()[:6]
    return f"{fitted[: MAX_ENTITY_KEY_LENGTH - 7].rstrip('/') or '_'}-{mark}"


def fitted_text(text: str, limit: int) -> str:
    """Write a text so that every store takes it, cut where it is too long."""
    plain = _UNSTORABLE.sub("\ufffd", text)
    return plain if len(plain) <= limit else f"{plain[: limit - 1]}…"


def parameters(plan: Mapping[str, Any]) -> list[Param]:
    """Write a flattened plan as parameters: strings as they are, other values as JSON, the longest cut.

    The plan itself, which is an artifact, keeps them whole.
    """
    return [Param(fitted_key(path), fitted_text(_text(value), MAX_PARAM_VAL_LENGTH)) for path, value in plan.items()]


def description(plan: Mapping[str, Any], chosen: Collection[str]) -> str:
    """Describe a run by its settings that are no defaults, in Markdown: MLflow shows that above everything else.

    MLflow sorts parameters by name and can pin none, and a prefix would be in the way of who searches them: every value
    of the plan is a parameter by its own path, default or not.
    """
    rows = [f"| `{path}` | {_cell(_text(value))} |" for path, value in plan.items() if path in chosen]
    head = "What the spec sets; all else is a default.\n\n| setting | value |\n|---|---|\n"
    while rows and len(head) + sum(len(row) + 1 for row in rows) > MAX_TAG_VAL_LENGTH:
        rows.pop()
    return fitted_text(head + "\n".join(rows), MAX_TAG_VAL_LENGTH)


def _cell(text: str) -> str:
    return fitted_text(" ".join(text.split()), 200).replace("|", "\\|")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def dataset_inputs(info: DatasetInfo, *, trained: bool) -> Iterator[DatasetInput]:
    """Describe the splits of the data set; its fingerprint, as long as MLflow lets it be, is their digest.

    Args:
        info: The data set.
        trained: Whether its training split is used.
    """
    for split, number in info.num_samples.items():
        if split == "train" and not trained:
            continue
        told = {
            "num_samples": number,
            "split": split,
            "labels": list(info.labels),
            "fingerprint": info.fingerprint,
        }
        dataset = Dataset(
            # Of two inputs with one name and digest MLflow keeps the first alone.
            name=fitted_text(f"{info.name}/{split}", MAX_DATASET_NAME_SIZE),
            digest=info.fingerprint[:MAX_DATASET_DIGEST_SIZE],
            source_type="local",
            source=json.dumps({"uri": info.location}),
            profile=json.dumps(told),
        )
        yield DatasetInput(dataset, [InputTag("mlflow.data.context", CONTEXTS.get(split, split))])
