"""The source plugin `label_studio`: rectangles and spans of text from Label Studio's export in the format JSON."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from plugins.source.image_folders import ImageFolders, image_folders
from plugins.source.json_items import Item, find_json_files, read_json_items
from plugins.source.sample_ids import SampleIds
from plugins.source.source_options import LabelStudioOptions
from runner.dataset.answer_files import raise_problems
from runner.errors import DataError
from runner.records import Entity, Sample, Segment, is_blank, segment_letters
from runner.stages import SkippedEntry, SourceTweet

UPLOAD_PREFIX = re.compile(r"[0-9a-f]{8}-")
"""What Label Studio puts before the name of an uploaded file."""

Box = tuple[int, int, int, int]


class _Part(BaseModel):
    """A part of an export; keys that the source does not need are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class _Value(_Part):
    x: float | None = None
    y: float | None = None
    width: float | None = None
    height: float | None = None
    rotation: float = 0
    start: int | None = None
    end: int | None = None
    text: str | None = None
    rectanglelabels: list[str] | None = None
    labels: list[str] | None = None


class _Result(_Part):
    id: str = ""
    type: str
    value: _Value = _Value()
    original_width: int | None = None
    original_height: int | None = None
    from_id: str | None = None
    to_id: str | None = None


class _Annotation(_Part):
    id: int | str = "without an id"
    result: list[_Result]
    was_cancelled: bool = False


class _Task(_Part):
    id: int | str | None = None
    data: dict[str, Any]
    annotations: list[_Annotation] = Field(min_length=1)


@dataclass(frozen=True)
class _Span:
    """An entity in the text: its region, and where it starts."""

    id: str
    label: str
    text: str
    start: int


@dataclass(frozen=True)
class _Rectangle:
    """A rectangle: its region, label, box in pixels, and the size of the image in pixels."""

    id: str
    label: str
    box: Box
    size: tuple[int, int]


