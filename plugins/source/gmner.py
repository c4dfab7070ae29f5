"""Source `gmner`: Twitter GMNER, tweets with tagged entities (CoNLL) and boxes (Pascal VOC)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml import ElementTree

from plugins.source.source_options import GmnerOptions
from runner.errors import DataError, read_error
from runner.records import Entity, Sample, Segment, segment_letters
from runner.stages import LeftOut, SourceTweet

SPLITS = ("train", "dev", "test")
LABELS = {"PER": "person", "LOC": "location", "ORG": "organization", "OTHER": "other", "MISC": "other"}
TAGS = {"O", *(f"{kind}-{label}" for kind in "BI" for label in LABELS)}
SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass
class _Tweet:
    """A tweet as its lines are read."""

    image_id: str
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
                    f"{folder}: no such folder; source.path names the folder with GMNER's txt/ and xml/ (in its "
                    "authors' repository Twitter10000 or Twitter10000_v2.0), source.images the one with its pictures"
                )
        for split in SPLITS:
            file = self._text / f"{split}.txt"
            if not file.is_file():
                raise DataError(f"{file}: missing")
            for number, tweet in enumerate(_tweets(file), start=1):
                yield from self._entries(f"{split}-{number}-{tweet.image_id}", split, tweet)

    def _entries(self, name: str, split: str, tweet: _Tweet) -> Iterator[SourceTweet | LeftOut]:
        entities = _entities(tweet)
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
    for number, line in enumerate(_text(file).split("\n"), start=1):
        if line.startswith("IMGID:"):
            if tweet is not None:
                yield tweet
            tweet = _Tweet(line.removeprefix("IMGID:").strip())
            if not tweet.image_id or "/" in tweet.image_id or tweet.image_id in {".", ".."}:
                raise read_error(file, number, f"{line!r} names no picture; write IMGID:<id>")
        elif line.strip():
            token, tab, tag = line.rpartition("\t")
            if tweet is None or not tab or not token:
                raise read_error(file, number, f"{line!r} is neither IMGID:<id> nor token<TAB>tag")
            tag = tag.strip()
            if tag not in TAGS:
                raise read_error(file, number, f"the tag {tag!r} is not O, B- or I- with {', '.join(LABELS)}")
            tweet.tokens.append(" ".join(token.split()))
            tweet.tags.append(tag)
    if tweet is not None:
        yield tweet


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: is no UTF-8 text: {error}") from error


def _entities(tweet: _Tweet) -> tuple[Entity, ...]:
    """Gather BIO tags; an I- that continues nothing of its label begins an entity, as CoNLL's own scorer reads it."""
    found: list[tuple[str, list[str]]] = []
    before = "O"
    for token, tag in zip(tweet.tokens, tweet.tags, strict=True):
        kind, _, label = tag.partition("-")
        if kind == "B" or (kind == "I" and before.partition("-")[2] != label):
            found.append((LABELS[label], [token]))
        elif kind == "I":
            found[-1][1].append(token)
        before = tag
    return tuple(Entity(label, " ".join(tokens)) for label, tokens in found)


def _annotation(path: Path) -> _Annotation:
    try:
        root = ElementTree.parse(path).getroot()
    except (ParseError, ValueError, LookupError) as error:  # An entity bomb, or an encoding nobody knows, too.
        raise DataError(f"{path}: is no usable XML: {error}") from error
    assert root is not None
    sides = ("size/width", "size/height")
    width, height = (_number(path, root, side) for side in sides) if root.find("size") is not None else (0, 0)
    objects = tuple((_name(path, each), _box(path, each)) for each in root.iter("object"))
    return _Annotation((width, height) if width and height else None, objects)


def _name(path: Path, element: Element) -> str:
    name = element.findtext("name")
    if name is None:
        raise DataError(f"{path}: an object has no name")
    return " ".join(name.split())


def _box(path: Path, element: Element) -> tuple[int, int, int, int]:
    left, top, right, bottom = (_number(path, element, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
    return left, top, right, bottom


def _number(path: Path, element: Element, name: str) -> int:
    text = element.findtext(name) or ""
    try:
        return round(float(text))
    except (ValueError, OverflowError) as error:
        raise DataError(f"{path}: {name} is {text!r}, not a number of pixels") from error
