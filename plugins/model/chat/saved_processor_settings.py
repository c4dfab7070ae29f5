"""Stores the settings that determine a model's inputs beside its weights (the processor lock), and compares them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import (
    PreTrainedTokenizerBase,
)

from plugins.model.chat.find_checkpoint import read_json
from plugins.model.chat.processor_and_images import Processor
from plugins.model.chat.template import ChatTemplate
from runner.errors import RequirementError

LOCK_FILE = "processor_lock.json"


IGNORED_SETTINGS = {"image_processor_type", "processor_class", "image_processor", "auto_map"}
"""Settings of a processor that name classes, or that are in the lock already."""


EXCERPT_LENGTH = 40
"""Half the number of characters shown of a long value, around the first difference."""


_MISSING = object()


def write_lock(folder: Path, processor: Processor) -> None:
    """Store the processor settings of a trained model next to its weights."""
    text = json.dumps(_lock_content(processor), indent=2, sort_keys=True, ensure_ascii=False)
    (folder / LOCK_FILE).write_text(text + "\n", encoding="utf-8")


def check_lock(folder: Path, processor: Processor) -> None:
    """Compare a processor with the stored settings of the training, if the folder has them.

    Raises:
        RequirementError: Fields differ; each is listed with both values.
    """
    file = folder / LOCK_FILE
    if not file.is_file():
        return
    trained = dict(_leaves(read_json(file)))
    current = dict(_leaves(_lock_content(processor)))
    differences = [
        f"  {field}: trained with {before}, now {after}"
        for field in sorted(trained.keys() | current.keys())
        if trained.get(field, _MISSING) != current.get(field, _MISSING)
        for before, after in [_excerpts(trained.get(field, _MISSING), current.get(field, _MISSING))]
    ]
    if differences:
        raise RequirementError(
            f"{folder}: the inputs of the model would differ from those in training:\n"
            + "\n".join(differences)
            + "\nRestore them in the spec's section `model` or in the folder's files, or train again with them"
        )


def _lock_content(processor: Processor) -> dict[str, Any]:
    """Return everything that determines the model's inputs, as plain data."""
    content = {
        "pixels": _settings(processor.image_processor.to_dict()),
        "image_tokens": _settings(processor.to_dict()),
        "chat_template": processor.tokenizer.chat_template,
        "system_prompt": ChatTemplate(processor.tokenizer, processor.image_token).system_prompt(),
        "tokenizer": _tokenizer_content(processor.tokenizer),
    }
    plain: dict[str, Any] = json.loads(json.dumps(content, default=str))
    return plain


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in IGNORED_SETTINGS and not name.startswith("_")}


def _tokenizer_content(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return digests of vocabulary, merges and rules, and the added tokens in full."""
    added = tokenizer.get_added_vocab()
    vocabulary = {token: index for token, index in tokenizer.get_vocab().items() if token not in added}
    backend = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {}
    rules = {part: backend.get(part) for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder")}
    return {
        "vocabulary": _digest(vocabulary),
        "merges": _digest(backend.get("model", {}).get("merges")),
        "rules": _digest(rules),
        "added_tokens": added,
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of plain data by dotted path, without unset values."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _leaves(item, f"{path}.{name}" if path else name)
    elif value is not None:
        yield path, value


def _excerpts(trained: Any, current: Any) -> tuple[str, str]:
    """Return both values as text; long values are cut to an excerpt around the first difference."""
    first, second = ("nothing" if value is _MISSING else repr(value) for value in (trained, current))
    index = next((index for index, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), 0)
    return _excerpt(first, index), _excerpt(second, index)


def _excerpt(text: str, index: int) -> str:
    if len(text) <= 2 * EXCERPT_LENGTH:
        return text
    start = max(0, index - EXCERPT_LENGTH // 2)
    head, tail = "…" if start else "", "…" if start + 2 * EXCERPT_LENGTH < len(text) else ""
    return f"{head}{text[start : start + 2 * EXCERPT_LENGTH]}{tail}"
