"""Options of all source plugins."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

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


class JsonLinesOptions(BoxOptions):
    """Your own images, texts, entities and boxes, one JSON line per sample (docs/datasets.md)."""

    path: Annotated[FilePath, OutsideFingerprint()]
    """A file of JSON lines, or a folder with one file `<split>.jsonl` for each split. With `split: official`, the
    samples of each file form one split."""
    images: Images = None
    """Folder that the `image` paths are relative to, or a list of folders. Default: the folder that contains the file
    with the lines."""
    labels: list[Annotated[str, Field(pattern=LABEL_PATTERN)]] = Field(default=list(LABELS), min_length=1)
    """Allowed entity labels, in order. Default: person, location, organization and other, as in the paper."""

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: list[str]) -> list[str]:
        if len(set(labels)) < len(labels):
            raise ValueError("a label occurs twice; list each label once")
        return labels
