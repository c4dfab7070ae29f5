"""Stage 2 of a build: crops the segments of every tweet's image."""

from __future__ import annotations

import hashlib
import json
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
from runner.dataset.answer_files import listed
from runner.dataset.build.import_stage import file_state
from runner.dataset.build.work_folder import JsonlStore, WorkFolder
from runner.dataset.folder_reader import image_digest, sample_from_row, sample_to_row
from runner.dataset.folder_writer import DatasetWriter
from runner.errors import DataError
from runner.files import iter_jsonl, stream_jsonl
from runner.fingerprint_and_provenance import fingerprint, fingerprinted_options
from runner.images import ORIENTATION, open_image
from runner.records import Sample, Segment, segment_letters
from runner.spec.dataset_spec import CropOptions, Keep
from runner.stages import Reporter, SkippedEntry, SourceTweet

SHAPE_TOLERANCE = 0.02
"""Largest relative difference of aspect ratios between an image and the image that its boxes were drawn on."""
JPEG_OPTIONS: dict[str, Any] = {"quality": 95, "subsampling": 0}
COPIED_FORMATS = {"JPEG": ".jpg", "PNG": ".png"}
"""Formats of images that are copied unchanged if they need no conversion."""

MIN_PART_INSIDE = 0.5
"""The smallest part of the area of a box that is inside its image; annotators draw a little beyond an edge at most."""
OUTSIDE = "box outside its image"
"""The reason, without details, for leaving out a box with a smaller part inside."""
RESULTS_VERSION = 2
"""Changes with the content of `WorkFolder.crop_results`."""
MIN_WHITE = 32
"""The smallest value, of 255, of the brightest pixel of an image of more than 8 bits; below, the image looks black."""

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class CropResult:
    """The result of cropping one tweet.

    Attributes:
        sample: The sample with the paths of its written images, which may have no segment; None if its image cannot be
            used.
        left_out: The tweet or boxes of it that are left out, with reasons.
        unusable: Whether the tweet is left out because of its image.
    """

    sample: Sample | None
    left_out: tuple[SkippedEntry, ...] = ()
    unusable: bool = False


class UnusableImageError(Exception):
    """An image cannot be used; the message completes the sentence "image …"."""


def crop_tweet(tweet: SourceTweet, writer: DatasetWriter, min_side: int) -> CropResult:
    """Crop the segments of a tweet's image and write them.

    The main image is written by `store_images`.

    Args:
        tweet: The tweet, with the path of its image and the boxes.
        writer: Provides the folders for the images.
        min_side: Boxes with a side smaller than this inside the image are left out, in pixels.
    """
    sample = tweet.sample
    assert sample.image is not None
    try:
        upright, boxes = _read_image(sample.image, [segment.box for segment in sample.segments], tweet.size)
    except UnusableImageError as error:
        return CropResult(None, (SkippedEntry(sample.id, f"image {error}"),), unusable=True)
    usable, left_out = [], []
    for segment, box in zip(sample.segments, boxes, strict=True):
        clipped = _clip_box(box, upright.size)
        if _part_inside(box, clipped) < MIN_PART_INSIDE:
            where = f"{list(box)} in {upright.width} x {upright.height} pixels"
            left_out.append(SkippedEntry(sample.id, f"{OUTSIDE}: {where}"))
        elif min(clipped[2] - clipped[0], clipped[3] - clipped[1]) < min_side:
            left_out.append(SkippedEntry(sample.id, f"box smaller than {min_side} pixels inside its image"))
        else:
            usable.append((segment, clipped))
    segments = _write_segments(sample.id, upright, usable, writer.segments)
    image = writer.images / f"{sample.image.stem}{_target_suffix(sample.image)}"
    return CropResult(replace(sample, image=image, segments=segments), tuple(left_out))


