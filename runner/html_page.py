"""Writes self-contained HTML pages from Jinja templates, with images embedded as data URLs."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import IO, Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from PIL import Image, ImageOps

from runner.errors import RequirementError
from runner.images import open_image

THUMBNAIL_PIXELS = 240
"""The longer side of an image on the page, in pixels."""


def render_page(file: Path, template: str, **values: Any) -> None:
    """Write a page from a template in parts, so that a large page is never in memory as a whole.

    Raises:
        RequirementError: The file cannot be written.
    """
    with _open_for_writing(file) as stream:
        for part in page_template(template, THUMBNAIL_PIXELS).generate(**values):
            stream.write(part)


def page_template(name: str, side: int) -> Template:
    """Load a template of `runner/templates`; its filter `data_url` embeds thumbnails of `side` pixels."""
    environment = Environment(
        loader=PackageLoader("runner", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_url"] = lambda path: data_url(path, side)
    return environment.get_template(name)


def _open_for_writing(file: Path) -> IO[str]:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return file.open("w", encoding="utf-8")
    except OSError as error:
        raise RequirementError(
            f"--html {file}: cannot be written ({error.strerror}); choose a file in another folder"
        ) from error


def data_url(path: Path, side: int) -> str:
    """Return a thumbnail of an image as a data URL; an empty string if the image cannot be read.

    Args:
        path: The image.
        side: The maximum length of the thumbnail's longer side, in pixels.
    """
    try:
        with open_image(path) as image:
            small = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=75)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
