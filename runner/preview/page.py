"""Writes samples to one self-contained page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image, ImageOps

from runner.preview.sample import ShownSample

THUMBNAIL = 240
"""The longer side of a picture on the page, in pixels."""


def write_page(file: Path, title: str, samples: Iterator[ShownSample]) -> None:
    """Write a page sample by sample, so that a whole split does not fill the memory.

    Args:
        file: Written anew; its folder is made.
        title: What is shown.
        samples: Each is taken once.
    """
    environment = Environment(
        loader=PackageLoader("runner.preview", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_url"] = data_url
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8") as stream:
        for part in environment.get_template("page.html.jinja").generate(title=title, samples=samples):
            stream.write(part)


def data_url(path: Path) -> str:
    """A small copy of an image that stands in the page itself; nothing where it cannot be read."""
    try:
        with Image.open(path) as image:
            small = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    written = io.BytesIO()
    small.save(written, "JPEG", quality=75)
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode('ascii')}"