def store_images(images: Sequence[tuple[Path, Path]]) -> None:
    """Write main images, each once: copied if no conversion is needed, else converted to upright RGB JPEG.

    Args:
        images: The original path and the target path of each image.
    """
    source_of_target: Mapping[Path, Path] = {target: source for source, target in images}
    for target, source in source_of_target.items():
        with open_image(source) as image:
            if _can_copy(image):
                shutil.copyfile(source, target)
            else:
                _convert_to_rgb(ImageOps.exif_transpose(image)).save(target, **JPEG_OPTIONS)


def _read_image(path: Path, boxes: Sequence[Box], size: tuple[int, int] | None) -> tuple[Image.Image, list[Box]]:
    """Read an image as upright RGB, with its boxes in the pixels of the upright image.

    Without boxes, a JPEG is decoded at an eighth of its size: this finds damage as well, in a third of the time.
    """
    if not path.is_file():
        raise UnusableImageError("is missing")
    if path.stat().st_size == 0:
        raise UnusableImageError("is an empty file")
    try:
        with open_image(path) as image:
            orientation = int(image.getexif().get(ORIENTATION, 1))
            raw_size = image.size
            if not boxes:
                image.draft(image.mode, (1, 1))
            image.load()
            upright = _convert_to_rgb(ImageOps.exif_transpose(image))
    except UnusableImageError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UnusableImageError("is too large to be opened safely") from error
    except UnidentifiedImageError as error:
        raise UnusableImageError("has an unknown format") from error
    except Exception as error:  # Damaged files make Pillow's decoders raise many types, including struct.error.
        raise UnusableImageError(f"is damaged or truncated: {error}") from error
    return upright, _boxes_in_upright(boxes, size, raw_size, upright.size, orientation) if boxes else []


def _boxes_in_upright(
    boxes: Sequence[Box],
    annotated: tuple[int, int] | None,
    raw: tuple[int, int],
    upright: tuple[int, int],
    orientation: int,
) -> list[Box]:
    """Convert boxes to pixels of the upright image, whether they were drawn on the upright or on the raw image.

    If the annotated size fits both, as for a square image, the boxes were drawn on the upright image, because
    annotation tools show that one.

    Args:
        boxes: Boxes in the pixels of the annotated image.
        annotated: Width and height of the image that the boxes were drawn on; None for the upright image.
        raw: Width and height of the file's image before its orientation is applied.
        upright: Width and height of the upright image.
        orientation: The EXIF orientation.
    """
    if annotated is None or _same_aspect_ratio(annotated, upright):
        return [_scale_box(box, annotated or upright, upright) for box in boxes]
    if _same_aspect_ratio(annotated, raw):
        return [_transpose_box(_scale_box(box, annotated, raw), raw, orientation) for box in boxes]
    raise UnusableImageError("has another aspect ratio than the image that its boxes were drawn on")


def _same_aspect_ratio(size: tuple[int, int], other: tuple[int, int]) -> bool:
    quotient = (size[0] * other[1]) / max(1, size[1] * other[0])
    return abs(quotient - 1) <= SHAPE_TOLERANCE


def _scale_box(box: Box, size: tuple[int, int], target: tuple[int, int]) -> Box:
    if size == target:
        return box
    x_scale, y_scale = target[0] / size[0], target[1] / size[1]
    left, top, right, bottom = box
    return round(left * x_scale), round(top * y_scale), round(right * x_scale), round(bottom * y_scale)


def _transpose_box(box: Box, size: tuple[int, int], orientation: int) -> Box:
    """Transform a box as `ImageOps.exif_transpose` transforms the image; orientations are those of EXIF 2.3."""
    width, height = size
    transforms: dict[int, Callable[[int, int], tuple[int, int]]] = {
        1: lambda x, y: (x, y),
        2: lambda x, y: (width - x, y),
        3: lambda x, y: (width - x, height - y),
        4: lambda x, y: (x, height - y),
        5: lambda x, y: (y, x),
        6: lambda x, y: (height - y, x),
        7: lambda x, y: (height - y, width - x),
        8: lambda x, y: (y, width - x),
    }
    transform = transforms.get(orientation, transforms[1])
    (x1, y1), (x2, y2) = transform(box[0], box[1]), transform(box[2], box[3])
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def _clip_box(box: Box, size: tuple[int, int]) -> Box:
    left, top, right, bottom = box
    return max(0, left), max(0, top), min(size[0], right), min(size[1], bottom)


