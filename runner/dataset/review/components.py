"""HTML components of the review page: image with boxes, summary, text, entities and segments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from runner.dataset.review.queue import Candidate, Show
from runner.dataset.review.session import Session

PRELOADED = 2
"""Samples ahead whose pictures a browser loads while a reviewer looks at this one."""
MAIN = "main"
"""What the main image is called in an address; a segment is called by its letter."""

PictureUrl = Callable[[Candidate, str], str]
"""The address of a candidate's picture: `MAIN`, or a segment's letter."""


@dataclass(frozen=True)
class TemplateMacros:
    """What changes on the page with each sample, as HTML."""

    picture: str
    summary: str
    details: str


def sample_components(session: Session, url: PictureUrl) -> TemplateMacros:
    """Write the sample that a session shows; it shows one.

    Args:
        session: The page's.
        url: Where its pictures are served.
    """
    written = _template()
    view = _view(session, url)
    return TemplateMacros(*(str(piece(view)) for piece in (written.picture, written.summary, written.details)))


def empty_component(session: Session, states: Mapping[Show, int], then: str) -> str:
    """Say that no sample is left of those that a session goes through, and what to do then."""
    return str(_template().nothing(states, session.show, session.flag, then))


def progress_component(session: Session, states: Mapping[Show, int]) -> str:
    """Write how far the review is, and where this page stands in it."""
    at = "" if session.position is None else f"sample {session.position + 1:,}, id {_id(session)}"
    return str(_template().progress(states, at))


def _id(session: Session) -> str:
    assert session.current is not None
    return session.current.sample.id


@cache
def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("runner.dataset.review", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("components.html.jinja").module


def _view(session: Session, url: PictureUrl) -> dict[str, Any]:
    candidate = session.current
    assert candidate is not None
    sample, summary = candidate.sample, session.summary
    size = _size(sample.image)
    return {
        "id": sample.id,
        "mark": session.mark,
        "image": url(candidate, MAIN) if size else None,
        "ratio": f"{size[0] / size[1]:.5f}" if size else "1",
        "boxes": [_place(each.letter, each.box, size) for each in sample.segments] if size else [],
        "preload": [address for each in session.upcoming(PRELOADED) for address in _pictures(each, url)],
        "state": session.state,
        "decided": session.decision,
        "flags": candidate.flags,
        "num_words": len((summary or "").split()),
        "summary": summary,
        "original": sample.summary if summary != sample.summary else None,
        "text": sample.text,
        "entities": sample.entities,
        "segments": [
            {"letter": each.letter, "entity": each.entity, "image": url(candidate, each.letter) if each.image else None}
            for each in sample.segments
        ],
    }


def _pictures(candidate: Candidate, url: PictureUrl) -> list[str]:
    named = {MAIN: candidate.sample.image, **{each.letter: each.image for each in candidate.sample.segments}}
    return [url(candidate, name) for name, path in named.items() if path is not None]


def _size(path: Path | None) -> tuple[int, int] | None:
    """Width and height in pixels; None where there is no picture that can be read."""
    try:
        if path is None:
            return None
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _place(letter: str, box: tuple[int, int, int, int], size: tuple[int, int]) -> dict[str, Any]:
    """Where a box lies on its image, in percent, however large that is shown."""
    left, top, right, bottom = box
    across, down = 100 / size[0], 100 / size[1]
    figures = {
        "left": left * across,
        "top": top * down,
        "width": (right - left) * across,
        "height": (bottom - top) * down,
    }
    return {"letter": letter, **{name: f"{figure:.3f}" for name, figure in figures.items()}}
