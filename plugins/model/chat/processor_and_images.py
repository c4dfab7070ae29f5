"""Inputs of a chat model: reads images, loads a checkpoint's processor, and trains a tokenizer for a small model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import transformers
from PIL import Image, ImageOps
from tokenizers import AddedToken
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    ProcessorMixin,
    Qwen2Tokenizer,
    TokenizersBackend,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from plugins.model.chat.find_checkpoint import read_json
from plugins.model.chat.settled_template import settle_template
from plugins.model.model_options_and_small_sizes import END_OF_TEXT, TURN_END, ChatFormat
from runner.errors import DataError, RequirementError
from runner.images import open_image, read_upright_size

ImageSize = tuple[int, int]
"""Height and width in pixels after correction of the orientation, in the order of transformers' image processors."""

_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""Exceptions that Pillow raises for files that are missing, damaged or too large."""


def load_image(path: Path, sample: str) -> Image.Image:
    """Load an image as RGB, with corrected orientation.

    Raises:
        DataError: The image cannot be read.
    """
    try:
        with open_image(path) as image:
            # Cameras store the rotation in an EXIF tag; the model should see the image as a person does.
            return ImageOps.exif_transpose(image).convert("RGB")
    except _UNREADABLE as error:
        raise unusable_image_error(path, sample, error) from error


def read_image_size(path: Path, sample: str) -> ImageSize:
    """Read an image's size from its header.

    Raises:
        DataError: The image cannot be read.
    """
    try:
        width, height = read_upright_size(path)
    except _UNREADABLE as error:
        raise unusable_image_error(path, sample, error) from error
    return height, width


def cached_image_size(path: Path, sample: str) -> ImageSize:
    """Return an image's size, cached until its file changes.

    Raises:
        DataError: The image cannot be read.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise unusable_image_error(path, sample, error) from error
    return _cached_image_size(path, (state.st_ino, state.st_size, state.st_mtime_ns), sample)


IMAGE_SIZE_CACHE_SIZE = 16_384
"""Number of cached image sizes, about 8 MB: checks, training and generation use the sizes of the same images."""


@lru_cache(IMAGE_SIZE_CACHE_SIZE)
def _cached_image_size(path: Path, state: tuple[int, int, int], sample: str) -> ImageSize:
    return read_image_size(path, sample)


def unusable_image_error(path: Path, sample: str, error: BaseException) -> DataError:
    """Create the error for an image that cannot be used."""
    return DataError(f"sample {sample}: image {path} cannot be used: {error}")


TEMPLATE_WORDS = "system\nYou are a helpful assistant.\nuser\nassistant\n"
"""The words of the templates, so that they are in every vocabulary."""

COMMON_LINE_SHARE = 0.25
"""Minimum share of the texts that contain a line for it to become one token."""

COMMON_LINE_WORDS = 4
"""Minimum number of words of such a line; shorter lines have few tokens anyway."""


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    chat_format: ChatFormat,
    tokenizer_class: type[TokenizersBackend] = Qwen2Tokenizer,
) -> TokenizersBackend:
    """Train a byte-level BPE tokenizer that splits words like a family's tokenizer.

    Merges are selected by count, ties by token id, so the same texts give the same tokenizer. Lines that many texts
    share, which are the fixed instructions of a prompt, become one token each. That halves the length of the published
    prompt, and the time to train a model that is too small to read instructions.

    Args:
        texts: Training texts: prompts and answers.
        vocab_size: Maximum number of tokens, including the 256 bytes and the special tokens.
        chat_format: Special tokens of the family, including `END_OF_TEXT` and `TURN_END`, and its template.
        tokenizer_class: The class with which transformers loads the family's tokenizers. It splits the words.

    Returns:
        A tokenizer with these special tokens and this template.
    """
    texts = list(texts)
    lines = _common_lines(texts)
    arguments: dict[str, Any] = {"vocab": {}, "merges": [], "eos_token": TURN_END, "pad_token": END_OF_TEXT}
    untrained = tokenizer_class(**arguments)
    trained: TokenizersBackend = untrained.train_new_from_iterator(  # type: ignore[no-untyped-call]
        _in_batches([TEMPLATE_WORDS, *texts]),
        vocab_size=vocab_size - len(lines),
        new_special_tokens=list(chat_format.special_tokens),
        show_progress=False,
    )
    trained.add_tokens([AddedToken(line, normalized=False) for line in lines])
    trained.chat_template = chat_format.template
    return trained


def _common_lines(texts: Sequence[str]) -> list[str]:
    counts = Counter(line for text in texts for line in set(text.splitlines()))
    return sorted(
        line
        for line, count in counts.items()
        if count >= COMMON_LINE_SHARE * len(texts) and len(line.split()) >= COMMON_LINE_WORDS
    )


