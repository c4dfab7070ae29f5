"""HTML components of the review page: image with boxes, summary, text, entities and segments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from runner.dataset.review.queue import ReviewItem, StateFilter
from runner.dataset.review.session import Session
from runner.images import open_image
from runner.records import Sample

NUM_PRELOADED = 2
"""Number of following samples whose images the browser loads in advance."""
MAX_NEAR = 8
"""Maximum number of near-duplicate images that the page shows for a sample."""
MAIN_IMAGE = "main"
"""The name of the main image in a URL; a segment is named by its letter."""

ImageUrl = Callable[[ReviewItem, str], str]
"""Returns the URL of an image of a sample: `MAIN_IMAGE`, or a segment's letter."""


@dataclass(frozen=True)
class SampleHtml:
    """The HTML of the page parts that change with each sample."""

    image: str
    summary: str
    details: str


def render_sample(session: Session, image_url: ImageUrl) -> SampleHtml:
    """Render the current sample of a session, which must have one.

    Args:
        session: The session of the page.
        image_url: Returns the URLs of images.
    """
    macros = _template_macros()
    view = _template_values(session, image_url)
    return SampleHtml(*(str(macro(view)) for macro in (macros.image, macros.summary, macros.details)))


def render_empty(session: Session, counts: Mapping[StateFilter, int], next_step: str) -> str:
    """Render the message that no sample matches the filters, or that the review is finished.

    Args:
        session: The session of the page.
        counts: The number of samples in each state.
        next_step: What to do after the review.
    """
    return str(_template_macros().empty(counts, session.state_filter, session.flag_filter, next_step))


def render_progress(session: Session, counts: Mapping[StateFilter, int]) -> str:
    """Render the number of samples in each state and the position of the current sample."""
    position = ""
    if session.position is not None and session.current is not None:
        position = f"sample {session.position + 1:,}, id {session.current.sample.id}"
    return str(_template_macros().progress(counts, position))


@cache
def _template_macros() -> Any:
    environment = Environment(
        loader=PackageLoader("runner.dataset.review", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("components.html.jinja").module


def _template_values(session: Session, image_url: ImageUrl) -> dict[str, Any]:
    item = session.current
    assert item is not None
    sample, summary = item.sample, session.summary
    size = _read_image_size(sample.image)
    return {
        "id": sample.id,
        "version": session.version,
        "image": image_url(item, MAIN_IMAGE) if size else None,
        "ratio": f"{size[0] / size[1]:.5f}" if size else "1",
        "boxes": _box_styles(session, sample, size) if size else [],
        "preload": [url for upcoming in session.upcoming(NUM_PRELOADED) for url in _image_urls(upcoming, image_url)],
        "state": session.state,
        "decision": session.decision,
        "flags": session.flags,
        "num_words": len((summary or "").split()),
        "summary": summary,
        "original": sample.summary if summary != sample.summary else None,
        "text": sample.text,
        "entities": sample.entities,
        "segments": [
            {
                "letter": segment.letter,
                "entity": segment.entity,
                "image": image_url(item, segment.letter) if segment.image else None,
                "wrong": session.is_wrong_box(segment),
            }
            for segment in sample.segments
        ],
        "near": [
            {"id": near.sample.id, "text": near.sample.text, "image": image_url(near, MAIN_IMAGE)}
            for near in [item, *session.near_duplicates[:MAX_NEAR]]
        ],
        "num_near": len(session.near_duplicates),
    }


def _image_urls(item: ReviewItem, image_url: ImageUrl) -> list[str]:
    paths = {MAIN_IMAGE: item.sample.image, **{segment.letter: segment.image for segment in item.sample.segments}}
    return [image_url(item, name) for name, path in paths.items() if path is not None]


def _read_image_size(path: Path | None) -> tuple[int, int] | None:
    """Read width and height in pixels; return None if there is no readable image."""
    try:
        if path is None:
            return None
        with open_image(path) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _box_styles(session: Session, sample: Sample, size: tuple[int, int]) -> list[dict[str, Any]]:
    """Return the style of each box; a smaller box is above a larger one, so that a click reaches it."""
    by_area = sorted(sample.segments, key=lambda segment: -_area(segment.box))
    ranks = {segment.letter: rank for rank, segment in enumerate(by_area, start=1)}
    return [
        {
            **_box_style(segment.letter, segment.box, size),
            "entity": segment.entity,
            "wrong": session.is_wrong_box(segment),
            "rank": ranks[segment.letter],
        }
        for segment in sample.segments
    ]


def _area(box: tuple[int, int, int, int]) -> int:
    left, top, right, bottom = box
    return (right - left) * (bottom - top)


def _box_style(letter: str, box: tuple[int, int, int, int], size: tuple[int, int]) -> dict[str, Any]:
    """Convert a box to percentages of the image, so that it fits at every display size."""
    left, top, right, bottom = box
    x_percent, y_percent = 100 / size[0], 100 / size[1]
    values = {
        "left": left * x_percent,
        "top": top * y_percent,
        "width": (right - left) * x_percent,
        "height": (bottom - top) * y_percent,
    }
    return {"letter": letter, **{name: f"{value:.3f}" for name, value in values.items()}}
