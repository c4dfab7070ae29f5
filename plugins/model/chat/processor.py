"""The processor of a model: loading it, training a small tokenizer, and the lock that detects changed settings."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import transformers
from tokenizers import AddedToken
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Qwen2Tokenizer,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from plugins.model.chat.small_models import END_OF_TEXT, TURN_END, ChatWording
from plugins.model.chat.template import ChatTemplate
from runner.errors import RequirementError

TEMPLATE_WORDS = "system\nYou are a helpful assistant.\nuser\nassistant\n"
"""The templates' own words, so that they are in every vocabulary."""

COMMON_SHARE = 0.25
"""Share of the texts in which a line must stand to become a token of its own."""

COMMON_WORDS = 4
"""Words that such a line must have; shorter ones are cheap as they are."""


def train_tokenizer(texts: Iterable[str], vocab_size: int, wording: ChatWording) -> Qwen2Tokenizer:
    """Train a byte-level BPE that cuts text into words as Qwen2's does.

    Merges are chosen by count and ties by token id, so the same texts give the same tokenizer. Lines that many
    texts share, which are the fixed instructions of a prompt, become one token each: that halves the published
    prompt's sequences, and with them the time to train a model too small to read instructions.

    Args:
        texts: What the model is to read and write.
        vocab_size: Upper limit of its tokens, the 256 bytes and the special tokens included.
        wording: Of the family; `END_OF_TEXT` and `TURN_END` are among its special tokens.

    Returns:
        A tokenizer with those special tokens, and that template.
    """
    texts = list(texts)
    lines = _common_lines(texts)
    untrained = Qwen2Tokenizer(vocab={}, merges=[], eos_token=TURN_END, pad_token=END_OF_TEXT)
    trained: Qwen2Tokenizer = untrained.train_new_from_iterator(  # type: ignore[no-untyped-call]
        _in_batches([TEMPLATE_WORDS, *texts]),
        vocab_size=vocab_size - len(lines),
        new_special_tokens=list(wording.special_tokens),
        show_progress=False,
    )
    trained.add_tokens([AddedToken(line, normalized=False) for line in lines])
    trained.chat_template = wording.template
    return trained


def _common_lines(texts: Sequence[str]) -> list[str]:
    counts = Counter(line for text in texts for line in set(text.splitlines()))
    return sorted(
        line
        for line, count in counts.items()
        if count >= COMMON_SHARE * len(texts) and len(line.split()) >= COMMON_WORDS
    )


def _in_batches(texts: Sequence[str], size: int = 1000) -> Iterator[Sequence[str]]:
    for start in range(0, len(texts), size):
        yield texts[start : start + size]


Processor = Any
"""An instance of one of transformers' processor classes, which do not declare most of their attributes."""

NAMING_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
"""Files of a checkpoint that may name its processor, in the order in which transformers looks."""

PARTS = ("image_processor", "tokenizer")
"""What a processor for images alone is made of."""


def images_only(processor_class: type[ProcessorMixin]) -> Any:
    """Derive a processor that is made of an image processor and a tokenizer.

    It keeps the name of its base, which is written into a saved checkpoint.
    """
    known: Any = processor_class
    parts = [part for part in known.get_attributes() if part in PARTS]  # in the order of its arguments

    def get_attributes(cls: type[ProcessorMixin]) -> list[str]:
        return parts

    return type(processor_class.__name__, (processor_class,), {"get_attributes": classmethod(get_attributes)})


def load_processor(processor_class: type[ProcessorMixin], folder: Path) -> Processor:
    """Load a checkpoint's processor with its chat template, which its tokenizer then has too.

    Pictures are resized by Pillow whatever else is installed, as other libraries give other pixels.

    Raises:
        UnmetError: Transformers has no such processor for this machine, or its files are missing or broken.
    """
    derived = images_only(processor_class)
    try:
        made = {
            "image_processor": AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
                folder, backend="pil", trust_remote_code=False
            ),
            "tokenizer": AutoTokenizer.from_pretrained(folder, trust_remote_code=False),
        }
        settings, _ = derived.get_processor_dict(folder)
        processor = derived.from_args_and_dict([made[part] for part in derived.get_attributes()], settings)
    except (ImportError, OSError, ValueError, TypeError, AttributeError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        raise RequirementError(f"model.checkpoint: the processor of {folder} cannot be loaded ({reason})") from error
    template = processor.chat_template or processor.tokenizer.chat_template
    # Where there are several, the one for plain chats is called default.
    plain = template.get("default") if isinstance(template, dict) else template
    processor.chat_template = processor.tokenizer.chat_template = plain
    return processor


def named_processor_class(folder: Path, config: PreTrainedConfig) -> type[ProcessorMixin]:
    """Find the processor that a checkpoint names, or that of its architecture.

    Raises:
        UnmetError: There is none.
    """
    for file in NAMING_FILES:
        written = json.loads((folder / file).read_text(encoding="utf-8")) if (folder / file).is_file() else {}
        named = getattr(transformers, written.get("processor_class") or "", None)
        if named is not None:
            return named  # type: ignore[no-any-return]  # transformers' names are read at run time
    by_architecture: Any = PROCESSOR_MAPPING
    if type(config) in by_architecture:
        return by_architecture[type(config)]  # type: ignore[no-any-return]  # a mapping that loads lazily
    raise RequirementError(
        f"model.checkpoint: transformers knows no processor for {folder}, a model of type {config.model_type!r}"
    )


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
        raise RequirementError(
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
