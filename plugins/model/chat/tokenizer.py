"""A tokenizer trained on the texts at hand, for models with random weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from tokenizers import AddedToken
from transformers import Qwen2Tokenizer

from plugins.model.chat.wording import END_OF_TEXT, TURN_END, Wording

TEMPLATE_WORDS = "system\nYou are a helpful assistant.\nuser\nassistant\n"
"""The templates' own words, so that they are in every vocabulary."""

COMMON_SHARE = 0.25
"""Share of the texts in which a line must stand to become a token of its own."""

COMMON_WORDS = 4
"""Words that such a line must have; shorter ones are cheap as they are."""


def train_tokenizer(texts: Iterable[str], vocab_size: int, wording: Wording) -> Qwen2Tokenizer:
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
