"""Cuts segments from main images: upright, in RGB, boxes clipped, every trouble named."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from runner.dataset.publish import UnfinishedDataset
from runner.records import Sample, Segment, segment_letters
from runner.stages import LeftOut, SourceTweet

ORIENTATION = 0x0112
"""The EXIF tag that says how a camera was held."""
SHAPE_TOLERANCE = 0.02
"""A picture whose ratio of sides is off by more than this from what its boxes were drawn on is another picture."""
JPEG: dict[str, Any] = {"quality": 95, "subsampling": 0}
COPIED = {"JPEG": ".jpg", "PNG": ".png"}
"""Formats that are kept as they are where nothing is to be mended."""

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Cropped:
    """What became of a tweet.

    Attributes:
        sample: With its pictures in the data set; None where it is left out.
        left_out: The tweet, or boxes of it, with reasons.
        unusable: Whether it is left out because of its image.
    """

    sample: Sample | None
    left_out: tuple[LeftOut, ...] = ()
    unusable: bool = False


class UnusableImageError(Exception):
    """An image that cannot be used, and why."""


def crop_tweet(tweet: SourceTweet, unfinished: UnfinishedDataset, min_side: int) -> Cropped:
    """Store a tweet's image and cut its segments.

    Args:
        tweet: With the path of its image and the boxes.
        unfinished: Where pictures go.
        min_side: Boxes smaller than this inside the image are left out, in pixels.
    """
    sample = tweet.sample
    assert sample.image is not None
    try:
        upright, boxes = _read(sample.image, [segment.box for segment in sample.segments], tweet.size)
    except UnusableImageError as error:
        return Cropped(None, (LeftOut(sample.id, f"image {error}"),), unusable=True)
    kept, small = [], []
    for segment, box in zip(sample.segments, boxes, strict=True):
        clipped = _clipped(box, upright.size)
        if min(clipped[2] - clipped[0], clipped[3] - clipped[1]) < min_side:
            small.append(LeftOut(sample.id, f"box smaller than {min_side} pixels inside its image"))
        else:
            kept.append((segment, clipped))
    if not kept:
        return Cropped(None, (*small, LeftOut(sample.id, "tweet without any usable box")))
    segments = _cut(sample.id, upright, kept, unfinished.segments)
    image = unfinished.images / f"{sample.image.stem}{_suffix(sample.image)}"
    return Cropped(replace(sample, image=image, segments=segments), tuple(small))


def store_images(samples: Sequence[tuple[Path, Path]]) -> None:
    """Write main images, each once: copied where nothing is to be mended, else upright RGB as JPEG.

    Args:
        samples: Original file and its place in the data set.
    """
    stored: Mapping[Path, Path] = {target: source for source, target in samples}
    for target, source in stored.items():
        with Image.open(source) as opened:
            if _as_it_is(opened):
                shutil.copyfile(source, target)
            else:
                _rgb(ImageOps.exif_transpose(opened)).save(target, **JPEG)


def _read(path: Path, boxes: Sequence[Box], size: tuple[int, int] | None) -> tuple[Image.Image, list[Box]]:
    if not path.is_file():
        raise UnusableImageError("is missing")
    if path.stat().st_size == 0:
        raise UnusableImageError("is an empty file")
    try:
        with Image.open(path) as opened:
            opened.load()
            orientation = int(opened.getexif().get(ORIENTATION, 1))
            raw_size = opened.size
            upright = _rgb(ImageOps.exif_transpose(opened))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UnusableImageError("is too large to be opened safely") from error
    except UnidentifiedImageError as error:
        raise UnusableImageError("is in no known format") from error
    except Exception as error:  # Pillow's decoders raise whatever damage leads them to, struct.error among it.
        raise UnusableImageError(f"is broken or cut off: {error}") from error
    return upright, _in_upright(boxes, size, raw_size, upright.size, orientation)


def _in_upright(
    boxes: Sequence[Box],
    size: tuple[int, int] | None,
    raw: tuple[int, int],
    upright: tuple[int, int],
    orientation: int,
) -> list[Box]:
    """Bring boxes to the upright image, whichever of the two they were drawn on, and to its resolution.

    Where the annotation's size fits both, as it does for a square image, they were drawn on the upright one,
    which is what annotation tools show.
    """
    if size is None or _alike(size, upright):
        return [_scaled(box, size or upright, upright) for box in boxes]
    if _alike(size, raw):
        return [_turned(_scaled(box, size, raw), raw, orientation) for box in boxes]
    raise UnusableImageError("is of another shape than its boxes were drawn on")


def _alike(size: tuple[int, int], other: tuple[int, int]) -> bool:
    ratio = (size[0] * other[1]) / max(1, size[1] * other[0])
    return abs(ratio - 1) <= SHAPE_TOLERANCE


def _scaled(box: Box, size: tuple[int, int], target: tuple[int, int]) -> Box:
    if size == target:
        return box
    across, down = target[0] / size[0], target[1] / size[1]
    left, top, right, bottom = box
    return round(left * across), round(top * down), round(right * across), round(bottom * down)


def _turned(box: Box, size: tuple[int, int], orientation: int) -> Box:
    """Turn a box as `ImageOps.exif_transpose` turns the image; orientations are those of EXIF 2.3."""
    width, height = size
    turns: dict[int, Callable[[int, int], tuple[int, int]]] = {
        1: lambda x, y: (x, y),
        2: lambda x, y: (width - x, y),
        3: lambda x, y: (width - x, height - y),
        4: lambda x, y: (x, height - y),
        5: lambda x, y: (y, x),
        6: lambda x, y: (height - y, x),
        7: lambda x, y: (height - y, width - x),
        8: lambda x, y: (y, width - x),
    }
    turn = turns.get(orientation, turns[1])
    (x1, y1), (x2, y2) = turn(box[0], box[1]), turn(box[2], box[3])
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def _clipped(box: Box, size: tuple[int, int]) -> Box:
    left, top, right, bottom = box
    return max(0, left), max(0, top), min(size[0], right), min(size[1], bottom)


def _cut(name: str, image: Image.Image, kept: Sequence[tuple[Segment, Box]], folder: Path) -> tuple[Segment, ...]:
    segments = []
    for letter, (segment, box) in zip(segment_letters(), kept, strict=False):
        path = folder / f"{name}-{letter}.jpg"
        image.crop(box).save(path, **JPEG)
        segments.append(replace(segment, letter=letter, image=path, box=box))
    return tuple(segments)


def _rgb(image: Image.Image) -> Image.Image:
    """Convert palettes, greys and CMYK; what is transparent becomes white, as a page shows it."""
    if image.mode.startswith("I"):
        # Pillow would clip sixteen bits to eight, which is white.
        return image.convert("I").point(lambda value: value * (1 / 257)).convert("L").convert("RGB")
    if "transparency" in image.info or image.mode in {"RGBA", "LA", "PA"}:
        seen = image.convert("RGBA")
        white = Image.new("RGBA", seen.size, "white")
        return Image.alpha_composite(white, seen).convert("RGB")
    return image.convert("RGB")


def _as_it_is(opened: Image.Image) -> bool:
    upright = int(opened.getexif().get(ORIENTATION, 1)) == 1
    plain = opened.mode == "RGB" and "transparency" not in opened.info
    return upright and plain and opened.format in COPIED


def _suffix(source: Path) -> str:
    with Image.open(source) as opened:
        return COPIED[str(opened.format)] if _as_it_is(opened) else ".jpg"
