"""Reads the boxes of an image from an XML file in the format of Pascal VOC."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml import ElementTree

from runner.errors import DataError

SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class Annotation:
    """The content of an XML file.

    Attributes:
        size: Width and height in pixels of the image that the boxes were drawn on; None if the file does not say.
        objects: The name and the four numbers of each box.
    """

    size: tuple[int, int] | None
    objects: tuple[tuple[str, tuple[float, ...]], ...]


def read_annotation(path: Path) -> Annotation:
    """Read an XML file.

    Raises:
        DataError: The file is not valid XML, or a name or a number is missing.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (ParseError, ValueError, LookupError) as error:  # Also raised for an entity bomb or an unknown encoding.
        raise DataError(f"{path}: is not valid XML: {error}") from error
    assert root is not None
    sides = ("size/width", "size/height")
    width, height = (round(_number(path, root, side)) for side in sides) if root.find("size") is not None else (0, 0)
    objects = tuple(
        (_name(path, element), tuple(_number(path, element, f"bndbox/{side}") for side in SIDES))
        for element in root.iter("object")
    )
    return Annotation((width, height) if width and height else None, objects)


def _name(path: Path, element: Element) -> str:
    name = element.findtext("name")
    if name is None:
        raise DataError(f"{path}: an object has no name")
    return " ".join(name.split())


def _number(path: Path, element: Element, name: str) -> float:
    text = element.findtext(name) or ""
    try:
        number = float(text)
        round(number)  # Raises for an infinite number, and for one that is not a number.
    except (ValueError, OverflowError) as error:
        raise DataError(f"{path}: {name} is {text!r}, not a number of pixels") from error
    return number
