"""Transformers' own processor of a checkpoint, for images alone: what reads videos would need torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, AutoTokenizer, ProcessorMixin

from runner.errors import UnmetError

Processor = Any
"""An instance of one of transformers' processor classes, which do not declare most of their attributes."""

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
                folder, backend="pil"
            ),
            "tokenizer": AutoTokenizer.from_pretrained(folder),
        }
        settings, _ = derived.get_processor_dict(folder)
        processor = derived.from_args_and_dict([made[part] for part in derived.get_attributes()], settings)
    except (ImportError, OSError, ValueError, TypeError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        raise UnmetError(f"model.checkpoint: the processor of {folder} cannot be loaded ({reason})") from error
    template = processor.chat_template or processor.tokenizer.chat_template
    # Where there are several, the one for plain chats is called default.
    plain = template.get("default") if isinstance(template, dict) else template
    processor.chat_template = processor.tokenizer.chat_template = plain
    return processor
