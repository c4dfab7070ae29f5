"""Reads Twitter GMNER: tweets with tagged entities (CoNLL) and the boxes that show them (Pascal VOC)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from plugins.source.gmner_options import GmnerOptions
from runner.errors import DataError, read_error
from runner.records import Entity, Sample, Segment, segment_letters
from runner.stages import LeftOut, SourceTweet

SPLITS = ("train", "dev", "test")
LABELS = {"PER": "person", "LOC": "location", "ORG": "organization", "OTHER": "other", "MISC": "other"}
SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass
class _Tweet:
    """A tweet as its lines are read."""

    image_id: str
    line: int
    tokens: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Annotation:
    """What an XML file says: the picture's size, and name and box of each object."""

    size: tuple[int, int] | None
    objects: tuple[tuple[str, tuple[int, int, int, int]], ...]


class GmnerSource:
    """Twitter GMNER, in the order of its files.

    A box belongs to the entity whose text is its name; a box of anything else is left out. A tweet is kept when
    at least one box shows an entity that its text names. The text's IMGID names picture and XML: the file name
    inside the XML is that of another picture in some hundred cases.
    """

    name = "Twitter GMNER"
    labels: Sequence[str] = tuple(dict.fromkeys(LABELS.values()))

    def __init__(self, options: GmnerOptions) -> None:
        """Take the options; nothing is read yet."""
        self._text, self._xml = options.path / "txt", options.path / "xml"
        self._images = options.images or options.path / "images"

    def read(self) -> Iterator[SourceTweet | LeftOut]:
        """Yield each tweet, and each that is left out.

        Raises:
            DataError: A folder is missing, or a file is broken, with its line.
        """
        for folder in (self._text, self._xml, self._images):
            if not folder.is_dir():
                raise DataError(
                    f"{folder}: no such folder; source.path names the folder with GMNER's txt/ and xml/, "
                    "source.images the one with its pictures"
                )
        for split in SPLITS:
            file = self._text / f"{split}.txt"
            if not file.is_file():
                raise DataError(f"{file}: missing")
            for number, tweet in enumerate(_tweets(file), start=1):
                yield from self._entries(file, f"{split}-{number}-{tweet.image_id}", split, tweet)

    def _entries(self, file: Path, name: str, split: str, tweet: _Tweet) -> Iterator[SourceTweet | LeftOut]:
        entities = _entities(file, tweet)
        xml = self._xml / f"{tweet.image_id}.xml"
        if not xml.is_file():
            yield LeftOut(name, "tweet whose picture has no boxes")
            return
        annotation = _annotation(xml)
        named = {entity.text for entity in entities}
        for other in (title for title, _ in annotation.objects if title not in named):
            yield LeftOut(name, f"box of something that the text does not name: {other}")
        boxes = [(title, box) for title, box in annotation.objects if title in named]
        if not boxes:
            yield LeftOut(name, "tweet without a box of a tagged entity")
            return
        segments = tuple(
            Segment(letter, None, title, box) for letter, (title, box) in zip(segment_letters(), boxes, strict=False)
        )
        sample = Sample(name, " ".join(tweet.tokens), self._image(tweet.image_id), None, entities, segments)
        yield SourceTweet(sample, split, annotation.size)

    def _image(self, image_id: str) -> Path:
        candidates = [self._images / f"{image_id}{suffix}" for suffix in SUFFIXES]
        return next((path for path in candidates if path.is_file()), candidates[0])


def _tweets(file: Path) -> Iterator[_Tweet]:
    tweet: _Tweet | None = None
    for number, raw in enumerate(file.read_text(encoding="utf-8").split("\n"), start=1):
        line = raw.strip("\r")
        if line.startswith("IMGID:"):
            if tweet is not None:
                yield tweet
            tweet = _Tweet(line.removeprefix("IMGID:").strip(), number)
            if not tweet.image_id or "/" in tweet.image_id or tweet.image_id in {".", ".."}:
                raise read_error(file, number, f"{line!r} names no picture; write IMGID:<id>")
        elif line.strip():
            token, tab, tag = line.rpartition("\t")
            if tweet is None or not tab or not token:
                raise read_error(file, number, f"{line!r} is neither IMGID:<id> nor token<TAB>tag")
            tweet.tokens.append(token.strip())
            tweet.tags.append(tag.strip())
    if tweet is not None:
        yield tweet


def _entities(file: Path, tweet: _Tweet) -> tuple[Entity, ...]:
    """Gather BIO tags; an I- that continues nothing of its label begins an entity, as CoNLL's own scorer reads it."""
    found: list[tuple[str, list[str]]] = []
    before = "O"
    for offset, (token, tag) in enumerate(zip(tweet.tokens, tweet.tags, strict=True), start=1):
        kind, _, label = tag.partition("-")
        if tag != "O" and (kind not in {"B", "I"} or label not in LABELS):
            raise read_error(file, tweet.line + offset, f"the tag {tag!r} is not O, B- or I- with {', '.join(LABELS)}")
        if kind == "B" or (kind == "I" and before.partition("-")[2] != label):
            found.append((LABELS[label], [token]))
        elif kind == "I":
            found[-1][1].append(token)
        before = tag
    return tuple(Entity(label, " ".join(tokens)) for label, tokens in found)


def _annotation(path: Path) -> _Annotation:
    try:
        root = ElementTree.parse(path).getroot()
    except (ParseError, DefusedXmlException) as error:
        raise DataError(f"{path}: is no usable XML: {error}") from error
    size = (_number(path, root, "size/width"), _number(path, root, "size/height")) if root.find("size") is not None else None
    objects = tuple((_name(path, each), _box(path, each)) for each in root.iter("object"))
    return _Annotation(size if size and all(size) else None, objects)


def _name(path: Path, element: Element) -> str:
    name = element.findtext("name")
    if name is None:
        raise DataError(f"{path}: an object has no name")
    return " ".join(name.split())


def _box(path: Path, element: Element) -> tuple[int, int, int, int]:
    left, top, right, bottom = (
        _number(path, element, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")
    )
    return left, top, right, bottom


def _number(path: Path, element: Element, name: str) -> int:
    text = element.findtext(name) or ""
    try:
        return round(float(text))
    except ValueError as error:
        raise DataError(f"{path}: {name} is {text!r}, not a number of pixels") from error
