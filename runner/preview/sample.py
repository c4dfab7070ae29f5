"""One sample as the model gets it: its pictures, its pieces, its lengths, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from runner.preview.pieces import Piece
from runner.records import Rendered, Sample


@dataclass(frozen=True)
class Picture:
    """An image in the order that the model sees.

    Attributes:
        name: `main`, the letter of a segment, or `example` where it is shown with a solved sample.
        path: Its file.
        width: In pixels, as the file is; None where it cannot be read.
        height: As `width`.
        num_tokens: Places of its features; None where the model's tokens do not tell one image from the next.
    """

    name: str
    path: Path
    width: int | None
    height: int | None
    num_tokens: int | None

    def as_json(self) -> dict[str, Any]:
        """The picture as plain data."""
        return {**vars(self), "path": str(self.path)}


@dataclass(frozen=True)
class ShownSample:
    """A sample to look at.

    Attributes:
        id: The sample's.
        pictures: In the order that the model sees.
        pieces: Prompt and answer; without the answer in a split that nothing is trained on.
        target: The answer that is right; None where the sample holds none.
        trained_text: What carries loss, special tokens spelt out.
        truncated: The end of the answer is cut off at the limit.
        limit: The most tokens that it may have; None for any number.
        problems: What the proof finds wrong with it.
        skipped: It is beyond the limit and left out of training.
    """

    id: str
    pictures: tuple[Picture, ...]
    pieces: tuple[Piece, ...]
    target: str | None
    trained_text: str
    truncated: bool
    limit: int | None
    problems: tuple[str, ...]
    skipped: bool = False

    @property
    def prompt(self) -> str:
        """What carries no loss, images folded and special tokens spelt out."""
        return "".join(piece.text for piece in self.pieces if not piece.trained)

    @property
    def lengths(self) -> dict[str, int | float | None]:
        """Tokens by kind and in all, the limit, and the share of it that is used."""
        trained = sum(piece.num_tokens for piece in self.pieces if piece.trained)
        image = sum(piece.num_tokens for piece in self.pieces if piece.kind == "image" and not piece.trained)
        total = sum(piece.num_tokens for piece in self.pieces)
        share = round(total / self.limit, 4) if self.limit else None
        text = total - image - trained
        return {"text": text, "image": image, "target": trained, "total": total, "limit": self.limit, "share": share}

    def as_json(self) -> dict[str, Any]:
        """The sample as docs/interface.md's `preview --json` lists it."""
        return {
            "id": self.id,
            "images": [str(picture.path) for picture in self.pictures],
            "prompt": self.prompt,
            "target": self.target,
            "trained_text": self.trained_text,
            "pictures": [picture.as_json() for picture in self.pictures],
            "lengths": self.lengths,
            "truncated": self.truncated,
            "skipped": self.skipped,
            "problems": list(self.problems),
        }


def pictures_of(sample: Sample, rendered: Rendered, pieces: Sequence[Piece]) -> tuple[Picture, ...]:
    """Name and measure the images of a sample."""
    # Several segments may be one file, so each name is given away once.
    names = [(sample.image, "main"), *((segment.image, segment.letter) for segment in sample.segments)]
    runs = [sum(each.num_tokens for each in run) for image, run in groupby(pieces, _is_image) if image]
    tokens: Sequence[int | None] = runs if len(runs) == len(rendered.images) else [None] * len(rendered.images)
    pictures = []
    for path, number in zip(rendered.images, tokens, strict=True):
        place = next((at for at, (file, _) in enumerate(names) if file == path), None)
        name = "example" if place is None else names.pop(place)[1]
        pictures.append(Picture(name, path, *_size(path), number))
    return tuple(pictures)


def _is_image(piece: Piece) -> bool:
    return piece.kind == "image"


def _size(path: Path) -> tuple[int | None, int | None]:
    """The size of an image as a person sees it."""
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None, None
