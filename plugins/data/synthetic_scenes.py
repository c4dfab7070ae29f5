"""Images and named entities of the synthetic data: coloured shapes on a grid, each with a name and a label."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
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
class ColoredShape:
    """A colour and a shape."""

    colour: str
    shape: str

    def __str__(self) -> str:
        """Such as `red circle`."""
        return f"{self.colour} {self.shape}"


class SceneImage:
    """A wall with room for emblems."""

    def __init__(self, rng: random.Random) -> None:
        """Make an empty wall with a grain of its own."""
        side = GRID * CELL
        grain = Image.frombytes("L", (side, side), rng.randbytes(side * side))
        wall = grain.point([WALL - GRAIN // 2 + value * GRAIN // 256 for value in range(256)])
        self._image = wall.convert("RGB")
        self.cells: list[int] = []

    def place(self, rng: random.Random, emblems: Sequence[ColoredShape]) -> None:
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
def _drawn(emblem: ColoredShape) -> Image.Image:
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


LABELS = ("person", "location", "organization", "other")
THINGS_PER_LABEL = 4

_ONSETS = ("b", "d", "f", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "kr", "st", "tr")
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ei", "ou")
_CODAS = ("", "n", "r", "l", "s", "m")
_CLAUSES = {
    "person": ("{} smiles", "we met {}", "a big hand for {}", "{} is back"),
    "location": ("here in {}", "on the way to {}", "sunset over {}", "greetings from {}"),
    "organization": ("the team of {}", "{} hires", "brought to you by {}", "thanks to {}"),
    "other": ("tonight at the {}", "ready for the {}", "tickets for the {}", "live from the {}"),
}
_OPENERS = (
    "RT :",
    "wow ,",
    "just now :",
    "good morning !",
    "breaking :",
    "so happy ,",
    "look ,",
    "finally :",
)
_CLOSERS = ("", " #win", " #love", " !", " :)", " #today", " <3", " . . .")


@dataclass(frozen=True)
class NamedEntity:
    """A named thing.

    Attributes:
        label: What kind of thing.
        name: How texts call it.
        emblem: How pictures show it; no other thing has the same.
    """

    label: str
    name: str
    emblem: ColoredShape


class EntitySampler:
    """The things there are: those that training tells of, and as many that are kept for new names.

    A label has a shape, and each of its things a colour: of a thing that is new, its shape tells the label.
    """

    def __init__(self, seed: int, num_known: int = THINGS_PER_LABEL) -> None:
        """Invent names and hand out emblems.

        Args:
            seed: Another one gives other names and emblems.
            num_known: Things of each label that training tells of, at most `THINGS_PER_LABEL`.
        """
        rng = random.Random(f"world {seed}")
        names: set[str] = set()
        self.known: list[NamedEntity] = []
        self.new: list[NamedEntity] = []
        for label, shape in zip(LABELS, SHAPES, strict=True):
            colours = rng.sample(list(COLOURS), len(COLOURS))
            things = [NamedEntity(label, _new_name(rng, names), ColoredShape(colour, shape)) for colour in colours]
            self.known += things[:num_known]
            self.new += things[THINGS_PER_LABEL:]
        self._seed = seed

    def draw(
        self, rng: random.Random, number: int, new_share: float, but: Collection[NamedEntity] = ()
    ) -> list[NamedEntity]:
        """Draw different things, each of them a new one with probability `new_share`."""
        drawn: list[NamedEntity] = []
        for _ in range(number):
            pool = self.new if rng.random() < new_share else self.known
            drawn.append(rng.choice([thing for thing in pool if thing not in drawn and thing not in but]))
        return drawn

    def told(self, share: float) -> frozenset[NamedEntity]:
        """Choose the things whose emblem summaries name: the larger share has all of the smaller one.

        Args:
            share: Of the known things, and of the new ones; of each label alike, as far as their numbers allow.
        """
        rng = random.Random(f"told {self._seed}")
        chosen: list[NamedEntity] = []
        for half in (self.known, self.new):
            by_label = [rng.sample(each, len(each)) for each in _by_label(half)]
            in_turns = [thing for turn in zip(*by_label, strict=True) for thing in rng.sample(turn, len(turn))]
            chosen += in_turns[: round(share * len(in_turns))]
        return frozenset(chosen)

    @staticmethod
    def tweet(rng: random.Random, things: Sequence[NamedEntity]) -> str:
        """Write a text that names things, in their order."""
        clauses = [rng.choice(_CLAUSES[thing.label]).format(thing.name) for thing in things]
        return f"{rng.choice(_OPENERS)} {' , '.join(clauses)}{rng.choice(_CLOSERS)}"


def _by_label(things: Sequence[NamedEntity]) -> list[list[NamedEntity]]:
    return [[thing for thing in things if thing.label == label] for label in LABELS]


def _new_name(rng: random.Random, taken: set[str]) -> str:
    """Invent a name that nothing has yet."""
    while True:
        name = "".join(rng.choice(part) for part in (_ONSETS, _VOWELS, _ONSETS, _VOWELS, _CODAS)).capitalize()
        if name not in taken:
            taken.add(name)
            return name