def _part_inside(box: Box, clipped: Box) -> float:
    """Return the part of the area of a box that is inside its image; 1 for a box without an area."""
    area = max(0, box[2] - box[0]) * max(0, box[3] - box[1])
    return max(0, clipped[2] - clipped[0]) * max(0, clipped[3] - clipped[1]) / area if area else 1


def _write_segments(
    sample_id: str, image: Image.Image, boxes: Sequence[tuple[Segment, Box]], folder: Path
) -> tuple[Segment, ...]:
    segments = []
    for letter, (segment, box) in zip(segment_letters(), boxes, strict=False):
        path = folder / f"{sample_id}-{letter}.jpg"
        image.crop(box).save(path, **JPEG_OPTIONS)
        segments.append(replace(segment, letter=letter, image=path, box=box))
    return tuple(segments)


def _convert_to_rgb(image: Image.Image) -> Image.Image:
    """Convert palettes, grey scale and CMYK to RGB; transparent pixels become white, as on a web page.

    Raises:
        UnusableImageError: The image has more than 8 bits per channel, and no rule says which of its values is white.
    """
    if image.mode == "F":
        raise UnusableImageError("has floating-point pixels, and no rule says which is white; save it with 8 bits")
    if image.mode.startswith("I"):
        return _convert_wide_grey(image)
    if "transparency" in image.info or image.mode in {"RGBA", "LA", "PA"}:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _convert_wide_grey(image: Image.Image) -> Image.Image:
    """Convert 16 bits to 8; Pillow would clip them, which turns the image white."""
    wide = image.convert("I")
    darkest, brightest = wide.getextrema()
    assert isinstance(darkest, int | float) and isinstance(brightest, int | float)
    if darkest < 0 or brightest > 65535 or 0 < brightest / 257 < MIN_WHITE:
        raise UnusableImageError(
            f"would become black or white: its pixels have values from {darkest} to {brightest}, but white is 65535. "
            "Save it with 8 bits"
        )
    return wide.point(lambda value: value * (1 / 257)).convert("L").convert("RGB")


def _can_copy(image: Image.Image) -> bool:
    is_upright = int(image.getexif().get(ORIENTATION, 1)) == 1
    is_plain_rgb = image.mode == "RGB" and "transparency" not in image.info
    return is_upright and is_plain_rgb and image.format in COPIED_FORMATS


def _target_suffix(source: Path) -> str:
    with open_image(source) as image:
        return COPIED_FORMATS[str(image.format)] if _can_copy(image) else ".jpg"


QUEUED_TWEETS_PER_CORE = 4
"""Tweets per core that are submitted at once: enough that no core is idle, few enough that memory does not grow."""

Row = dict[str, Any]


def crop_key(work: WorkFolder, import_digest: str, options: CropOptions, keep: Keep) -> str:
    """Hash the inputs of the stage: the tweets, the options, and the state of each image."""
    tweets = hashlib.sha256()
    for tweet in iter_jsonl(work.imported_tweets):
        tweets.update(_tweet_key(tweet).encode())
    return fingerprint(
        {
            "import": import_digest,
            "keep": keep,
            "options": fingerprinted_options(options),
            "runner": __version__,
            "tweets": tweets.hexdigest(),
        }
    )


