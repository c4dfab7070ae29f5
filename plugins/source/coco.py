"""The source plugin `coco`: boxes in the format of COCO, whose images have a text and whose boxes name an entity."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from plugins.source.boxes import Box, convert_box
from plugins.source.image_folders import ImageFolders, image_folders
from plugins.source.json_items import Item, find_json_files, read_json_items
from plugins.source.sample_ids import SampleIds
from plugins.source.source_options import CocoOptions
from runner.dataset.answer_files import raise_problems
from runner.errors import DataError
from runner.records import Entity, Sample, Segment, is_blank, nfc, segment_letters
from runner.stages import SkippedEntry, SourceTweet

KEYS = ("images", "annotations", "categories")


class _Part(BaseModel):
    """A part of a file; keys that the source does not name are extra."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @property
    def extra(self) -> Mapping[str, Any]:
        """The keys that tools add."""
        return self.model_extra or {}


T = TypeVar("T", bound=_Part)


class _Image(_Part):
    id: int | str
    file_name: Annotated[str, Field(min_length=1)]
    width: Annotated[int, Field(gt=0)]
    height: Annotated[int, Field(gt=0)]


class _Annotation(_Part):
    id: int | str
    image_id: int | str
    category_id: int | str
    bbox: Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=4, max_length=4)]


class _Category(_Part):
    id: int | str
    name: str


