"""Frames of boxes: the numbers that a model writes for a position in an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from runner.records import Box


def intersection_over_union(a: Box, b: Box) -> float:
    """Return the area that two boxes share, divided by the area that they cover together.

    It is 0 if they share nothing, also for a box without area.
    """
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return shared / (sum(areas) - shared)


IOU_ROUNDING = 1e-9
"""Boxes are compared in the frame of the answer, where the IoU of a box that just reaches a limit is rounded."""


def best_iou(found: Sequence[Box], right: Sequence[Box]) -> float:
    """Return the largest IoU of a found box with a right one; 0 if there is no box on one side."""
    return max((intersection_over_union(a, b) for a in found for b in right), default=0.0)


def have_same_region(found: Sequence[Box] | None, right: Sequence[Box], min_iou: float) -> bool:
    """Return whether any found box has the IoU with any right one, or there are none on both sides.

    Args:
        found: The boxes of an entity in an answer; None if they cannot be read.
        right: The boxes of the entity in the reference.
        min_iou: Smallest intersection over union of a right box.
    """
    if found is None or not found or not right:
        return found is not None and not found and not right
    return best_iou(found, right) >= min_iou - IOU_ROUNDING


@dataclass(frozen=True)
class BoxFrame:
    """Pixels of the image as it is stored; the other frames derive from this one.

    A frame scales each axis by itself. The intersection over union (IoU) of two boxes is therefore the same in every
    frame, and boxes can be compared in the frame in which they were written.

    Attributes:
        before: Text before the list of an entity's boxes.
        after: Text after it.
        separator: Text between two numbers, and between two boxes.
    """

    before: str = ""
    after: str = ""
    separator: str = ","

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height of an image in the units of the frame.

        Args:
            width: Width of the image in pixels.
            height: Its height in pixels.
        """
        return width, height

    def from_pixels(self, box: Box, width: int, height: int) -> Box:
        """Convert a box from pixels of an image into the frame, without rounding.

        Args:
            box: Left, top, right and bottom in pixels of the image.
            width: Width of the image in pixels.
            height: Its height in pixels.
        """
        frame_width, frame_height = self.size(width, height)
        left, top, right, bottom = box
        across, down = frame_width / width, frame_height / height
        return left * across, top * down, right * across, bottom * down

    def write(self, boxes: Sequence[Box]) -> str:
        """Write the boxes of an entity, each number rounded to a whole unit of the frame.

        One box is written as `[left,top,right,bottom]`, several as a list of these; text before and after stands only
        around a list.
        """
        return self.join([[str(round(side)) for side in box] for box in boxes])

    def join(self, boxes: Sequence[Sequence[str]]) -> str:
        """Write boxes whose sides are texts already; see `write`."""
        items = [f"[{self.separator.join(sides)}]" for sides in boxes]
        if len(items) == 1 and not self.before:
            return items[0]
        return f"{self.before}[{self.separator.join(items)}]{self.after}"

    @property
    def unit(self) -> str:
        """The unit of the numbers, as a prompt names it."""
        return "pixels of the image"

    def as_json(self) -> dict[str, Any]:
        """Describe the frame as plain data, which a plan pins."""
        return {"type": type(self).__name__, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class RelativeFrame(BoxFrame):
    """Positions as parts of the width and of the height of the image, which both have the same number of units.

    Attributes:
        units: Number of units of each side.
    """

    units: int

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return the number of units for both sides; see `BoxFrame.size`."""
        return self.units, self.units

    @property
    def unit(self) -> str:
        """The unit of the numbers, as a prompt names it."""
        return f"numbers from 0 to {self.units} for the width and for the height of the image"


@dataclass(frozen=True, kw_only=True)
class ResizedFrame(BoxFrame):
    """Pixels of the image as a Qwen-VL processor resizes it for the model.

    Both sides become multiples of `multiple`, and the area stays between the two limits if the image's shape permits.
    The rule is that of `smart_resize` in transformers' image processor of Qwen2-VL.

    Attributes:
        multiple: Side of the square that becomes one token, in pixels.
        min_pixels: Minimum area; smaller images are enlarged.
        max_pixels: Maximum area; larger images are reduced.
    """

    multiple: int
    min_pixels: int
    max_pixels: int

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height of the resized image; see `BoxFrame.size`."""
        unit = self.multiple
        rounded = (round(width / unit) * unit, round(height / unit) * unit)
        area = rounded[0] * rounded[1]
        if area > self.max_pixels:
            shrink = math.sqrt((height * width) / self.max_pixels)
            return (
                max(unit, math.floor(width / shrink / unit) * unit),
                max(unit, math.floor(height / shrink / unit) * unit),
            )
        if area < self.min_pixels:
            growth = math.sqrt(self.min_pixels / (height * width))
            return math.ceil(width * growth / unit) * unit, math.ceil(height * growth / unit) * unit
        return rounded


class BoxAdapter(Protocol):
    """Optional for an adapter: writes and reads boxes in the frame of the spec's model.

    Its options derive from `AdapterOptions`, and their `needs_box_frame` says whether the engine calls `in_frame`.
    """

    def in_frame(self, frame: BoxFrame) -> Any:
        """Return the same adapter that uses this frame."""
