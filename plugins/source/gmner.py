"""The source plugins `gmner`, `fmnerg` and `mner`: tweets with tagged entities (CoNLL), and boxes (Pascal VOC)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from plugins.source.boxes import Box, convert_box, upright_size
from plugins.source.image_folders import ImageFolders, image_folders
from plugins.source.pascal_voc import Annotation, read_annotation
from plugins.source.source_options import BoxOptions, FmnergOptions, GmnerOptions, MnerOptions
from plugins.source.tagged_tweets import (
    TagColumn,
    TaggedTweet,
    read_tweets,
    split_blank_entities,
    tagged_entities,
)
from runner.dataset.answer_files import raise_problems
from runner.errors import DataError
from runner.records import Sample, Segment, is_blank, nfc, segment_letters
from runner.stages import SkippedEntry, SourceTweet

SPLITS = ("train", "dev", "test")
LABELS = {"PER": "person", "LOC": "location", "ORG": "organization", "OTHER": "other", "MISC": "other"}
"""The labels of GMNER and of Twitter-2015 (`OTHER`) and Twitter-2017 (`MISC`)."""
FINE_LABELS = {
    "location": ("city", "country", "state", "continent", "location_other", "park", "road"),
    "building": ("building_other", "cultural_place", "entertainment_place", "sports_facility"),
    "organization": (
        *("company", "educational_institution", "band", "government_agency", "news_agency", "organization_other"),
        *("political_party", "social_organization", "sports_league", "sports_team"),
    ),
    "person": (
        *("politician", "musician", "actor", "artist", "athlete", "author", "businessman", "character", "coach"),
        *("director", "intellectual", "journalist", "person_other"),
    ),
    "other": ("animal", "award", "medical_thing", "website", "ordinance"),
    "art": ("art_other", "film_and_television_works", "magazine", "music", "written_work"),
    "event": ("event_other", "festival", "sports_event"),
    "product": ("brand_name_products", "game", "product_other", "software"),
}
"""The 8 coarse and 51 fine labels of FMNERG (ACM MM 2023), as its authors' code lists them."""
OTHER_SOURCES = {2: "gmner or mner", 3: "fmnerg"}


class GmnerSource:
    """Twitter GMNER, in the order of its files.

    A box belongs to the entity whose text equals the box's name; other boxes are skipped. The IMGID of the text
    identifies image and XML, because the file name inside the XML is that of another image in some hundred cases.
    """

    name = "Twitter GMNER"
    labels: Sequence[str] = tuple(dict.fromkeys(LABELS.values()))

    def __init__(self, options: GmnerOptions) -> None:
        """Store the options; `read` opens the files."""
        folders = _Folders(
            options.path / "txt", options.path / "xml", image_folders(options.images, options.path / "images")
        )
        self._reader = _Reader(folders, TagColumn(2, 1, LABELS, OTHER_SOURCES), options)

    def read(self) -> Iterator[SourceTweet | SkippedEntry]:
        """Yield each tweet, and an entry for each skipped tweet or box.

        Raises:
            DataError: A folder is missing, or files are invalid. Up to ten problems are reported after the last tweet.
        """
        self._reader.check_folders(
            "source.path is the folder with GMNER's txt/ and xml/ (Twitter10000 or Twitter10000_v2.0 in its authors' "
            "repository)"
        )
        yield from self._reader.read(SPLITS)


class FmnergSource:
    """Twitter FMNERG: as `GmnerSource`, with three columns."""

    name = "Twitter FMNERG"

    def __init__(self, options: FmnergOptions) -> None:
        """Store the options; `read` opens the files."""
        coarse, fine = list(FINE_LABELS), [label for labels in FINE_LABELS.values() for label in labels]
        self.labels: Sequence[str] = fine if options.labels == "fine" else coarse
        column = TagColumn(
            3, 2 if options.labels == "fine" else 1, {label: label for label in self.labels}, OTHER_SOURCES
        )
        boxes = options.boxes or options.path / "xml"
        images = image_folders(options.images, options.path / "images")
        folders = _Folders(options.path / "txt_fine", boxes, images)
        self._reader = _Reader(folders, column, options)

    def read(self) -> Iterator[SourceTweet | SkippedEntry]:
        """Yield each tweet, and an entry for each skipped tweet or box; errors as in `GmnerSource.read`."""
        self._reader.check_folders(
            "source.path is the folder with FMNERG's txt_fine/ (Twitter10000v2 in its authors' repository), "
            "source.boxes the folder xml/ of GMNER's Twitter10000_v2.0"
        )
        yield from self._reader.read(SPLITS)


