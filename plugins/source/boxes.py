"""Converts boxes of any format and unit to pixels, and says which option describes a box that does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from plugins.source.source_options import BoxFormat, BoxOptions, BoxUnit
from runner.errors import DataError
from runner.images import read_upright_size

UNITS: dict[BoxUnit, float] = {"fraction": 1, "percent": 100, "thousandths": 1000}
"""The value of the right and of the bottom edge of the image, for units that are relative to the image."""
TOLERANCE = 1e-3
"""By how much of the side of the image a relative value may exceed it, for rounding."""

Box = tuple[int, int, int, int]
Size = tuple[int, int]


def convert_box(values: Sequence[float], options: BoxOptions, size: Size | None) -> Box:
    """Convert a box to left, top, right and bottom in pixels, rounded.

    Args:
        values: The four numbers.
        options: Their format and unit.
        size: Width and height of the image in pixels, for a unit that is relative to the image. None: the image cannot
            be read. The build reports the image, so that the box does not matter.

    Raises:
        DataError: The box does not have this format or unit. The message names the option that describes it.
    """
    _check_unit(values, options.box_unit)
    left, top, right, bottom = _to_edges(values, options.box_format)
    if right < left or bottom < top:
        raise DataError(_inverted_message(values, options.box_format))
    if options.box_unit == "pixels":
        return round(left), round(top), round(right), round(bottom)
    if size is None:
        return 0, 0, 0, 0
    x_scale, y_scale = (side / UNITS[options.box_unit] for side in size)
    return round(left * x_scale), round(top * y_scale), round(right * x_scale), round(bottom * y_scale)


def upright_size(path: Path) -> Size | None:
    """Read width and height in pixels of an image after the rotation that its EXIF data state; None if unreadable."""
    try:
        return read_upright_size(path)
    except Exception:  # Damaged files make Pillow raise many types; the build reports the image with the reason.
        return None


def _to_edges(values: Sequence[float], box_format: BoxFormat) -> tuple[float, float, float, float]:
    x, y, third, fourth = values
    if box_format == "xywh":
        return x, y, x + third, y + fourth
    if box_format == "cxcywh":
        return x - third / 2, y - fourth / 2, x + third / 2, y + fourth / 2
    if box_format == "corners":
        return min(x, third), min(y, fourth), max(x, third), max(y, fourth)
    return x, y, third, fourth


def _check_unit(values: Sequence[float], unit: BoxUnit) -> None:
    shown = _shown(values)
    if unit == "pixels":
        if all(0 <= value <= 1 for value in values):
            raise DataError(
                f"the box {shown} is smaller than one pixel; for fractions of the image, set source.box_unit: fraction"
            )
    elif any(not -TOLERANCE <= value / UNITS[unit] <= 1 + TOLERANCE for value in values):
        raise DataError(
            f"the box {shown} is not between 0 and {UNITS[unit]:g}, as source.box_unit: {unit} says; for pixels, set "
            "source.box_unit: pixels"
        )


def _inverted_message(values: Sequence[float], box_format: BoxFormat) -> str:
    if box_format != "xyxy":
        return f"the box {_shown(values)} has a negative width or height"
    return (
        f"the box {_shown(values)} is inverted: its right edge is left of its left edge, or its bottom is above its "
        "top. For x, y, width, height, set source.box_format: xywh; for corners in any order, set source.box_format: "
        "corners"
    )


def _shown(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:g}" for value in values) + "]"
