"""The processor lock: what pixels, template and tokenizer a model was trained with, compared when it is loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from plugins.model.chat.processor import Processor
from plugins.model.chat.template import ChatTemplate
from runner.errors import UnmetError

LOCK_FILE = "processor_lock.json"

UNTOLD = {"image_processor_type", "processor_class", "image_processor", "auto_map"}
"""Entries of a processor's settings that name classes, or stand in the lock already."""

EXCERPT = 40
"""Characters shown of a value, from a little before the first one that differs."""

_MISSING = object()


def write_lock(folder: Path, processor: Processor) -> None:
    """Write down what a model was trained with, beside its weights."""
    text = json.dumps(_described(processor), indent=2, sort_keys=True, ensure_ascii=False)
    (folder / LOCK_FILE).write_text(text + "\n", encoding="utf-8")


def check_lock(folder: Path, processor: Processor) -> None:
    """Compare what a model is to generate with to what it was trained with, where that was written down.

    Raises:
        UnmetError: Something differs; each field is told with both values.
    """
    file = folder / LOCK_FILE
    if not file.is_file():
        return
    before = dict(_leaves(json.loads(file.read_text(encoding="utf-8"))))
    now = dict(_leaves(_described(processor)))
    told = [
        f"  {field}: trained with {was}, now {becomes}"
        for field in sorted(before.keys() | now.keys())
        if before.get(field, _MISSING) != now.get(field, _MISSING)
        for was, becomes in [_shown(before.get(field, _MISSING), now.get(field, _MISSING))]
    ]
    if told:
        raise UnmetError(
            f"{folder}: the model would not be shown its prompts as it was in training:\n"
            + "\n".join(told)
            + "\nRestore these, in the spec's section `model` or in the folder's files, or train again with them"
        )


def _described(processor: Processor) -> dict[str, Any]:
    """All that decides how a sample becomes the model's input, as plain data."""
    written = {
        "pixels": _settings(processor.image_processor.to_dict()),
        "image_tokens": _settings(processor.to_dict()),
        "chat_template": processor.tokenizer.chat_template,
        "system_prompt": ChatTemplate(processor.tokenizer, processor.image_token).system_prompt(),
        "tokenizer": _tokenizer(processor.tokenizer),
    }
    plain: dict[str, Any] = json.loads(json.dumps(written, default=str))
    return plain


def _settings(told: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if name not in UNTOLD and not name.startswith("_")}


def _tokenizer(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Digests of vocabulary, merges and rules, and the added tokens one by one."""
    added = tokenizer.get_added_vocab()
    vocabulary = {token: place for token, place in tokenizer.get_vocab().items() if token not in added}
    inner = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {}
    rules = {part: inner.get(part) for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder")}
    return {
        "vocabulary": _digest(vocabulary),
        "merges": _digest(inner.get("model", {}).get("merges")),
        "rules": _digest(rules),
        "added_tokens": added,
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _leaves(value: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of plain data by dotted path; what is unset is as if it were not there."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _leaves(each, f"{above}.{name}" if above else name)
    elif value is not None:
        yield above, value


def _shown(before: Any, now: Any) -> tuple[str, str]:
    """Both values, cut to where they begin to differ if they are long."""
    first, second = ("nothing" if each is _MISSING else repr(each) for each in (before, now))
    same = next((place for place, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), 0)
    return _excerpt(first, same), _excerpt(second, same)


def _excerpt(text: str, place: int) -> str:
    if len(text) <= 2 * EXCERPT:
        return text
    start = max(0, place - EXCERPT // 2)
    head, tail = "…" if start else "", "…" if start + 2 * EXCERPT < len(text) else ""
    return f"{head}{text[start : start + 2 * EXCERPT]}{tail}"