def crop_corpus(
    work: WorkFolder, options: CropOptions, keep: Keep, num_tweets: int, key: str, reporter: Reporter
) -> Row:
    """Crop the tweets that are not cropped yet, and write `WorkFolder.cropped_samples`.

    Args:
        work: The work folder, with imported tweets.
        options: The options of the stage.
        keep: Whether tweets without any usable box are samples.
        num_tweets: Number of imported tweets.
        key: The stage's key from `crop_key`.
        reporter: Receives the progress.

    Returns:
        The stage's result record: `number` of samples and their `digest`.

    Raises:
        DataError: Images or boxes cannot be used and the options do not skip them, or no sample is left.
    """
    _discard_outdated(work, options)
    with JsonlStore(work.crop_results, durable=False) as results:
        tweet_keys = list(map(_tweet_key, iter_jsonl(work.imported_tweets)))
        missing = {tweet_key for tweet_key in tweet_keys if not _is_cropped(tweet_key, work, results)}
        num_cached = num_tweets - sum(tweet_key in missing for tweet_key in tweet_keys)
        reporter.progress(num_cached, num_tweets)
        tweets = zip(tweet_keys, iter_jsonl(work.imported_tweets), strict=True)
        cropped = _crop_in_parallel((pair for pair in tweets if pair[0] in missing), work, options)
        for num_cropped, (tweet_key, row) in enumerate(cropped, start=1):
            results.add(tweet_key, row)
            reporter.progress(num_cached + num_cropped, num_tweets)
        return _write_samples(work, tweet_keys, results, options, keep, key)


def _crop_version(options: CropOptions) -> str:
    """Hash what determines the crops of a tweet; the other options only decide what happens after a failure."""
    failures = {"unusable_images", "outside_boxes"}
    crop_options = {name: value for name, value in fingerprinted_options(options).items() if name not in failures}
    return fingerprint([crop_options, __version__, RESULTS_VERSION])


def _discard_outdated(work: WorkFolder, options: CropOptions) -> None:
    """Remove the crops of other options or of another version: their images have the same names."""
    version_file = work.crop_results.with_name("made_with")
    if not version_file.is_file() or version_file.read_text(encoding="utf-8") != _crop_version(options):
        shutil.rmtree(work.image_root, ignore_errors=True)
        shutil.rmtree(work.crop_results.parent, ignore_errors=True)
        version_file.parent.mkdir(parents=True)
        version_file.write_text(_crop_version(options), encoding="utf-8")


def _tweet_key(tweet: Mapping[str, Any]) -> str:
    content = {name: value for name, value in tweet.items() if name != "location"}
    state = file_state(Path(tweet["image"]))
    return hashlib.sha256(json.dumps([content, state], sort_keys=True).encode()).hexdigest()


def _is_cropped(tweet_key: str, work: WorkFolder, results: JsonlStore) -> bool:
    """Return whether a tweet is cropped, and its written images have not changed."""
    return tweet_key in results and all(
        _file_size(work.image_root / name) == size for name, size in results[tweet_key]["sizes"].items()
    )


def _file_size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _crop_in_parallel(
    tweets: Iterable[tuple[str, Row]], work: WorkFolder, options: CropOptions
) -> Iterator[tuple[str, Row]]:
    """Crop on all cores, in any order: Pillow releases the GIL while it decodes and encodes."""
    writer, running = _CropWriter(work.image_root), set[Future[tuple[str, Row]]]()
    num_cores = os.cpu_count() or 1
    with warnings.catch_warnings(), ThreadPoolExecutor(num_cores) as pool:
        warnings.simplefilter("ignore")  # Warnings, for example of damaged metadata, do not matter if the image loads.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for key, tweet in tweets:
            running.add(pool.submit(_crop_row, key, tweet, writer, options))
            if len(running) >= QUEUED_TWEETS_PER_CORE * num_cores:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        yield from (future.result() for future in wait(running).done)


