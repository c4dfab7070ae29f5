"""The pictures of the synthetic data: emblems of a colour and a shape at places of a grid."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw

CELL = 16
"""Pixels of a grid cell's side, which is a segment's: one patch of the tiny model's vision tower after merging."""
GRID = 3
"""Cells of the picture's side."""
WALL = 150
"""Grey of the background, 0 to 255."""
GRAIN = 8
"""Grey levels by which the wall's pixels differ, so that no two pictures are the same."""
FINE = 8
"""Emblems are drawn so many times larger and scaled down, for smooth edges."""

COLOURS = {
    "red": (214, 40, 40),
    "green": (42, 157, 70),
    "blue": (38, 84, 214),
    "yellow": (244, 208, 40),
    "purple": (130, 50, 170),
    "orange": (240, 130, 30),
    "white": (250, 250, 250),
    "black": (20, 20, 20),
}
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "centre", "right")
SHAPES = ("circle", "square", "triangle", "cross")


@dataclass(frozen=True)
class Emblem:
    """A colour and a shape."""

    colour: str
    shape: str

    def __str__(self) -> str:
        """Such as `red circle`."""
        return f"{self.colour} {self.shape}"


class Picture:
    """A wall with room for emblems."""

    def __init__(self, rng: random.Random) -> None:
        """Make an empty wall with a grain of its own."""
        side = GRID * CELL
        grain = Image.frombytes("L", (side, side), rng.randbytes(side * side))
        wall = grain.point([WALL - GRAIN // 2 + value * GRAIN // 256 for value in range(256)])
        self._image = wall.convert("RGB")
        self.cells: list[int] = []

    def place(self, rng: random.Random, emblems: Sequence[Emblem]) -> None:
        """Put emblems into different cells at random; `cells` has their numbers, in reading order from 0."""
        self.cells = rng.sample(range(GRID * GRID), len(emblems))
        for cell, emblem in zip(self.cells, emblems, strict=True):
            drawn = _drawn(emblem)
            self._image.paste(drawn, self.box(cell)[:2], drawn)

    @staticmethod
    def box(cell: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of a cell, in pixels."""
        row, column = divmod(cell, GRID)
        return column * CELL, row * CELL, (column + 1) * CELL, (row + 1) * CELL

    @staticmethod
    def place_of(cell: int) -> str:
        """Where a cell is, in words, such as `top left`."""
        row, column = divmod(cell, GRID)
        return f"{ROWS[row]} {COLUMNS[column]}"

    def save(self, path: Path) -> None:
        """Write the picture."""
        self._image.save(path, compress_level=1)

    def crop(self, box: tuple[int, int, int, int], path: Path) -> None:
        """Write a piece of it."""
        self._image.crop(box).save(path, compress_level=1)


@cache
def _drawn(emblem: Emblem) -> Image.Image:
    side = CELL * FINE
    large = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    draw = ImageDraw.Draw(large)
    low, middle, high = side // 8, side // 2, side - side // 8
    if emblem.shape == "circle":
        draw.ellipse((low, low, high, high), fill=COLOURS[emblem.colour])
    elif emblem.shape == "square":
        draw.rectangle((low, low, high, high), fill=COLOURS[emblem.colour])
    elif emblem.shape == "triangle":
        draw.polygon([(middle, low), (high, high), (low, high)], fill=COLOURS[emblem.colour])
    else:
        arm = side // 8
        draw.rectangle((middle - arm, low, middle + arm, high), fill=COLOURS[emblem.colour])
        draw.rectangle((low, middle - arm, high, middle + arm), fill=COLOURS[emblem.colour])
    return large.resize((CELL, CELL), Image.Resampling.LANCZOS)
