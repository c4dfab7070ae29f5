"""Data stage `synthetic`: generated M-MRE samples whose match can only be learned from the images."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal

from PIL import Image, ImageDraw

from plugins.data.data_options import SyntheticOptions
from runner.code_identity import code_identity, own_packages
from runner.dataset.folder_reader import DatasetFolder
from runner.dataset.folder_writer import DatasetWriter, exclusive_build, publish_atomically
from runner.dataset.leaks import text_key
from runner.errors import DataError
from runner.fingerprint_and_provenance import fingerprint, fingerprinted_options
from runner.records import Entity, Sample, Segment, segment_letters
from runner.stages import DatasetInfo, Reporter

GRID = 3
"""Number of rows and columns of the grid."""
BACKGROUND_GREY = 150
"""Grey level of the background, 0 to 255."""
GRADIENT_SHARE = 0.6
"""Share of the gradient in red and in blue; the rest is the grey of the background."""
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

    def __init__(self, rng: random.Random, cell_size: int, background: Literal["plain", "gradient"]) -> None:
        """Create an image with background noise and no symbols.

        Args:
            rng: Random numbers for the noise.
            cell_size: Side of a cell in pixels.
            background: See `SyntheticOptions.background`.
        """
        self._cell_size = cell_size
        side = GRID * cell_size
        noise = Image.frombytes("L", (side, side), rng.randbytes(side * side))
        grey = noise.point([BACKGROUND_GREY - NOISE_LEVELS // 2 + value * NOISE_LEVELS // 256 for value in range(256)])
        self._image = grey.convert("RGB")
        if background == "gradient":
            down = Image.linear_gradient("L").resize((side, side))
            across = down.transpose(Image.Transpose.ROTATE_90)  # its left edge was the top edge
            red, blue = (Image.blend(grey, gradient, GRADIENT_SHARE) for gradient in (across, down))
            self._image = Image.merge("RGB", (red, grey, blue))
        self.cells: list[int] = []
        self.boxes: list[tuple[int, int, int, int]] = []

    def place(
        self,
        rng: random.Random,
        symbols: Sequence[ColoredShape],
        sizes: tuple[int, int] | None = None,
        *,
        visible: bool = True,
    ) -> None:
        """Draw symbols in distinct random cells.

        Args:
            rng: Random numbers for the cells, sizes and places.
            symbols: The symbols. `cells` then has their cell numbers, from 0 in reading order, and `boxes` their
                boxes.
            sizes: Minimum and maximum side of a symbol in pixels; None: each symbol fills its cell.
            visible: Whether to draw the symbols; if false, the cells only show the background.
        """
        self.cells = rng.sample(range(GRID * GRID), len(symbols))
        self.boxes = [self._box(cell, rng, sizes) for cell in self.cells]
        for box, symbol in zip(self.boxes, symbols if visible else (), strict=visible):
            image = _draw(symbol, box[2] - box[0])
            self._image.paste(image, box[:2], image)

    def _box(self, cell: int, rng: random.Random, sizes: tuple[int, int] | None) -> tuple[int, int, int, int]:
        """Draw left, top, right and bottom of a symbol in a cell, in pixels."""
        row, column = divmod(cell, GRID)
        left, top, side = column * self._cell_size, row * self._cell_size, self._cell_size
        if sizes is not None:
            side = rng.randint(*sizes)
            left, top = (edge + rng.randint(0, self._cell_size - side) for edge in (left, top))
        return left, top, left + side, top + side

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
def _draw(symbol: ColoredShape, size: int) -> Image.Image:
    side = size * SUPERSAMPLING
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
    return large.resize((size, size), Image.Resampling.LANCZOS)


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


MAX_ATTEMPTS = 1000
"""Number of consecutive duplicate texts after which the combinations count as exhausted."""
EXTRA_MENTION_PROBABILITY = 0.5
"""Probability that a text with two shown entities names one more, which the image does not show."""


class SyntheticData:
    """Generates the data set on first use, and then reads it from its folder."""

    def __init__(self, options: SyntheticOptions) -> None:
        """Store the options; `prepare` generates the data set."""
        self._options = options
        # Other code may generate other samples.
        code = code_identity([(__name__, type(self).__name__)], own_packages(__name__, None))
        key = fingerprint({"code": code, **fingerprinted_options(options)})
        self._folder = DatasetFolder(options.path / key[:12])
        self._splits: dict[str, list[Sample]] = {}

    def pending_generation(self) -> str | None:
        """Say how many samples `prepare` has to generate and where; None if the folder exists."""
        path, num_samples = self._folder.path, self._options.train + self._options.test
        if path.exists():
            return None
        folder = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        return f"generating {num_samples:,} samples in {folder}"

    def prepare_existing(self) -> DatasetInfo:
        """Return the description of the data set, without generating it.

        Raises:
            DataError: The data set does not exist, or has changed since it was generated.
        """
        return self._load_checked()

    def prepare(self, reporter: Reporter) -> DatasetInfo:
        """Generate the data set if it is missing or damaged, and return its description.

        Raises:
            DataError: The options request more samples than there are distinct texts.
        """
        with exclusive_build(self._folder.path):
            try:
                return self._load_checked()
            except DataError as error:
                if self._folder.path.exists():
                    reporter.warn(f"{error}; it is generated again")
                self._generate(reporter)
                self._folder = DatasetFolder(self._folder.path)
                return self._load_checked()

    def _load_checked(self) -> DatasetInfo:
        self._splits = self._folder.load_splits()
        info = self._folder.info(self._splits)
        if info.fingerprint != self._folder.description.get("fingerprint"):
            raise DataError(f"{self._folder.path}: the data set has changed since it was generated")
        return info

    def load(self, split: str) -> Sequence[Sample]:
        """Return the samples of a split, `train` or `test`; call `prepare` first."""
        return self._splits[split]

    def _generate(self, reporter: Reporter) -> None:
        sizes = {"train": self._options.train, "test": self._options.test}
        total = sum(sizes.values())
        with publish_atomically(self._folder.path) as unfinished:
            splits: dict[str, list[Sample]] = {split: [] for split in sizes}
            for done, (split, sample) in enumerate(_generate_samples(self._options, unfinished), start=1):
                splits[split].append(sample)
                reporter.progress(done, total)
            provenance = {"generator": "synthetic", "options": fingerprinted_options(self._options)}
            unfinished.write_dataset("synthetic M-MRE", LABELS, splits, provenance)


@dataclass(frozen=True)
class _SampleGenerator:
    """Draws samples with distinct texts.

    Attributes:
        entity_sampler: Draws the entities of a sample.
        described_entities: The entities whose symbol a summary describes.
        options: The options of the data set.
        rng: Random numbers for everything except the choice of samples without segments.
        unfinished: The data set to which images are written.
        texts: Normalized texts of the samples so far.
    """

    entity_sampler: EntitySampler
    described_entities: frozenset[NamedEntity]
    options: SyntheticOptions
    rng: random.Random
    unfinished: DatasetWriter
    texts: set[str] = field(default_factory=set)

    def sample(self, name: str, unseen_ratio: float, *, has_segments: bool = True) -> Sample:
        """Draw a sample with a new text.

        Args:
            name: Id of the sample.
            unseen_ratio: Probability that an entity is not one of the training split.
            has_segments: Whether the sample gets the segments of its image.

        Raises:
            DataError: There is no new text.
        """
        rng = self.rng
        for _ in range(MAX_ATTEMPTS):
            shown = self.entity_sampler.draw(rng, rng.randint(*self.options.entities_per_image), unseen_ratio)
            extra = self.entity_sampler.draw(rng, self._num_extra(len(shown)), unseen_ratio, exclude=shown)
            mentioned = rng.sample([*shown, *extra], len(shown) + len(extra))
            text = self.entity_sampler.tweet(rng, mentioned)
            key = text_key(text)
            if key not in self.texts:
                self.texts.add(key)
                return self._build(name, text, mentioned, shown, has_segments=has_segments)
        raise DataError("the synthetic data cannot generate more distinct texts; request fewer samples")

    def _num_extra(self, num_shown: int) -> int:
        if num_shown == 1:
            return self.options.max_entities_per_text - 1
        return int(num_shown < self.options.max_entities_per_text and self.rng.random() < EXTRA_MENTION_PROBABILITY)

    def _build(
        self,
        name: str,
        text: str,
        mentioned: Sequence[NamedEntity],
        shown: Sequence[NamedEntity],
        *,
        has_segments: bool,
    ) -> Sample:
        options = self.options
        scene = SceneImage(self.rng, options.cell_size, options.background)
        visible = options.match_evidence == "image"
        scene.place(self.rng, [entity.symbol for entity in shown], options.symbol_size, visible=visible)
        image = self.unfinished.images / f"{name}.png"
        scene.save(image)
        # Cells are numbered in reading order, which is independent of the order in the text.
        by_cell = sorted(zip(scene.cells, shown, strict=True), key=lambda pair: pair[0])
        if options.match_evidence == "text":
            by_cell = list(zip(sorted(scene.cells), mentioned, strict=False))
        boxes = dict(zip(scene.cells, scene.boxes, strict=True))
        segments = []
        for letter, (cell, entity) in zip(segment_letters(), by_cell if has_segments else (), strict=False):
            path = self.unfinished.segments / f"{name}-{letter}.png"
            scene.crop(boxes[cell], path)
            segments.append(Segment(letter, path, entity.name, boxes[cell]))
        entities = tuple(Entity(entity.label, entity.name) for entity in mentioned)
        return Sample(name, text, image, self._summary(by_cell), entities, tuple(segments))

    def _summary(self, by_cell: Sequence[tuple[int, NamedEntity]]) -> str:
        """Describe the entities in an image, in reading order."""
        parts = [
            _with_article(entity.symbol)
            if entity in self.described_entities
            else f"something at the {SceneImage.position(cell)}"
            for cell, entity in by_cell
        ]
        return f"This image shows {' and '.join(filter(None, (', '.join(parts[:-1]), parts[-1])))}."


def _with_article(symbol: ColoredShape) -> str:
    return f"{'an' if symbol.colour[0] in 'aeiou' else 'a'} {symbol}"


def _generate_samples(options: SyntheticOptions, unfinished: DatasetWriter) -> Iterator[tuple[str, Sample]]:
    entity_sampler = EntitySampler(options.seed, options.entities_per_label)
    described = entity_sampler.described_entities(options.relatedness)
    rng = random.Random(f"samples {options.seed}")
    generator = _SampleGenerator(
        entity_sampler,
        described,
        options,
        rng,
        unfinished,
    )
    segment_rng = random.Random(f"matched {options.seed}")
    for number in range(1, options.train + 1):
        has_segments = segment_rng.random() < options.segmented_ratio
        yield "train", generator.sample(f"train-{number}", 0.0, has_segments=has_segments)
    for number in range(1, options.test + 1):
        sample = generator.sample(f"test-{number}", options.unseen_name_ratio)
        yield "test", _with_suffix(sample, options.test_text_suffix)


def _with_suffix(sample: Sample, suffix: str) -> Sample:
    """Append a suffix to the text, after a space; `{summary}` stands for the summary."""
    return replace(sample, text=f"{sample.text} {suffix.format(summary=sample.summary)}") if suffix else sample
