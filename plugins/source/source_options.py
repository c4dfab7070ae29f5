"""Options of all source plugins."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from runner.stages import FilePath, OutsideFingerprint, SourceOptions

Images = Annotated[FilePath | Annotated[list[FilePath], Field(min_length=1)] | None, OutsideFingerprint()]
"""An option that names one folder of images, or several."""


BoxFormat = Literal["xyxy", "xywh", "cxcywh", "corners"]
BoxUnit = Literal["pixels", "fraction", "percent", "thousandths"]


class BoxOptions(SourceOptions):
    """The options of sources with boxes."""

    box_format: BoxFormat = "xyxy"
    """The four numbers of a box. `xyxy`: left, top, right, bottom. `xywh`: left, top, width, height. `cxcywh`: centre,
    width, height. `corners`: two opposite corners, in any order."""
    box_unit: BoxUnit = "pixels"
    """The unit of the numbers of a box. `pixels`: pixels of the image. `fraction`: fractions of the width and the
    height of the image, from 0 to 1. `percent`: the same from 0 to 100. `thousandths`: the same from 0 to 1000."""


class GmnerOptions(BoxOptions):
    """Twitter GMNER, version 1 or 2, as published by its authors (the repository NUSTM/GMNER), with its images."""

    path: Annotated[FilePath, OutsideFingerprint()]
    """Folder that contains `txt/` (train.txt, dev.txt, test.txt) and `xml/`."""
    images: Images = None
    """Folder of the images, or a list of folders, such as the two of IJCAI2019_data. The name of each image file is the
    IMGID of its tweet. Default: `images` in `path`."""


class FmnergOptions(BoxOptions):
    """Twitter FMNERG, as published by its authors (the repository NUSTM/FMNERG): GMNER's tweets with fine labels."""

    path: Annotated[FilePath, OutsideFingerprint()]
    """Folder that contains `txt_fine/` (train.txt, dev.txt, test.txt)."""
    boxes: Annotated[FilePath | None, OutsideFingerprint()] = None
    """Folder of the XML files with the boxes. The repository NUSTM/FMNERG has none: use `Twitter10000_v2.0/xml` of
    NUSTM/GMNER. Default: `xml` in `path`."""
    images: Images = None
    """Folder of the images, or a list of folders, such as the two of IJCAI2019_data. The name of each image file is the
    IMGID of its tweet. Default: `images` in `path`."""
    labels: Literal["coarse", "fine"] = "coarse"
    """Which labels entities get: one of 8 coarse labels (second column of the files) or of 51 fine labels (third
    column)."""


class MnerOptions(SourceOptions):
    """Twitter-2015 or Twitter-2017, as published with UMT (the repository jefferyYu/UMT): entities without boxes."""

    has_boxes: ClassVar[bool] = False

    path: Annotated[FilePath, OutsideFingerprint()]
    """Folder that contains train.txt, valid.txt and test.txt, such as `data/twitter2015` in the repository."""
    images: Images = None
    """Folder of the images, or a list of folders. The name of each image file is the IMGID of its tweet. Default:
    `images` in `path`."""


LABELS = ("person", "location", "organization", "other")
LABEL_PATTERN = r"^[^\s:;]+(?: [^\s:;]+)*$"
"""Words separated by one space, without colon or semicolon, which delimit labels in an answer."""


def _check_distinct(labels: list[str]) -> list[str]:
    if len(set(labels)) < len(labels):
        raise ValueError("a label occurs twice; list each label once")
    return labels


Labels = Annotated[
    list[Annotated[str, Field(pattern=LABEL_PATTERN)]], Field(min_length=1), AfterValidator(_check_distinct)
]


class JsonLinesOptions(BoxOptions):
    """Your own images, texts, entities and boxes, one JSON line per sample (docs/datasets.md)."""

    path: Annotated[FilePath, OutsideFingerprint()]
    """A file of JSON lines, or a folder with one file `<split>.jsonl` for each split. With `split: official`, the
    samples of each file form one split."""
    images: Images = None
    """Folder that the `image` paths are relative to, or a list of folders. Default: the folder that contains the file
    with the lines."""
    labels: Labels = Field(default=list(LABELS))
    """Allowed entity labels, in order. Default: person, location, organization and other, as in the paper."""


class LabelStudioOptions(SourceOptions):
    """Tasks of Label Studio with rectangles on an image and spans in a text, exported in the format JSON."""

    path: Annotated[FilePath, OutsideFingerprint()]
    """The exported file, or a folder with one file `<split>.json` for each split. A key `split` in the data of a task
    takes precedence over the name of the file."""
    images: Images = None
    """Folder of the images, or a list of folders. The build looks for the name at the end of the address of the image,
    with and without the eight digits that Label Studio puts before the name of an uploaded file. Default: the folder
    that contains the exported file."""
    image_key: str = "image"
    """The key of the image in the data of a task."""
    text_key: str = "text"
    """The key of the text in the data of a task."""
    labels: Labels = Field(default=list(LABELS))
    """Allowed entity labels, in order. Default: person, location, organization and other, as in the paper."""
    join: Literal["relation", "label_and_order"] = "relation"
    """How rectangles are joined with spans. `relation`: by the relations between them. `label_and_order`: the first
    rectangle of a label shows the first span of this label, and so on. The build leaves out other rectangles."""
    rotation: Literal["refuse", "bound"] = "refuse"
    """What the build does with turned rectangles. `refuse`: it stops with an error that lists them. `bound`: it uses
    the smallest upright box around them."""
    several_annotations: Literal["refuse", "last"] = "refuse"
    """What the build does with tasks that several people have annotated. `refuse`: it stops with an error that lists
    them. `last`: it uses the last annotation of the task. Cancelled annotations never count."""


class CocoOptions(BoxOptions):
    """Boxes in the format of COCO. Each image has a text, and each annotation names the entity that the box shows."""

    path: Annotated[FilePath, OutsideFingerprint()]
    """The file, or a folder with one file `<split>.json` for each split. A key `split` of an image takes precedence
    over the name of the file."""
    images: Images = None
    """Folder that the `file_name` of an image is relative to, or a list of folders. Default: the folder that contains
    the file."""
    box_format: BoxFormat = "xywh"
    """The four numbers of a `bbox`. `xywh`: left, top, width, height, as COCO defines it. The others as in the source
    `json_lines`."""
    text_key: str = "text"
    """The key of the text in an image."""
    entity_key: str = "entity"
    """The key of the entity in an annotation, or in its `attributes`. The label of the entity is the category."""
    labels: Labels = Field(default=list(LABELS))
    """Allowed categories, in order. Default: person, location, organization and other, as in the paper."""
