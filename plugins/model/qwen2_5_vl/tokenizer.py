"""A Qwen2 tokenizer trained on the texts at hand, for models with random weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

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


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Qwen2Tokenizer:
    """Train a byte-level BPE that cuts text into words as Qwen2's does.

    Merges are chosen by count and ties by token id, so the same texts give the same tokenizer.

    Args:
        texts: What the model is to read and write.
        vocab_size: Upper limit of its tokens, the 256 bytes and the special tokens included.

    Returns:
        A tokenizer with Qwen2.5-VL's special tokens and a minimal chat template.
    """
    untrained = Qwen2Tokenizer(vocab={}, merges=[], eos_token=TURN_END, pad_token=END_OF_TEXT)
    trained: Qwen2Tokenizer = untrained.train_new_from_iterator(  # type: ignore[no-untyped-call]
        _in_batches([TEMPLATE_WORDS, *texts]),
        vocab_size=vocab_size,
        new_special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    trained.chat_template = CHAT_TEMPLATE
    return trained


def _in_batches(texts: list[str], size: int = 1000) -> Iterator[list[str]]:
    remaining = iter(texts)
    while batch := list(islice(remaining, size)):
        yield batch
