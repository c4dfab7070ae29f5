"""Images and named entities of the synthetic data: coloured shapes on a grid, each with a name and a label."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw

CELL = 16
"""Side of a grid cell, and of a segment, in pixels: one merged patch of the tiny model's vision tower."""
GRID = 3
"""Number of rows and columns of the grid."""
BACKGROUND_GREY = 150
"""Grey level of the background, 0 to 255."""
NOISE_LEVELS = 8
"""Number of grey levels of the background noise, which makes every image different."""
SUPERSAMPLING = 8
"""Factor by which symbols are drawn larger before they are scaled down, for smooth edges."""

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
        """Return colour and shape, such as `red circle`."""
        return f"{self.colour} {self.shape}"


class SceneImage:
    """An image with a grid of cells for symbols."""

    def __init__(self, rng: random.Random) -> None:
        """Create an image with background noise and no symbols."""
        side = GRID * CELL
        noise = Image.frombytes("L", (side, side), rng.randbytes(side * side))
        background = noise.point(
            [BACKGROUND_GREY - NOISE_LEVELS // 2 + value * NOISE_LEVELS // 256 for value in range(256)]
        )
        self._image = background.convert("RGB")
        self.cells: list[int] = []

    def place(self, rng: random.Random, symbols: Sequence[ColoredShape]) -> None:
        """Draw symbols in distinct random cells; `cells` has the cell numbers, counted from 0 in reading order."""
        self.cells = rng.sample(range(GRID * GRID), len(symbols))
        for cell, symbol in zip(self.cells, symbols, strict=True):
            image = _draw(symbol)
            self._image.paste(image, self.box(cell)[:2], image)

    @staticmethod
    def box(cell: int) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom of a cell, in pixels."""
        row, column = divmod(cell, GRID)
        return column * CELL, row * CELL, (column + 1) * CELL, (row + 1) * CELL

    @staticmethod
    def position(cell: int) -> str:
        """Return the position of a cell in words, such as `top left`."""
        row, column = divmod(cell, GRID)
        return f"{ROWS[row]} {COLUMNS[column]}"

    def save(self, path: Path) -> None:
        """Write the image to a file."""
        self._image.save(path, compress_level=1)

    def crop(self, box: tuple[int, int, int, int], path: Path) -> None:
        """Write a part of the image to a file."""
        self._image.crop(box).save(path, compress_level=1)


@cache
def _draw(symbol: ColoredShape) -> Image.Image:
    side = CELL * SUPERSAMPLING
    large = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    draw = ImageDraw.Draw(large)
    low, middle, high = side // 8, side // 2, side - side // 8
    if symbol.shape == "circle":
        draw.ellipse((low, low, high, high), fill=COLOURS[symbol.colour])
    elif symbol.shape == "square":
        draw.rectangle((low, low, high, high), fill=COLOURS[symbol.colour])
    elif symbol.shape == "triangle":
        draw.polygon([(middle, low), (high, high), (low, high)], fill=COLOURS[symbol.colour])
    else:
        arm = side // 8
        draw.rectangle((middle - arm, low, middle + arm, high), fill=COLOURS[symbol.colour])
        draw.rectangle((low, middle - arm, high, middle + arm), fill=COLOURS[symbol.colour])
    return large.resize((CELL, CELL), Image.Resampling.LANCZOS)


LABELS = ("person", "location", "organization", "other")
ENTITIES_PER_LABEL = 4

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
    """A named entity.

    Attributes:
        label: Its entity label.
        name: Its name in texts.
        symbol: Its symbol in images; no two entities share one.
    """

    label: str
    name: str
    symbol: ColoredShape


class EntitySampler:
    """All entities: those of the training split, and as many unseen ones for the test split.

    Each label has a shape, and each of its entities a colour, so the shape of an unseen entity reveals its label.
    """

    def __init__(self, seed: int, num_train_entities: int = ENTITIES_PER_LABEL) -> None:
        """Generate names and assign symbols.

        Args:
            seed: Seed of names and symbols.
            num_train_entities: Entities of each label in the training split, at most `ENTITIES_PER_LABEL`.
        """
        rng = random.Random(f"world {seed}")
        names: set[str] = set()
        self.train_entities: list[NamedEntity] = []
        self.unseen_entities: list[NamedEntity] = []
        for label, shape in zip(LABELS, SHAPES, strict=True):
            colours = rng.sample(list(COLOURS), len(COLOURS))
            entities = [NamedEntity(label, _draw_name(rng, names), ColoredShape(colour, shape)) for colour in colours]
            self.train_entities += entities[:num_train_entities]
            self.unseen_entities += entities[ENTITIES_PER_LABEL:]
        self._seed = seed

    def draw(
        self, rng: random.Random, number: int, unseen_ratio: float, exclude: Collection[NamedEntity] = ()
    ) -> list[NamedEntity]:
        """Draw distinct entities; each is an unseen one with probability `unseen_ratio`."""
        drawn: list[NamedEntity] = []
        for _ in range(number):
            pool = self.unseen_entities if rng.random() < unseen_ratio else self.train_entities
            drawn.append(rng.choice([entity for entity in pool if entity not in drawn and entity not in exclude]))
        return drawn

    def described_entities(self, share: float) -> frozenset[NamedEntity]:
        """Choose the entities whose symbols summaries describe; a larger share includes all entities of a smaller one.

        Args:
            share: Share of the training entities, and of the unseen ones; balanced over labels as far as possible.
        """
        rng = random.Random(f"told {self._seed}")
        chosen: list[NamedEntity] = []
        for entities in (self.train_entities, self.unseen_entities):
            by_label = [rng.sample(members, len(members)) for members in _by_label(entities)]
            interleaved = [entity for row in zip(*by_label, strict=True) for entity in rng.sample(row, len(row))]
            chosen += interleaved[: round(share * len(interleaved))]
        return frozenset(chosen)

    @staticmethod
    def tweet(rng: random.Random, entities: Sequence[NamedEntity]) -> str:
        """Generate a text that mentions entities in the given order."""
        clauses = [rng.choice(_CLAUSES[entity.label]).format(entity.name) for entity in entities]
        return f"{rng.choice(_OPENERS)} {' , '.join(clauses)}{rng.choice(_CLOSERS)}"


def _by_label(entities: Sequence[NamedEntity]) -> list[list[NamedEntity]]:
    return [[entity for entity in entities if entity.label == label] for label in LABELS]


def _draw_name(rng: random.Random, used: set[str]) -> str:
    """Draw a name that is not used yet, and add it to `used`."""
    while True:
        name = "".join(rng.choice(part) for part in (_ONSETS, _VOWELS, _ONSETS, _VOWELS, _CODAS)).capitalize()
        if name not in used:
            used.add(name)
            return name
