"""Stage 2 of a build: crops the segments of every tweet's image."""

from __future__ import annotations

import hashlib
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from runner import __version__
from runner.dataset.build.import_stage import state
from runner.dataset.build.work_folder import JsonlStore, WorkFolder
from runner.dataset.folder import image_digest, row_of, sample_of
from runner.dataset.publish import UnfinishedDataset
from runner.errors import DataError
from runner.files import rows_of, write_rows_whole
from runner.fingerprint import canonical_json, fingerprint, identity
from runner.records import Sample, Segment, segment_letters
from runner.spec.dataset_spec import CropOptions
from runner.stages import LeftOut, Reporter, SourceTweet

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


SHOWN_IMAGES = 5
AHEAD = 4
"""Tweets a core that are handed out: enough that no core waits, few enough that memory does not grow."""

Row = dict[str, Any]


def crop_key(work: WorkFolder, imported: str, options: CropOptions) -> str:
    """Hash all that decides the crops: the tweets, the options, and the state of each picture."""
    tweets = hashlib.sha256()
    for tweet in rows_of(work.imported):
        tweets.update(_tweet_key(tweet).encode())
    told = {"import": imported, "options": identity(options), "runner": __version__, "tweets": tweets.hexdigest()}
    return fingerprint(told)


def crop_corpus(work: WorkFolder, options: CropOptions, number: int, key: str, reporter: Reporter) -> Row:
    """Cut what is not cut yet, and write `WorkFolder.cropped`.

    Args:
        work: Holds the tweets.
        options: How segments are cut.
        number: Of tweets.
        key: See `crop_key`.
        reporter: Told of the progress.

    Returns:
        The note of the stage: `number` of samples, `digest` of them.

    Raises:
        DataError: Pictures cannot be used and the options refuse that, or no sample is left.
    """
    _begin(work, options)
    with JsonlStore(work.crops, durable=False) as done:
        kept = number - sum(1 for _ in _wanted(work, done))
        reporter.progress(kept, number)
        for cut, (tweet_key, row) in enumerate(_crop_all(_wanted(work, done), work, options), start=1):
            done.add(tweet_key, row)
            reporter.progress(kept + cut, number)
        return _gather(work, done, options, key)


def _made_with(options: CropOptions) -> str:
    """Hash what decides how a tweet is cut; what becomes of those that cannot be is another matter."""
    cut = {name: value for name, value in identity(options).items() if name != "unusable_images"}
    return fingerprint([cut, __version__])


def _begin(work: WorkFolder, options: CropOptions) -> None:
    """Remove what was cut in another way: its pictures have the same names."""
    note = work.crops.with_name("made_with")
    if not note.is_file() or note.read_text(encoding="utf-8") != _made_with(options):
        shutil.rmtree(work.pictures, ignore_errors=True)
        shutil.rmtree(work.crops.parent, ignore_errors=True)
        note.parent.mkdir(parents=True)
        note.write_text(_made_with(options), encoding="utf-8")


def _tweet_key(tweet: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json([tweet, state(Path(tweet["image"]))]).encode()).hexdigest()


def _wanted(work: WorkFolder, done: JsonlStore) -> Iterator[tuple[str, Row]]:
    """Yield the tweets that were not cropped, or whose pictures are no longer as they were left."""
    for tweet in rows_of(work.imported):
        key = _tweet_key(tweet)
        if key not in done or any(_size(work.pictures / name) != size for name, size in done[key]["sizes"].items()):
            yield key, tweet


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _crop_all(tweets: Iterable[tuple[str, Row]], work: WorkFolder, options: CropOptions) -> Iterator[tuple[str, Row]]:
    """Crop on all cores, in whatever order: Pillow lets go of Python's lock while it decodes and encodes."""
    pictures, running = _Pictures(work.pictures), set[Future[tuple[str, Row]]]()
    cores = os.cpu_count() or 1
    with warnings.catch_warnings(), ThreadPoolExecutor(cores) as pool:
        warnings.simplefilter("ignore")  # Of damaged metadata, say: what matters is whether there is a picture.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for key, tweet in tweets:
            running.add(pool.submit(_crop, key, tweet, pictures, options))
            if len(running) >= AHEAD * cores:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (each.result() for each in done)
        yield from (each.result() for each in wait(running).done)


class _Pictures(UnfinishedDataset):
    """Where crops go; the folder may hold some of them already."""

    def __init__(self, path: Path) -> None:
        self.path, self.images, self.segments = path, path / "images", path / "segments"
        for folder in (self.images, self.segments):
            folder.mkdir(parents=True, exist_ok=True)
        self._stored: set[Path] = set()
        self._lock = Lock()

    def store(self, source: Path, target: Path) -> None:
        """Store a main image once, however many tweets show it: nobody sees half of it."""
        with self._lock:
            if target not in self._stored:
                store_images([(source, target)])
                self._stored.add(target)


def _crop(key: str, tweet: Row, pictures: _Pictures, options: CropOptions) -> tuple[str, Row]:
    size = tweet["size"]
    source = SourceTweet(sample_of(tweet, Path()), tweet["split"], (size[0], size[1]) if size else None)
    cropped = crop_tweet(source, pictures, options.min_side)
    left_out = [{"id": each.id, "reason": each.reason} for each in cropped.left_out]
    told: Row = {"sample": None, "unusable": cropped.unusable, "left_out": left_out, "sizes": {}}
    sample = cropped.sample
    if sample is None:
        return key, told
    assert source.sample.image is not None and sample.image is not None
    pictures.store(source.sample.image, sample.image)
    made = [sample.image, *(segment.image for segment in sample.segments if segment.image is not None)]
    sizes = {path.relative_to(pictures.path).as_posix(): path.stat().st_size for path in made}
    row = {**row_of(sample, pictures.path), "split": source.split, "image_sha256": image_digest(sample.image)}
    return key, {**told, "sample": row, "sizes": sizes}


def _gather(work: WorkFolder, done: JsonlStore, options: CropOptions, key: str) -> Row:
    """Write samples, and what is left out, in the order of the corpus."""
    number, left_out, unusable = 0, list[Row](), list[Row]()

    def samples() -> Iterator[Row]:
        nonlocal number
        for tweet in rows_of(work.imported):
            row = done[_tweet_key(tweet)]
            left_out.extend(row["left_out"])
            if row["unusable"]:
                unusable.append(row["left_out"][-1])
            if row["sample"] is not None:
                number += 1
                yield row["sample"]

    digest = write_rows_whole(work.cropped, samples())
    if options.unusable_images == "refuse":
        _refuse(unusable)
    if not number:
        raise DataError("no sample is left; look at the source's paths and at crop.unusable_images")
    left_digest = write_rows_whole(work.left_out("crop"), left_out)
    return dict(work.note("crop", key, digest=fingerprint([digest, left_digest]), number=number))


def _refuse(unusable: list[Row]) -> None:
    if unusable:
        shown = "; ".join(f"{each['id']}: {each['reason']}" for each in unusable[:SHOWN_IMAGES])
        more = f"; and {len(unusable) - SHOWN_IMAGES} more" if len(unusable) > SHOWN_IMAGES else ""
        raise DataError(
            f"the images of {len(unusable)} tweet(s) cannot be used: {shown}{more}. Mend them, or leave their tweets "
            "out, all listed in left_out.jsonl, with crop.unusable_images: skip"
        )
