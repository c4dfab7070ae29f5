"""Named small model sizes with random weights, for machines without a checkpoint, and their chat templates."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from math import isqrt
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"


@dataclass(frozen=True)
class ChatFormat:
    """Special tokens and chat template of a family's small sizes; a checkpoint has its own.

    Attributes:
        special_tokens: The end of a text, the end of an answer, and other tokens of the template.
        template: The chat template, in Jinja.
    """

    special_tokens: tuple[str, ...]
    template: str


def chat_template(image: str) -> str:
    """Return a ChatML template, the format of most families' own templates.

    Args:
        image: Text that the template writes for an image.
    """
    return (
        f"{TURN_START}system\nYou are a helpful assistant.{TURN_END}\n"
        f"{{% for message in messages %}}{TURN_START}{{{{ message.role }}}}\n"
        "{% for part in message.content %}"
        f"{{% if part.type == 'image' %}}{image}"
        "{% else %}{{ part.text }}{% endif %}"
        f"{{% endfor %}}{TURN_END}\n{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{TURN_START}assistant\n{{% endif %}}"
    )


Size = Literal["tiny", "smoke"]
"""Named sizes of models with random weights."""


@dataclass(frozen=True)
class SmallSize:
    """A size of an architecture; widths in units, image sizes in pixels.

    Attributes:
        text_width: Hidden size of the language model, also the width of the vision tower's output.
        text_layers: Decoder layers.
        text_heads: Attention heads, each `text_width / text_heads` wide.
        text_ffn: Width of the language model's feed-forward layers.
        text_init: Standard deviation of its initial weights. Models of this width do not learn with the usual 0.02.
        vision_width: Hidden size of the vision tower.
        vision_depth: Number of its blocks. In Qwen2.5-VL the last one attends over the whole image, others in windows.
        vision_heads: Its attention heads.
        vision_ffn: Width of its feed-forward layers.
        vision_init: Standard deviation of its initial weights.
        patch: Side of a patch. Two by two patches form one token, except in LLaVA, where each patch is one.
        min_pixels: Minimum image area; smaller images are enlarged.
        max_pixels: Maximum image area; larger images are reduced. In families that split images into tiles, the area
            of a tile.
        vocab_size: Maximum number of tokens of the tokenizer.
    """

    text_width: int
    text_layers: int
    text_heads: int
    text_ffn: int
    text_init: float
    vision_width: int
    vision_depth: int
    vision_heads: int
    vision_ffn: int
    vision_init: float
    patch: int
    min_pixels: int
    max_pixels: int
    vocab_size: int

    @property
    def tile(self) -> int:
        """Side of a tile, for families that split images into square tiles."""
        return isqrt(self.max_pixels)


SIZES: dict[Size, SmallSize] = {
    "tiny": SmallSize(
        text_width=96,
        text_layers=3,
        text_heads=4,
        text_ffn=192,
        text_init=0.06,
        vision_width=64,
        vision_depth=1,
        vision_heads=4,
        vision_ffn=128,
        vision_init=0.1,
        patch=8,
        min_pixels=16 * 16,
        max_pixels=64 * 64,
        vocab_size=1024,
    ),
    "smoke": SmallSize(
        text_width=32,
        text_layers=2,
        text_heads=2,
        text_ffn=64,
        text_init=0.06,
        vision_width=32,
        vision_depth=2,
        vision_heads=2,
        vision_ffn=64,
        vision_init=0.1,
        patch=8,
        min_pixels=16 * 16,
        max_pixels=48 * 48,
        vocab_size=512,
    ),
}


def size_digest(size: Size, chat_format: ChatFormat) -> str:
    """Hash everything that defines a size of a family.

    Returns:
        The first 12 hexadecimal digits of a SHA-256 over its values, special tokens and chat template.
    """
    content = json.dumps([asdict(SIZES[size]), list(chat_format.special_tokens), chat_format.template], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def text_config(small: SmallSize, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the language-model configuration that all families share for a size and a tokenizer."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": small.text_width,
        "num_hidden_layers": small.text_layers,
        "num_attention_heads": small.text_heads,
        "num_key_value_heads": small.text_heads,
        "intermediate_size": small.text_ffn,
        "initializer_range": small.text_init,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
