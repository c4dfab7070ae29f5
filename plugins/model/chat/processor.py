"""Transformers' own processor of a checkpoint, for images alone: what reads videos would need torchvision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoImageProcessor, AutoTokenizer, PreTrainedConfig, ProcessorMixin
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from runner.errors import UnmetError

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
        raise UnmetError(f"model.checkpoint: the processor of {folder} cannot be loaded ({reason})") from error
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
    raise UnmetError(
        f"model.checkpoint: transformers knows no processor for {folder}, a model of type {config.model_type!r}"
    )
