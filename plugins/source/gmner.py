"""The source plugin `gmner`: Twitter GMNER, tweets with tagged entities (CoNLL) and boxes (Pascal VOC)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated
from xml.etree.ElementTree import Element, ParseError

from defusedxml import ElementTree

from runner.errors import DataError, data_line_error
from runner.files import describe_decode_error
from runner.records import Entity, Sample, Segment, is_blank, nfc, segment_letters
from runner.stages import FilePath, Options, OutsideFingerprint, SkippedEntry, SourceTweet

SPLITS = ("train", "dev", "test")
LABELS = {"PER": "person", "LOC": "location", "ORG": "organization", "OTHER": "other", "MISC": "other"}
TAGS = {"O", *(f"{kind}-{label}" for kind in "BI" for label in LABELS)}
SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")


class GmnerOptions(Options):
    """Twitter GMNER, version 1 or 2, as published by its authors (the repository NUSTM/GMNER), with its images."""

    path: Annotated[FilePath, OutsideFingerprint()]
    """Folder that contains `txt/` (train.txt, dev.txt, test.txt) and `xml/`."""
    images: Annotated[FilePath | None, OutsideFingerprint()] = None
    """Folder of the images. The name of each image file is the IMGID of its tweet. Default: `images` in `path`."""


@dataclass
class _Tweet:
    """A tweet, filled line by line."""

    image_id: str
    tokens: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Annotation:
    """Content of an XML file: the size of the image, and name and box of each object."""

    size: tuple[int, int] | None
    objects: tuple[tuple[str, tuple[int, int, int, int]], ...]


class GmnerSource:
    """Twitter GMNER, in the order of its files.

    A box belongs to the entity whose text equals the box's name; other boxes are skipped. A tweet is used if at least
    one box shows an entity of its text. The IMGID of the text identifies image and XML, because the file name inside
    the XML is that of another image in some hundred cases.
    """

    name = "Twitter GMNER"
    labels: Sequence[str] = tuple(dict.fromkeys(LABELS.values()))

    def __init__(self, options: GmnerOptions) -> None:
        """Store the options; `read` opens the files."""
        self._text, self._xml = options.path / "txt", options.path / "xml"
        self._images = options.images or options.path / "images"

    def read(self) -> Iterator[SourceTweet | SkippedEntry]:
        """Yield each tweet, and an entry for each skipped tweet or box.

        Raises:
            DataError: A folder is missing, or a line of a file is invalid.
        """
        for folder in (self._text, self._xml, self._images):
            if not folder.is_dir():
                raise DataError(
                    f"{folder}: no such folder; source.path is the folder with GMNER's txt/ and xml/ (Twitter10000 or "
                    "Twitter10000_v2.0 in its authors' repository), source.images the folder with its images"
                )
        for split in SPLITS:
            file = self._text / f"{split}.txt"
            if not file.is_file():
                raise DataError(f"{file}: no such file")
            for number, tweet in enumerate(_tweets(file), start=1):
                yield from self._entries(f"{split}-{number}-{tweet.image_id}", split, tweet)

    def _entries(self, name: str, split: str, tweet: _Tweet) -> Iterator[SourceTweet | SkippedEntry]:
        text = " ".join(filter(None, tweet.tokens))
        if is_blank(text):
            yield SkippedEntry(name, "tweet without text: all tokens are white space")
            return
        tagged = _entities(tweet)
        entities = tuple(entity for entity in tagged if not is_blank(entity.text))
        for entity in tagged:
            if is_blank(entity.text):
                yield SkippedEntry(name, f"entity of white space, tagged as {entity.label}")
        xml = self._xml / f"{tweet.image_id}.xml"
        if not xml.is_file():
            yield SkippedEntry(name, "tweet without boxes")
            return
        annotation = _annotation(xml)
        mentions = {nfc(entity.text) for entity in entities}
        for other in (title for title, _ in annotation.objects if nfc(title) not in mentions):
            yield SkippedEntry(name, f"box of something that is not an entity of the text: {other}")
        boxes = [(title, box) for title, box in annotation.objects if nfc(title) in mentions]
        if not boxes:
            yield SkippedEntry(name, "tweet without a box of a tagged entity")
            return
        segments = tuple(
            Segment(letter, None, title, box) for letter, (title, box) in zip(segment_letters(), boxes, strict=False)
        )
        sample = Sample(name, text, self._image(tweet.image_id), None, entities, segments)
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
                raise data_line_error(file, number, f"{line!r} has no image id; write IMGID:<id>")
        elif line.strip():
            token, tab, tag = line.rpartition("\t")
            if tweet is None or not tab or not token:
                raise data_line_error(file, number, f"{line!r} is neither IMGID:<id> nor token<TAB>tag")
            tag = tag.strip()
            if tag not in TAGS:
                raise data_line_error(file, number, f"the tag {tag!r} is not O, B- or I- with {', '.join(LABELS)}")
            tweet.tokens.append(" ".join(token.split()))
            tweet.tags.append(tag)
    if tweet is not None:
        yield tweet


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line, _, message = describe_decode_error(error)
        raise data_line_error(file, line, message) from error


def _entities(tweet: _Tweet) -> tuple[Entity, ...]:
    """Collect entities from BIO tags; as in CoNLL's scorer, an I- that follows no tag of its label starts an entity."""
    entities: list[tuple[str, list[str]]] = []
    previous = "O"
    for token, tag in zip(tweet.tokens, tweet.tags, strict=True):
        kind, _, label = tag.partition("-")
        if kind == "B" or (kind == "I" and previous.partition("-")[2] != label):
            entities.append((LABELS[label], [token]))
        elif kind == "I":
            entities[-1][1].append(token)
        previous = tag
    return tuple(Entity(label, " ".join(filter(None, tokens))) for label, tokens in entities)


def _annotation(path: Path) -> _Annotation:
    try:
        root = ElementTree.parse(path).getroot()
    except (ParseError, ValueError, LookupError) as error:  # Also raised for an entity bomb or an unknown encoding.
        raise DataError(f"{path}: is not valid XML: {error}") from error
    assert root is not None
    sides = ("size/width", "size/height")
    width, height = (_number(path, root, side) for side in sides) if root.find("size") is not None else (0, 0)
    objects = tuple((_name(path, element), _box(path, element)) for element in root.iter("object"))
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
