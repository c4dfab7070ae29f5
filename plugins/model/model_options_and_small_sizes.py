"""Options that all model families share, and the small sizes with random weights that replace a checkpoint."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from runner.files import resolve_path
from runner.stages import LocatedStr, ModelOptions, OutsideFingerprint, base_folder

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


def is_own_template(template: str) -> bool:
    """Return whether `chat_template` made a template, with whatever text for an image."""
    before, after = chat_template("\0").split("\0")
    image = template.removeprefix(before).removesuffix(after)
    return template == before + image + after and "{" not in image


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


def vision_config(small: SmallSize) -> dict[str, Any]:
    """Return the vision tower's configuration of a size, for families that cut images into square tiles."""
    return {
        "hidden_size": small.vision_width,
        "num_hidden_layers": small.vision_depth,
        "num_attention_heads": small.vision_heads,
        "intermediate_size": small.vision_ffn,
        "image_size": small.tile,
        "patch_size": small.patch,
    }


def _resolve_folder(value: object) -> object:
    """Make the path of a local folder absolute; leave a hub name unchanged."""
    if not isinstance(value, str):
        return value
    folder = resolve_path(value, base_folder(value))
    is_path = value.startswith((".", "/", "~"))
    return str(folder) if is_path or (isinstance(value, LocatedStr) and folder.is_dir()) else str(value)


ATTENTION_NAMES = ("sdpa", "eager", "flash_attention_2", "flash_attention_3")
_HUB_KERNEL = re.compile(r"kernels-community/[A-Za-z0-9_.-]+(@[A-Za-z0-9_.-]+)?")


def _check_attention_name(name: str) -> str:
    if name not in ATTENTION_NAMES and not _HUB_KERNEL.fullmatch(name):
        raise ValueError(
            f"{name!r} is no attention implementation; use {', '.join(ATTENTION_NAMES)}, or a kernel of the hub, such "
            "as kernels-community/flash-attn2"
        )
    return name


class ChatModelOptions(ModelOptions):
    """A vision-language model, loaded from a checkpoint or created in a small size with random weights."""

    chat_format: ClassVar[ChatFormat]
    """Special tokens and chat template of the family's small sizes."""

    checkpoint: Annotated[str | None, BeforeValidator(_resolve_folder), OutsideFingerprint()] = None
    """A model name on the Hugging Face Hub, or a local folder, relative to the folder of the spec. A value is a folder
    if it starts with `.`, `/` or `~`, or if a folder with this path exists. The fingerprint includes the hub commit or
    a hash of the folder's content, not this name."""

    size: Size | None = None
    """Size of a small model with random weights; set either `size` or `checkpoint`. `tiny` is the size in the demo: a
    Qwen2.5-VL model of this size learns the synthetic data in one to two minutes on two CPU cores. `smoke` is a smaller
    size that only tests the code. The tokenizer of a small model is trained on the training texts."""

    revision: Annotated[str, OutsideFingerprint()] = "main"
    """Branch, tag or commit of a checkpoint on the hub. The fingerprint includes the commit to which a branch or tag
    points."""

    pickled_weights: Annotated[bool, OutsideFingerprint()] = False
    """Whether the weights may be loaded from files in torch's pickle format (`pytorch_model.bin`), if the checkpoint
    has no weights in the safetensors format. Use this option only if you trust the author of the checkpoint."""

    attention: Annotated[str, AfterValidator(_check_attention_name)] = "sdpa"
    """Attention implementation in transformers: `sdpa`, `eager`, `flash_attention_2` or `flash_attention_3` (which need
    their package and a CUDA GPU), or a kernel of the hub, such as `kernels-community/flash-attn2` (which needs the
    package kernels and a CUDA GPU; a revision may follow after `@`). With `sdpa`, the Qwen-VL families use torch's
    attention for variable lengths on GPUs in half precision, so that no package is needed."""

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.checkpoint is None) == (self.size is None):
            problem = "both are set" if self.size else "neither is set"
            raise ValueError(
                f"set either `checkpoint` (a hub name or a local folder) or `size` (random weights); {problem}"
            )
        return self

    def exact_revision(self) -> str:
        """Identify the exact weights: a hub commit, a content hash, or `random:` with the size and its digest.

        Raises:
            RequirementError: The checkpoint is not available on this machine.
        """
        if self.checkpoint is None:
            assert self.size is not None
            return f"random:{self.size}:{size_digest(self.size, self.chat_format)}"
        from plugins.model.chat.find_checkpoint import hub_revision, local_folder, local_revision

        if Path(self.checkpoint).is_absolute():
            return local_revision(local_folder(self.checkpoint), pickled=self.pickled_weights)
        return hub_revision(self.checkpoint, self.revision)

    def pinned_to(self, revision: str) -> Self:
        """Return options that load the commit of a plan, although a branch or tag on the hub may have moved since."""
        if self.checkpoint is None or Path(self.checkpoint).is_absolute():
            return self
        return self.model_copy(update={"revision": revision})

    def smoke(self) -> Mapping[str, Any]:
        """Use the smallest size of the same architecture, without special kernels."""
        return {"checkpoint": None, "size": "smoke", "attention": "sdpa"}


class PixelOptions(ChatModelOptions):
    """A model that accepts images of any size. The number of patches depends on the image size."""

    min_pixels: Annotated[int, Field(gt=0)] | None = None
    """Minimum image area in pixels; smaller images are enlarged. Default: the value of the checkpoint or size."""

    max_pixels: Annotated[int, Field(gt=0)] | None = None
    """Maximum image area in pixels; larger images are reduced. Default: the value of the checkpoint or size."""

    @model_validator(mode="after")
    def _is_pixel_range(self) -> Self:
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError(
                f"min_pixels ({self.min_pixels}) must not be above max_pixels ({self.max_pixels}); both are areas"
            )
        return self

    def smoke(self) -> Mapping[str, Any]:
        """Use the smallest size of the same architecture, with small images and without special kernels."""
        return {**super().smoke(), "min_pixels": None, "max_pixels": None}