class MnerSource:
    """Twitter-2015 or Twitter-2017, in the order of its files; no tweet has a segment."""

    name = "Twitter MNER"
    labels = GmnerSource.labels

    def __init__(self, options: MnerOptions) -> None:
        """Store the options; `read` opens the files."""
        folders = _Folders(options.path, None, image_folders(options.images, options.path / "images"))
        self._reader = _Reader(folders, TagColumn(2, 1, LABELS, OTHER_SOURCES), BoxOptions())

    def read(self) -> Iterator[SourceTweet | SkippedEntry]:
        """Yield each tweet, and an entry for each skipped tweet; errors as in `GmnerSource.read`."""
        self._reader.check_folders(
            "source.path is a folder with train.txt, valid.txt and test.txt (data/twitter2015 or data/twitter2017 in "
            "the repository jefferyYu/UMT)"
        )
        yield from self._reader.read(("train", "valid", "test"))


class _Folders:
    """The folders of a corpus: of the texts, of the XML files (None without boxes), and of the images."""

    def __init__(self, texts: Path, xml: Path | None, images: Sequence[Path]) -> None:
        self.texts, self.xml, self.images = texts, xml, ImageFolders(images)


class _Reader:
    """Reads the files of a corpus and collects their problems, to report them together."""

    def __init__(self, folders: _Folders, column: TagColumn, options: BoxOptions) -> None:
        self._folders, self._column, self._options = folders, column, options
        self._problems: list[str] = []

    def check_folders(self, advice: str) -> None:
        """Raise a DataError that ends with the advice if a folder is missing."""
        for folder in (self._folders.texts, self._folders.xml):
            if folder is not None and not folder.is_dir():
                raise DataError(f"{folder}: no such folder; {advice}")
        self._folders.images.check()

    def read(self, splits: Sequence[str]) -> Iterator[SourceTweet | SkippedEntry]:
        """Yield the entries of each split; after the first problem only look for more problems, and raise them."""
        self._problems = []
        files = [self._folders.texts / f"{split}.txt" for split in splits]
        raise_problems([f"{file}: no such file" for file in files if not file.is_file()])
        for split, file in zip(splits, files, strict=True):
            for number, tweet in enumerate(read_tweets(file, self._column, self._problems), start=1):
                entries = list(self._entries(f"{split}-{number}-{tweet.image_id}", split, tweet))
                if not self._problems:
                    yield from entries
        raise_problems(self._problems)

    def _entries(self, name: str, split: str, tweet: TaggedTweet) -> Iterator[SourceTweet | SkippedEntry]:
        if is_blank(tweet.text):
            yield SkippedEntry(name, "tweet without text: all tokens are white space")
            return
        entities, skipped = split_blank_entities(name, tagged_entities(tweet, self._column.labels))
        yield from skipped
        image = self._find_image(name, tweet)
        annotation = self._read_annotation(name, tweet)
        mentions = {nfc(entity.text) for entity in entities}
        boxes: list[tuple[str, Box]] = []
        for title, values in annotation.objects:
            if nfc(title) not in mentions:
                yield SkippedEntry(name, f"box of something that is not an entity of the text: {title}")
            elif (box := self._convert_box(name, tweet, values, annotation, image)) is not None:
                boxes.append((title, box))
        segments = tuple(
            Segment(letter, None, title, box) for letter, (title, box) in zip(segment_letters(), boxes, strict=False)
        )
        sample = Sample(name, tweet.text, image, None, entities, segments)
        yield SourceTweet(sample, split, annotation.size, tweet.location)

    def _find_image(self, name: str, tweet: TaggedTweet) -> Path:
        try:
            return self._folders.images.find(tweet.image_id)
        except DataError as error:
            self._problems.append(f"{tweet.location}: sample {name}: {error}")
            return Path(tweet.image_id)

    def _read_annotation(self, name: str, tweet: TaggedTweet) -> Annotation:
        path = self._folders.xml / f"{tweet.image_id}.xml" if self._folders.xml else None
        if path is None or not path.is_file():
            return Annotation(None, ())
        try:
            return read_annotation(path)
        except DataError as error:
            self._problems.append(f"{error} (sample {name})")
            return Annotation(None, ())

    def _convert_box(
        self, name: str, tweet: TaggedTweet, values: Sequence[float], annotation: Annotation, image: Path
    ) -> Box | None:
        try:
            size = None if self._options.box_unit == "pixels" else annotation.size or upright_size(image)
            return convert_box(values, self._options, size)
        except DataError as error:
            assert self._folders.xml is not None
            self._problems.append(f"{self._folders.xml / tweet.image_id}.xml: sample {name}: {error}")
            return None