class LabelStudioSource:
    """Tasks of Label Studio, in the order of the files; files of a folder are sorted by name.

    A task needs an image and a text. Rectangles (`RectangleLabels`) become boxes, spans (`Labels` on `Text`) entities.
    """

    name = "Label Studio"

    def __init__(self, options: LabelStudioOptions) -> None:
        """Store the options; `read` opens the files."""
        self._options = options
        self.labels: Sequence[str] = tuple(options.labels)
        self._problems: list[str] = []

    def read(self) -> Iterator[SourceTweet | SkippedEntry]:
        """Yield each task, and an entry for each skipped rectangle.

        Raises:
            DataError: A file is missing or not JSON, or tasks are invalid. Up to ten problems are reported.
        """
        self._problems, options = [], self._options
        parent = options.path if options.path.is_dir() else options.path.parent
        images, ids = ImageFolders(image_folders(options.images, parent)), SampleIds()
        if options.images is not None:
            images.check()
        for file in find_json_files(options.path):
            try:
                items = read_json_items(file).get("", [])
            except DataError as error:
                self._problems.append(str(error))
                continue
            if not items:
                self._problems.append(f"{file}:1: is not an array of tasks; export the project in the format JSON")
            for item in items:
                entries = list(self._entries(item, file.stem, images, ids))
                if not self._problems:
                    yield from entries
        raise_problems(self._problems)

    def _entries(
        self, item: Item, split: str, images: ImageFolders, ids: SampleIds
    ) -> Iterator[SourceTweet | SkippedEntry]:
        try:
            task = _Task.model_validate(item.value)
        except ValidationError as error:
            self._problems.append(f"{item.location}: {_describe(item.value, error)}")
            return
        name = str(task.data.get("id", "" if task.id is None else task.id))
        where = f"{item.location}: task {name if task.id is None else task.id}"
        before = len(self._problems)
        self._problems += [f"{where}: {problem}" for problem in ids.problems(name, item.location)]
        text, image = (self._field(where, task, key) for key in (self._options.text_key, self._options.image_key))
        annotation = self._annotation(where, task)
        if annotation is None or len(self._problems) > before:
            return
        spans = self._spans(where, annotation, text)
        rectangles = self._rectangles(where, annotation)
        joined, lonely = self._join(where, annotation, spans, rectangles)
        for rectangle in lonely:
            yield SkippedEntry(name, f"rectangle without a span: region {rectangle.id}")
        try:
            path = images.find(_image_name(image, images))
        except DataError as error:
            self._problems.append(f"{where}: {error}")
            return
        segments = tuple(
            Segment(letter, None, span.text, rectangle.box)
            for letter, (rectangle, span) in zip(segment_letters(), joined, strict=False)
        )
        entities = tuple(Entity(span.label, span.text) for span in spans)
        summary = task.data.get("summary")
        sample = Sample(name, text, path, str(summary) if summary else None, entities, segments)
        size = joined[0][0].size if joined else None
        yield SourceTweet(sample, str(task.data.get("split", split)), size, item.location)

    def _field(self, where: str, task: _Task, key: str) -> str:
        value = task.data.get(key)
        if not isinstance(value, str) or is_blank(value):
            keys = ", ".join(task.data)
            self._problems.append(
                f"{where}: data.{key} is not a text; the keys are {keys}. source.text_key and source.image_key set them"
            )
            return ""
        return value

    def _annotation(self, where: str, task: _Task) -> _Annotation | None:
        """Return the annotation of a task that counts; cancelled ones, which skip the task, do not."""
        made = [annotation for annotation in task.annotations if not annotation.was_cancelled]
        if not made or (len(made) > 1 and self._options.several_annotations == "refuse"):
            listed = ", ".join(str(annotation.id) for annotation in made)
            reason = f"has the annotations {listed}; source.several_annotations: last takes the last" if made else ""
            self._problems.append(f"{where}: {reason or 'was skipped: every annotation is cancelled'}")
            return None
        return made[-1]

    def _spans(self, where: str, annotation: _Annotation, text: str) -> list[_Span]:
        """Return the entities in the order of the text."""
        spans = []
        for result in annotation.result:
            value = result.value
            if result.type != "labels" or value.start is None or value.end is None:
                continue
            label = self._label(where, result, value.labels)
            found = _slice(text, value)
            if found is None:
                self._problems.append(
                    f"{where}: region {result.id}: characters {value.start} to {value.end} of the text are "
                    f"{text[value.start : value.end]!r}, not {value.text!r}"
                )
            elif label is not None and not is_blank(found):
                spans.append(_Span(result.id, label, " ".join(found.split()), value.start))
        return sorted(spans, key=lambda span: span.start)

    def _rectangles(self, where: str, annotation: _Annotation) -> list[_Rectangle]:
        rectangles = []
        for result in annotation.result:
            if result.type != "rectanglelabels":
                continue
            label = self._label(where, result, result.value.rectanglelabels)
            try:
                box, size = _pixels(result, self._options.rotation)
            except DataError as error:
                self._problems.append(f"{where}: region {result.id}: {error}")
                continue
            if label is not None:
                rectangles.append(_Rectangle(result.id, label, box, size))
        return rectangles

    def _label(self, where: str, result: _Result, labels: Sequence[str] | None) -> str | None:
        if labels is None or len(labels) != 1:
            self._problems.append(f"{where}: region {result.id}: has the labels {labels or []}; one is required")
        elif labels[0] not in self.labels:
            known = ", ".join(self.labels)
            self._problems.append(
                f"{where}: region {result.id}: the label {labels[0]!r} is not one of {known}; source.labels sets them"
            )
        else:
            return labels[0]
        return None

    def _join(
        self, where: str, annotation: _Annotation, spans: Sequence[_Span], rectangles: Sequence[_Rectangle]
    ) -> tuple[list[tuple[_Rectangle, _Span]], list[_Rectangle]]:
        """Return the pairs of rectangles and spans, in the order of the rectangles, and the other rectangles."""
        if self._options.join == "relation":
            span_of = self._related(where, annotation, spans, rectangles)
        else:
            span_of = _by_label_and_order(spans, rectangles)
        joined = [(rectangle, span_of[rectangle.id]) for rectangle in rectangles if rectangle.id in span_of]
        return joined, [rectangle for rectangle in rectangles if rectangle.id not in span_of]

    def _related(
        self, where: str, annotation: _Annotation, spans: Sequence[_Span], rectangles: Sequence[_Rectangle]
    ) -> Mapping[str, _Span]:
        span_by_id, rectangle_ids = {span.id: span for span in spans}, {rectangle.id for rectangle in rectangles}
        span_of: dict[str, _Span] = {}
        for result in annotation.result:
            if result.type != "relation":
                continue
            ends = {result.from_id or "", result.to_id or ""}
            for rectangle, span in ((one, other) for one in ends & rectangle_ids for other in ends & span_by_id.keys()):
                if span_of.setdefault(rectangle, span_by_id[span]).id != span:
                    self._problems.append(f"{where}: region {rectangle}: has relations to several spans")
        return span_of


