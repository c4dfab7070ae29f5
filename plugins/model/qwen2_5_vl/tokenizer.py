"""A Qwen2 tokenizer trained on the texts at hand, for models with random weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from tokenizers import AddedToken
from transformers import Qwen2Tokenizer

END_OF_TEXT = "<|endoftext|>"
TURN_END = "<|im_end|>"
IMAGE_PAD = "<|image_pad|>"
VIDEO_PAD = "<|video_pad|>"
VISION_START = "<|vision_start|>"
VISION_END = "<|vision_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, "<|im_start|>", TURN_END, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD)
"""The special tokens of Qwen2.5-VL that a chat with images needs."""

CHAT_TEMPLATE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Turns in the shape of Qwen2.5-VL's: images between vision marks, a turn between `im_start` and `im_end`."""

TEMPLATE_WORDS = "system\nYou are a helpful assistant.\nuser\nassistant\n"
"""The template's own words, so that they are in every vocabulary."""


COMMON_SHARE = 0.25
"""Share of the texts in which a line must stand to become a token of its own."""

COMMON_WORDS = 4
"""Words that such a line must have; shorter ones are cheap as they are."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Qwen2Tokenizer:
    """Train a byte-level BPE that cuts text into words as Qwen2's does.

    Merges are chosen by count and ties by token id, so the same texts give the same tokenizer. Lines that many
    texts share, which are the fixed instructions of a prompt, become one token each: that halves the published
    prompt's sequences, and with them the time to train a model too small to read instructions.

    Args:
        texts: What the model is to read and write.
        vocab_size: Upper limit of its tokens, the 256 bytes and the special tokens included.

    Returns:
        A tokenizer with Qwen2.5-VL's special tokens and a minimal chat template.
    """
    texts = list(texts)
    lines = _common_lines(texts)
    untrained = Qwen2Tokenizer(vocab={}, merges=[], eos_token=TURN_END, pad_token=END_OF_TEXT)
    trained: Qwen2Tokenizer = untrained.train_new_from_iterator(  # type: ignore[no-untyped-call]
        _in_batches([TEMPLATE_WORDS, *texts]),
        vocab_size=vocab_size - len(lines),
        new_special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    trained.add_tokens([AddedToken(line, normalized=False) for line in lines])
    trained.chat_template = CHAT_TEMPLATE
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
