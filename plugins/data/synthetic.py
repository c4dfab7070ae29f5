"""The data plugin `synthetic`: generated M-MRE data that a model can learn, stored as a data-set folder."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from plugins.data.data_options import SyntheticOptions
from plugins.data.synthetic_scenes import LABELS, ColoredShape, EntitySampler, NamedEntity, SceneImage
from runner.dataset.folder import DatasetFolder
from runner.dataset.publish import DatasetWriter, exclusive_build, publish_atomically
from runner.errors import DataError
from runner.fingerprint import fingerprint, fingerprinted_options
from runner.records import Entity, Sample, Segment, segment_letters
from runner.stages import DatasetInfo, Reporter

VERSION = 3
"""Increased whenever the same options would generate other samples."""
MAX_ATTEMPTS = 1000
"""Number of consecutive duplicate texts after which the combinations count as exhausted."""
MAX_MENTIONS = 3
"""Maximum number of entities in a text; a text whose image shows one entity always names this many."""
EXTRA_MENTION_PROBABILITY = 0.5
"""Probability that a text with two shown entities names one more, which the image does not show."""


class SyntheticData:
    """Generates the data set on first use, and then reads it from its folder."""

    def __init__(self, options: SyntheticOptions) -> None:
        """Store the options; `prepare` generates the data set."""
        self._options = options
        key = fingerprint({"version": VERSION, **fingerprinted_options(options)})
        self._folder = DatasetFolder(options.path / key[:12])
        self._splits: dict[str, list[Sample]] = {}

    def pending_generation(self) -> str | None:
        """Say how many samples `prepare` has to generate and where; None if the folder exists."""
        path, num_samples = self._folder.path, self._options.train + self._options.test
        if path.exists():
            return None
        folder = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        return f"generating {num_samples:,} samples in {folder}"

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
            provenance = {"generator": "synthetic", "version": VERSION, "options": fingerprinted_options(self._options)}
            unfinished.write_dataset("synthetic M-MRE", LABELS, splits, provenance)


@dataclass(frozen=True)
class _SampleGenerator:
    """Draws samples with distinct texts.

    Attributes:
        entity_sampler: Draws the entities of a sample.
        described_entities: The entities whose symbol a summary describes.
        num_shown: Minimum and maximum number of entities in an image.
        rng: Random numbers for everything except the choice of samples without segments.
        unfinished: The data set to which images are written.
        texts: Normalized texts of the samples so far.
    """

    entity_sampler: EntitySampler
    described_entities: frozenset[NamedEntity]
    num_shown: tuple[int, int]
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
            shown = self.entity_sampler.draw(rng, rng.randint(*self.num_shown), unseen_ratio)
            extra = self.entity_sampler.draw(rng, self._num_extra(len(shown)), unseen_ratio, exclude=shown)
            mentioned = rng.sample([*shown, *extra], len(shown) + len(extra))
            text = self.entity_sampler.tweet(rng, mentioned)
            key = " ".join(text.casefold().split())
            if key not in self.texts:
                self.texts.add(key)
                return self._build(name, text, mentioned, shown, has_segments=has_segments)
        raise DataError("the synthetic data cannot generate more distinct texts; request fewer samples")

    def _num_extra(self, num_shown: int) -> int:
        if num_shown == 1:
            return MAX_MENTIONS - 1
        return int(num_shown < MAX_MENTIONS and self.rng.random() < EXTRA_MENTION_PROBABILITY)

    def _build(
        self,
        name: str,
        text: str,
        mentioned: Sequence[NamedEntity],
        shown: Sequence[NamedEntity],
        *,
        has_segments: bool,
    ) -> Sample:
        scene = SceneImage(self.rng)
        scene.place(self.rng, [entity.symbol for entity in shown])
        image = self.unfinished.images / f"{name}.png"
        scene.save(image)
        # Cells are numbered in reading order, which is independent of the order in the text.
        by_cell = sorted(zip(scene.cells, shown, strict=True), key=lambda pair: pair[0])
        segments = []
        for letter, (cell, entity) in zip(segment_letters(), by_cell if has_segments else (), strict=False):
            path = self.unfinished.segments / f"{name}-{letter}.png"
            box = scene.box(cell)
            scene.crop(box, path)
            segments.append(Segment(letter, path, entity.name, box))
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
    generator = _SampleGenerator(entity_sampler, described, options.entities_per_image, rng, unfinished)
    segment_rng = random.Random(f"matched {options.seed}")
    for number in range(1, options.train + 1):
        has_segments = segment_rng.random() < options.segmented_ratio
        yield "train", generator.sample(f"train-{number}", 0.0, has_segments=has_segments)
    for number in range(1, options.test + 1):
        yield "test", generator.sample(f"test-{number}", options.unseen_name_ratio)