def _by_label_and_order(spans: Sequence[_Span], rectangles: Sequence[_Rectangle]) -> Mapping[str, _Span]:
    """Join the first rectangle of a label with the first span of the label, and so on."""
    left: dict[str, list[_Span]] = defaultdict(list)
    for span in spans:
        left[span.label].append(span)
    return {rectangle.id: left[rectangle.label].pop(0) for rectangle in rectangles if left[rectangle.label]}


def _slice(text: str, value: _Value) -> str | None:
    """Return the text of a span; None if the offsets do not fit the text that the export states.

    Browsers count UTF-16 code units, so that offsets after an emoji are larger than the number of characters.
    """
    assert value.start is not None and value.end is not None
    units = text.encode("utf-16-le", "surrogatepass")[2 * value.start : 2 * value.end]
    for found in (text[value.start : value.end], units.decode("utf-16-le", "replace")):
        if value.text is None or found == value.text:
            return found
    return None


def _pixels(result: _Result, rotation: Literal["refuse", "bound"]) -> tuple[Box, tuple[int, int]]:
    """Convert a rectangle from percent to pixels.

    Args:
        result: The rectangle; it is turned clockwise about its top left corner by `rotation` degrees.
        rotation: `bound` returns the smallest upright box around a turned rectangle.

    Returns:
        The box, and the size of the image.

    Raises:
        DataError: A number or the size is missing, or the rectangle is turned.
    """
    value = result.value
    numbers = (value.x, value.y, value.width, value.height)
    if not result.original_width or not result.original_height or any(number is None for number in numbers):
        raise DataError("x, y, width, height, original_width or original_height is missing")
    x, y, width, height = (number or 0 for number in numbers)
    if width < 0 or height < 0 or min(x, y) < -1 or max(x, y) > 101:
        raise DataError(f"[{x:g}, {y:g}, {width:g}, {height:g}] are not percentages of the image")
    size = (result.original_width, result.original_height)
    left, across = x * size[0] / 100, width * size[0] / 100
    top, down = y * size[1] / 100, height * size[1] / 100
    if value.rotation % 360 and rotation == "refuse":
        raise DataError(
            f"is turned by {value.rotation:g} degrees; source.rotation: bound uses the upright box around it"
        )
    angle = math.radians(value.rotation)
    cosine, sine = math.cos(angle), math.sin(angle)
    corners = [
        (left + dx * cosine - dy * sine, top + dx * sine + dy * cosine) for dx in (0, across) for dy in (0, down)
    ]
    xs, ys = zip(*corners, strict=True)
    return (round(min(xs)), round(min(ys)), round(max(xs)), round(max(ys))), size


def _image_name(address: str, images: ImageFolders) -> str:
    """Return the name of an image file from its address in Label Studio, without the prefix of an upload.

    Raises:
        DataError: The address has the brackets of an IPv6 host in a wrong place.
    """
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise DataError(f"the image's address {address!r} cannot be read: {error}") from error
    local = parse_qs(parts.query).get("d")
    path = PurePosixPath(unquote(local[0] if local else parts.path))
    shortened = UPLOAD_PREFIX.sub("", path.name, count=1) if UPLOAD_PREFIX.match(path.name) else path.name
    return path.name if images.find(path.name).is_file() else shortened


def _describe(value: Any, error: ValidationError) -> str:
    if isinstance(value, dict) and "annotations" not in value:
        name = f"task {value['id']}: " if "id" in value else ""
        return f"{name}has no annotations; export the project in the format JSON, not JSON-MIN"
    problems = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:3]]
    name = f"task {value['id']}: " if isinstance(value, dict) and "id" in value else ""
    return f"{name}{'; '.join(problems)}"
