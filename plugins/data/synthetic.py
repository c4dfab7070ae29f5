"""Generated M-MRE data in which the answer can be learnt, written as a data-set folder."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from plugins.data.data_options import SyntheticOptions
from plugins.data.synthetic_scenes import LABELS, ColoredShape, EntitySampler, NamedEntity, SceneImage
from runner.dataset.folder import DatasetFolder
from runner.dataset.publish import UnfinishedDataset, exclusive_build, publishing
from runner.errors import DataError
from runner.fingerprint import fingerprint, identity
from runner.records import Entity, Sample, Segment, segment_letters
from runner.stages import DatasetInfo, Reporter

VERSION = 3
"""Counted up whenever the same options would give other samples."""
MAX_TRIES = 1000
"""So many texts in a row that were there already: the combinations are used up."""
NAMED = 3
"""Most things that a text names; where the picture shows one alone, it names as many."""
EXTRA_SHARE = 0.5
"""Share of the texts of two segments that name one thing more, which the picture does not show."""


class SyntheticData:
    """Makes the data set when it is first asked for, and reads it from its folder afterwards."""

    def __init__(self, options: SyntheticOptions) -> None:
        """Take the options; nothing is made yet."""
        self._options = options
        key = fingerprint({"version": VERSION, **identity(options)})
        self._folder = DatasetFolder(options.path / key[:12])
        self._splits: dict[str, list[Sample]] = {}

    def prepare(self, reporter: Reporter) -> DatasetInfo:
        """Make the data set if it is not there whole, and describe it.

        Raises:
            DataError: More samples are asked for than there are different texts.
        """
        with exclusive_build(self._folder.path):
            try:
                return self._checked()
            except DataError as error:
                if self._folder.path.exists():
                    reporter.warn(f"{error}; it is made again")
                self._make(reporter)
                self._folder = DatasetFolder(self._folder.path)
                return self._checked()

    def _checked(self) -> DatasetInfo:
        self._splits = self._folder.splits()
        info = self._folder.info(self._splits)
        if info.fingerprint != self._folder.description.get("fingerprint"):
            raise DataError(f"{self._folder.path}: was changed since it was generated")
        return info

    def load(self, split: str) -> Sequence[Sample]:
        """The samples of a split, `train` or `test`; `prepare` comes first."""
        return self._splits[split]

    def _make(self, reporter: Reporter) -> None:
        sizes = {"train": self._options.train, "test": self._options.test}
        total = sum(sizes.values())
        with publishing(self._folder.path) as unfinished:
            made = _samples(self._options, unfinished)
            splits: dict[str, list[Sample]] = {split: [] for split in sizes}
            for done, (split, sample) in enumerate(made, start=1):
                splits[split].append(sample)
                reporter.progress(done, total)
            provenance = {"generator": "synthetic", "version": VERSION, "options": identity(self._options)}
            unfinished.describe("synthetic M-MRE", LABELS, splits, provenance)


@dataclass(frozen=True)
class _Maker:
    """Draws samples, each with a text that no other has.

    Attributes:
        world: The things there are.
        told: Those whose emblem a summary names.
        num_shown: Least and most segments of a sample.
        rng: For all of a sample but whether its segments are given.
        unfinished: Where pictures go.
        texts: Of the samples so far.
    """

    world: EntitySampler
    told: frozenset[NamedEntity]
    num_shown: tuple[int, int]
    rng: random.Random
    unfinished: UnfinishedDataset
    texts: set[str] = field(default_factory=set)

    def sample(self, name: str, new_share: float, *, matched: bool = True) -> Sample:
        """Draw a sample whose text is not there yet, with its segments or without.

        Raises:
            DataError: There is none.
        """
        rng = self.rng
        for _ in range(MAX_TRIES):
            shown = self.world.draw(rng, rng.randint(*self.num_shown), new_share)
            extra = self.world.draw(rng, self._num_more(len(shown)), new_share, but=shown)
            named = rng.sample([*shown, *extra], len(shown) + len(extra))
            text = self.world.tweet(rng, named)
            key = " ".join(text.casefold().split())
            if key not in self.texts:
                self.texts.add(key)
                return self._shown(name, text, named, shown, matched=matched)
        raise DataError("the synthetic data has no more different texts; ask for fewer samples")

    def _num_more(self, num_shown: int) -> int:
        if num_shown == 1:
            return NAMED - 1
        return int(num_shown < NAMED and self.rng.random() < EXTRA_SHARE)

    def _shown(
        self, name: str, text: str, named: Sequence[NamedEntity], shown: Sequence[NamedEntity], *, matched: bool
    ) -> Sample:
        picture = SceneImage(self.rng)
        picture.place(self.rng, [thing.emblem for thing in shown])
        image = self.unfinished.images / f"{name}.png"
        picture.save(image)
        # Cells are numbered in reading order, which has nothing to do with the order of the text.
        by_cell = sorted(zip(picture.cells, shown, strict=True), key=lambda pair: pair[0])
        segments = []
        for letter, (cell, thing) in zip(segment_letters(), by_cell if matched else (), strict=False):
            path = self.unfinished.segments / f"{name}-{letter}.png"
            box = picture.box(cell)
            picture.crop(box, path)
            segments.append(Segment(letter, path, thing.name, box))
        entities = tuple(Entity(thing.label, thing.name) for thing in named)
        return Sample(name, text, image, self._summary(by_cell), entities, tuple(segments))

    def _summary(self, by_cell: Sequence[tuple[int, NamedEntity]]) -> str:
        """Describe what a picture shows, in reading order."""
        seen = [
            _with_article(thing.emblem) if thing in self.told else f"something at the {SceneImage.place_of(cell)}"
            for cell, thing in by_cell
        ]
        return f"This image shows {' and '.join(filter(None, (', '.join(seen[:-1]), seen[-1])))}."


def _with_article(emblem: ColoredShape) -> str:
    return f"{'an' if emblem.colour[0] in 'aeiou' else 'a'} {emblem}"


def _samples(options: SyntheticOptions, unfinished: UnfinishedDataset) -> Iterator[tuple[str, Sample]]:
    world = EntitySampler(options.seed, options.entities_per_label)
    rng = random.Random(f"samples {options.seed}")
    maker = _Maker(world, world.told(options.relatedness), options.entities_per_image, rng, unfinished)
    matched = random.Random(f"matched {options.seed}")
    for number in range(1, options.train + 1):
        yield "train", maker.sample(f"train-{number}", 0.0, matched=matched.random() < options.segmented_ratio)
    for number in range(1, options.test + 1):
        yield "test", maker.sample(f"test-{number}", options.unseen_name_ratio)
