"""A prompt as chat messages of the OpenAI protocol, images inside as data URLs."""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from runner.errors import DataError
from runner.records import ImagePart, Rendered

Message = dict[str, Any]

KNOWN_FORMATS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
"""Formats that servers take; other files are sent as PNG."""

ORIENTATION = 0x0112
"""The tag in which a camera says that the picture is turned."""


def chat_messages(rendered: Rendered) -> list[Message]:
    """Write the solved examples as earlier turns, and the question as the last one.

    Raises:
        DataError: An image cannot be read.
    """
    messages: list[Message] = []
    for example in rendered.examples:
        messages += [_user(example), {"role": "assistant", "content": example.target}]
    return [*messages, _user(rendered)]


def _user(rendered: Rendered) -> Message:
    return {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": _data_url(part.path, rendered.id)}}
            if isinstance(part, ImagePart)
            else {"type": "text", "text": part.text}
            for part in rendered.content
        ],
    }


# Examples are the same for every question.
@lru_cache(maxsize=64)
def _data_url(path: Path, sample: str) -> str:
    """Inline a file as it is, where every server reads it as a person sees it; else as an upright PNG."""
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            kind = KNOWN_FORMATS.get(image.format or "")
            if kind is None or image.getexif().get(ORIENTATION, 1) != 1:
                content, kind = _upright_png(image), "image/png"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"sample {sample}: image {path} cannot be used: {error}") from error
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _upright_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    ImageOps.exif_transpose(image).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()