class _CropWriter(DatasetWriter):
    """Provides the image folders of the work folder, which may contain images of an earlier build."""

    def __init__(self, path: Path) -> None:
        self.path, self.images, self.segments = path, path / "images", path / "segments"
        for folder in (self.images, self.segments):
            folder.mkdir(parents=True, exist_ok=True)
        self._stored: set[Path] = set()
        self._lock = Lock()

    def store(self, source: Path, target: Path) -> None:
        """Write a main image once, even if several tweets share it; no thread sees a partial file."""
        with self._lock:
            if target not in self._stored:
                store_images([(source, target)])
                self._stored.add(target)


def _crop_row(key: str, tweet: Row, writer: _CropWriter, options: CropOptions) -> tuple[str, Row]:
    size = tweet["size"]
    source = SourceTweet(sample_from_row(tweet, Path()), tweet["split"], (size[0], size[1]) if size else None)
    cropped = crop_tweet(source, writer, options.min_side)
    left_out = [{"id": entry.id, "reason": entry.reason} for entry in cropped.left_out]
    result: Row = {"sample": None, "unusable": cropped.unusable, "left_out": left_out, "sizes": {}}
    sample = cropped.sample
    if sample is None:
        return key, result
    assert source.sample.image is not None and sample.image is not None
    writer.store(source.sample.image, sample.image)
    images = [sample.image, *(segment.image for segment in sample.segments if segment.image is not None)]
    sizes = {path.relative_to(writer.path).as_posix(): path.stat().st_size for path in images}
    row = {**sample_to_row(sample, writer.path), "split": source.split, "image_sha256": image_digest(sample.image)}
    return key, {**result, "sample": row, "sizes": sizes}


def _write_samples(
    work: WorkFolder, tweet_keys: Sequence[str], results: JsonlStore, options: CropOptions, keep: Keep, key: str
) -> Row:
    """Write the samples and the entries left out, in the order of the corpus."""
    num_samples, left_out, unusable, outside = 0, list[Row](), list[str](), list[str]()

    def rows() -> Iterator[Row]:
        nonlocal num_samples
        for tweet_key, tweet in zip(tweet_keys, iter_jsonl(work.imported_tweets), strict=True):
            result = results[tweet_key]
            left_out.extend(result["left_out"])
            problems = [_problem(tweet, entry) for entry in result["left_out"]]
            outside.extend(problem for problem in problems if OUTSIDE in problem)
            if result["unusable"]:
                unusable.append(problems[-1])
            elif keep == "grounded" and not result["sample"]["segments"]:
                left_out.append({"id": tweet["id"], "reason": "tweet without any usable box"})
            else:
                num_samples += 1
                yield result["sample"]

    digest = stream_jsonl(work.cropped_samples, rows())
    _raise_refused(
        unusable if options.unusable_images == "refuse" else [],
        outside if options.outside_boxes == "refuse" else [],
    )
    if not num_samples:
        raise DataError("no sample is left. Check the paths in source and the option crop.unusable_images")
    left_out_digest = stream_jsonl(work.left_out("crop"), left_out)
    return dict(work.save_result("crop", key, digest=fingerprint([digest, left_out_digest]), number=num_samples))


def _problem(tweet: Row, entry: Row) -> str:
    location = f"{tweet['location']}: " if tweet["location"] else ""
    return f"{location}{entry['id']}: {entry['reason']}"


def _raise_refused(unusable: list[str], outside: list[str]) -> None:
    """Raise one DataError that lists the images and boxes that cannot be used, if there are any."""
    problems = []
    if unusable:
        problems.append(
            f"the images of {len(unusable)} tweet(s) cannot be used. Repair them, or leave out these tweets with "
            "crop.unusable_images: skip, which lists them in left_out.jsonl"
        )
        problems += listed(unusable)
    if outside:
        problems.append(
            f"{len(outside)} box(es) are outside their images. If all boxes have another format or unit, set "
            "source.box_format or source.box_unit; otherwise correct them, or leave out these boxes with "
            "crop.outside_boxes: skip, which lists them in left_out.jsonl"
        )
        problems += listed(outside)
    if problems:
        raise DataError("\n".join(problems))