def _in_batches(texts: Sequence[str], size: int = 1000) -> Iterator[Sequence[str]]:
    for start in range(0, len(texts), size):
        yield texts[start : start + size]


Processor = Any
"""An instance of one of transformers' processor classes, which do not declare most of their attributes."""

PROCESSOR_NAME_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
"""Files of a checkpoint that may name its processor, in the order in which transformers reads them."""

PROCESSOR_PARTS = ("image_processor", "tokenizer")
"""Parts of a processor without video and audio support."""


class _NoPart:
    """Stands for a part that a processor lacks, and has no settings."""

    font = ""  # the name of a file that Ernie 4.5's processor would copy

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class _ImageTextParts(ProcessorMixin):
    """Drops the parts for videos and audio that a processor hands to its base class, whatever their order."""

    all_parts: Sequence[str]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = dict(zip(self.all_parts, args, strict=False)) | kwargs
        unused = set(self.all_parts) - set(PROCESSOR_PARTS)
        kept = {name: value for name, value in given.items() if name not in unused}
        super().__init__(**kept)  # type: ignore[no-untyped-call]


def image_text_processor_class(processor_class: type[ProcessorMixin]) -> Any:
    """Derive a processor class that consists of an image processor and a tokenizer only.

    The derived class keeps the name of its base, which is written into a saved checkpoint.
    """
    base: Any = processor_class
    all_parts = base.get_attributes()  # in the order of the arguments
    parts = [part for part in all_parts if part in PROCESSOR_PARTS]

    def get_attributes(cls: type[ProcessorMixin]) -> list[str]:
        return parts

    # Some processors read settings of all their parts. As attributes of the class, these are not saved.
    placeholders = {part: _NoPart() for part in all_parts if part not in PROCESSOR_PARTS}
    members = {"get_attributes": classmethod(get_attributes), "all_parts": all_parts, **placeholders}
    return type(processor_class.__name__, (processor_class, _ImageTextParts), members)


def create_processor(processor_class: type[ProcessorMixin], parts: Mapping[str, Any], **settings: Any) -> Processor:
    """Create a processor without video and audio support from its image processor and tokenizer.

    Args:
        processor_class: The family's class.
        parts: `image_processor` and `tokenizer`.
        settings: Further arguments of the class.
    """
    derived = image_text_processor_class(processor_class)
    return derived(*(parts.get(name) for name in derived.all_parts), **settings)


def load_processor(processor_class: type[ProcessorMixin], folder: Path) -> Processor:
    """Load a checkpoint's processor, and set its chat template, settled, in its tokenizer too.

    Images are always resized by Pillow, because other libraries compute other pixels.

    Raises:
        RequirementError: The processor does not run on this machine, or its files are missing or damaged.
    """
    derived = image_text_processor_class(processor_class)
    try:
        parts = {
            "image_processor": AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
                folder, backend="pil", trust_remote_code=False
            ),
            "tokenizer": AutoTokenizer.from_pretrained(folder, trust_remote_code=False),
        }
        settings, _ = derived.get_processor_dict(folder)
        processor = derived.from_args_and_dict([parts.get(name) for name in derived.all_parts], settings)
    except (ImportError, OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        if isinstance(error, KeyError):
            reason = f"the key {reason} is missing in one of its files"
        raise RequirementError(f"model.checkpoint: the processor of {folder} cannot be loaded ({reason})") from error
    template = processor.chat_template or processor.tokenizer.chat_template
    # If there are several templates, the one for plain chats is called `default`.
    default = template.get("default") if isinstance(template, dict) else template
    default = settle_template(default) if isinstance(default, str) else default
    processor.chat_template = processor.tokenizer.chat_template = default
    return processor


def find_processor_class(folder: Path, config: PreTrainedConfig) -> type[ProcessorMixin]:
    """Find the processor class that a checkpoint names, or that of its architecture.

    Raises:
        RequirementError: There is no such class.
    """
    for file in PROCESSOR_NAME_FILES:
        name = read_json(folder / file).get("processor_class") if (folder / file).is_file() else None
        # A checkpoint may name anything in transformers; only a class of processors is used.
        processor_class = getattr(transformers, name, None) if isinstance(name, str) else None
        if isinstance(processor_class, type) and issubclass(processor_class, ProcessorMixin):
            return processor_class
    mapping: Any = PROCESSOR_MAPPING
    if type(config) in mapping:
        return mapping[type(config)]  # type: ignore[no-any-return]  # a mapping that loads lazily
    raise RequirementError(
        f"model.checkpoint: transformers has no processor for {folder}, a model of type {config.model_type!r}"
    )