class CocoSource:
    """Images of COCO files, in their order; files of a folder are sorted by name."""

    name = "COCO"

    def __init__(self, options: CocoOptions) -> None:
        """Store the options; `read` opens the files."""
        self._options = options
        self.labels: Sequence[str] = tuple(options.labels)
        self._problems: list[str] = []

    def read(self) -> Iterator[SourceTweet | SkippedEntry]:
        """Yield each image, and an entry for each skipped box.

        Raises:
            DataError: A file is missing or not JSON, or parts of it are invalid. Up to ten problems are reported.
        """
        self._problems, options = [], self._options
        parent = options.path if options.path.is_dir() else options.path.parent
        folders, ids = ImageFolders(image_folders(options.images, parent)), SampleIds()
        if options.images is not None:
            folders.check()
        for file in find_json_files(options.path):
            for entry in self._read_file(file, folders, ids):
                if not self._problems:
                    yield entry
        raise_problems(self._problems)

    def _read_file(self, file: Path, folders: ImageFolders, ids: SampleIds) -> Iterator[SourceTweet | SkippedEntry]:
        try:
            items = read_json_items(file)
        except DataError as error:
            self._problems.append(str(error))
            return
        if missing := [key for key in KEYS if key not in items]:
            self._problems.append(f"{file}:1: has no {', '.join(missing)}; a COCO file has {', '.join(KEYS)}")
            return
        label_of = {each.id: each.name for _, each in self._parts(items["categories"], _Category)}
        images = self._parts(items["images"], _Image)
        known = {image.id for _, image in images}
        annotations: dict[int | str, list[tuple[str, _Annotation]]] = defaultdict(list)
        for location, annotation in self._parts(items["annotations"], _Annotation):
            if annotation.image_id not in known:
                self._problems.append(
                    f"{location}: annotation {annotation.id}: no image has the id {annotation.image_id!r}"
                )
            elif label_of.get(annotation.category_id) not in self.labels:
                self._problems.append(
                    f"{location}: annotation {annotation.id}: the category "
                    f"{label_of.get(annotation.category_id, annotation.category_id)!r} is not one of "
                    f"{', '.join(self.labels)}; source.labels sets them"
                )
            else:
                annotations[annotation.image_id].append((location, annotation))
        for location, image in images:
            yield from self._entries(file.stem, location, image, annotations[image.id], label_of, folders, ids)

    def _parts(self, items: Sequence[Item], model: type[T]) -> list[tuple[str, T]]:
        parts = []
        for item in items:
            try:
                parts.append((item.location, model.model_validate(item.value)))
            except ValidationError as error:
                each = error.errors()[0]
                name = f"{item.value.get('id')!r}: " if isinstance(item.value, dict) else ""
                self._problems.append(f"{item.location}: {name}{'.'.join(map(str, each['loc']))}: {each['msg']}")
        return parts

    def _entries(
        self,
        split: str,
        location: str,
        image: _Image,
        annotations: Sequence[tuple[str, _Annotation]],
        label_of: Mapping[int | str, str],
        folders: ImageFolders,
        ids: SampleIds,
    ) -> Iterator[SourceTweet | SkippedEntry]:
        name, where = str(image.extra.get("name", image.id)), f"{location}: image {image.id}"
        self._problems += [f"{where}: {problem}" for problem in ids.problems(name, location)]
        text = image.extra.get(self._options.text_key)
        if not isinstance(text, str) or is_blank(text):
            self._problems.append(f"{where}: {self._options.text_key} is not a text; source.text_key names the key")
            return
        entities = self._entities(where, image)
        boxes: list[tuple[str, Box]] = []
        for place, annotation in annotations:
            mention = self._mention(annotation)
            if mention is None or not _occurs(mention, text):
                what = "without an entity" if mention is None else "of something that is not in the text"
                yield SkippedEntry(name, f"box {what}: annotation {annotation.id}")
                continue
            label = label_of[annotation.category_id]
            if Entity(label, mention) not in entities:
                entities.append(Entity(label, mention))
            box = self._box(f"{place}: annotation {annotation.id} (image {image.id})", annotation, image)
            if box is not None:
                boxes.append((mention, box))
        try:
            path = folders.find(image.file_name)
        except DataError as error:
            self._problems.append(f"{where}: {error}")
            return
        segments = tuple(
            Segment(letter, None, mention, box)
            for letter, (mention, box) in zip(segment_letters(), boxes, strict=False)
        )
        entities.sort(key=lambda entity: nfc(text).find(nfc(entity.text)))
        summary = image.extra.get("summary")
        sample = Sample(name, text, path, str(summary) if summary else None, tuple(entities), segments)
        yield SourceTweet(sample, str(image.extra.get("split", split)), (image.width, image.height), location)

    def _entities(self, where: str, image: _Image) -> list[Entity]:
        """Return the entities that the image lists, also those without a box."""
        entities = []
        for index, row in enumerate(image.extra.get("entities") or []):
            if not isinstance(row, dict) or row.get("label") not in self.labels or not isinstance(row.get("text"), str):
                known = ", ".join(self.labels)
                self._problems.append(
                    f'{where}: entities.{index}: {row!r} is not {{"label": …, "text": …}} with a label of {known}'
                )
            else:
                entities.append(Entity(row["label"], " ".join(row["text"].split())))
        return entities

    def _mention(self, annotation: _Annotation) -> str | None:
        """Return the entity that a box shows, from the annotation or its `attributes`, as CVAT writes them."""
        attributes = annotation.extra.get("attributes")
        holders = [annotation.extra, attributes if isinstance(attributes, dict) else {}]
        found = next((holder[key] for holder in holders if (key := self._options.entity_key) in holder), None)
        return " ".join(found.split()) if isinstance(found, str) and not is_blank(found) else None

    def _box(self, where: str, annotation: _Annotation, image: _Image) -> Box | None:
        attributes = annotation.extra.get("attributes")
        if isinstance(attributes, dict) and attributes.get("rotation"):
            self._problems.append(f"{where}: is turned by {attributes['rotation']} degrees; export upright boxes")
            return None
        try:
            return convert_box(annotation.bbox, self._options, (image.width, image.height))
        except DataError as error:
            self._problems.append(f"{where}: {error}")
            return None


def _occurs(mention: str, text: str) -> bool:
    return nfc(mention) in nfc(" ".join(text.split()))
