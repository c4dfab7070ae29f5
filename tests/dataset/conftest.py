"""A small data-set folder, a small corpus in the format of GMNER, and a reporter that records messages."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from runner.dataset.build.pipeline import BuildResult, build_dataset
from runner.dataset.folder_writer import publish_atomically
from runner.records import Entity, Sample, Segment
from runner.spec.check import make_section
from runner.spec.dataset_spec import DatasetSpec

LABELS = ("person", "location")
QUADRANTS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 220), "yellow": (240, 220, 40)}
"""Colours of the quadrants of an image: top left, top right, bottom left, bottom right."""


class RecordingReporter:
    """A reporter and build listener that records messages and warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.messages: list[str] = []
        self.done: list[tuple[int, int]] = []

    def metrics(self, step: int, values: Mapping[str, float]) -> None: ...

    def progress(self, done: int, total: int, **shown: float) -> None:
        self.done.append((done, total))

    def say(self, message: str) -> None:
        self.messages.append(message)

    def reporter(self, stage: str) -> RecordingReporter:
        return self

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def stop_requested(self) -> bool:
        return False


@pytest.fixture
def reporter() -> RecordingReporter:
    return RecordingReporter()


def paint(path: Path, size: tuple[int, int] = (80, 60)) -> Path:
    """Write an image of four quadrants."""
    quadrants().resize(size, Image.Resampling.NEAREST).save(path)
    return path


def quadrants(size: tuple[int, int] = (2, 2)) -> Image.Image:
    small = Image.new("RGB", (2, 2))
    small.putdata(list(QUADRANTS.values()))
    return small.resize(size, Image.Resampling.NEAREST)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of three training samples and one test sample."""
    path = tmp_path / "tiny"
    with publish_atomically(path) as unfinished:

        def sample(number: int) -> Sample:
            image = paint(unfinished.images / f"{number}.png", (8, 6 + number))
            cut = paint(unfinished.segments / f"{number}-a.png", (4, 3))
            people = (Entity("person", "Ada"), Entity("location", "Rome"))
            return Sample(
                f"s{number}", f"Ada {number} in Rome", image, None, people, (Segment("a", cut, "Ada", (0, 0, 4, 3)),)
            )

        splits = {"train": [sample(1), sample(2), sample(3)], "test": [sample(4)]}
        unfinished.write_dataset("tiny", LABELS, splits, {"made": "by a test"})
    return path


@dataclass
class Corpus:
    """A corpus in the format of GMNER's authors, written tweet by tweet."""

    path: Path
    tweets: dict[str, list[str]] = field(default_factory=lambda: {"train": [], "dev": [], "test": []})
    added: int = 0

    def __post_init__(self) -> None:
        for name in ("txt", "xml", "images"):
            (self.path / name).mkdir(parents=True)
        self.write()

    @property
    def images(self) -> Path:
        return self.path / "images"

    def write(self) -> None:
        for split, tweets in self.tweets.items():
            (self.path / "txt" / f"{split}.txt").write_text("\n\n".join(tweets) + "\n", encoding="utf-8")

    def tweet(self, image_id: str, *tagged: str, split: str = "train") -> str:
        """Add a tweet of `token/TAG` words, and return its id."""
        self.added += 1
        lines = [
            f"IMGID:{image_id}",
            f"number{self.added}\tO",
            *("\t".join(each.rsplit("/", 1)) for each in tagged or ("Ada/B-PER",)),
        ]
        self.tweets[split].append("\n".join(lines))
        self.write()
        return f"{split}-{len(self.tweets[split])}-{image_id}"

    def boxes(
        self, image_id: str, objects: Sequence[tuple[str, tuple[int, int, int, int]]], size: tuple[int, int] | None
    ) -> None:
        sides = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
        found = "".join(
            f"<object><name>{name}</name><bndbox>"
            + "".join(f"<{side}>{at}</{side}>" for side, at in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
            + "</bndbox></object>"
            for name, box in objects
        )
        text = f"<annotation><filename>of-another.jpg</filename>{sides}{found}</annotation>"
        (self.path / "xml" / f"{image_id}.xml").write_text(text, encoding="utf-8")

    def good(self, image_id: str, split: str = "train", size: tuple[int, int] = (80, 60)) -> str:
        """Add a tweet with its own image, and a box of its entity in the top left quadrant."""
        number = self.added
        quadrants(size).point(lambda value: max(0, value - number)).save(self.images / f"{image_id}.jpg", quality=95)
        self.boxes(image_id, [("Ada", (2, 2, 30, 20))], size)
        return self.tweet(image_id, split=split)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path / "gmner")


@pytest.fixture
def build(corpus: Corpus, reporter: RecordingReporter, tmp_path: Path) -> Callable[..., BuildResult]:
    """Return a function that builds the corpus; by default with official splits and skipping unusable images."""

    def run(output: str = "made", skip: bool = True, dry_run: bool = False, **settings: Any) -> BuildResult:
        crop = {"unusable_images": "skip" if skip else "refuse", **settings.pop("crop", {})}
        settings = {"split": "official", "crop": crop, **settings}
        spec = DatasetSpec(
            name="made",
            source=make_section("source", {"type": "gmner", "path": str(corpus.path)}),
            output=tmp_path / output,
            **settings,
        )
        return build_dataset(spec, reporter, dry_run=dry_run)

    return run


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def read_rows() -> Callable[[Path], list[dict[str, Any]]]:
    return rows


@pytest.fixture
def colour_at() -> Callable[[Path], str]:
    """Return a function that names the colour in the middle of an image."""

    def name(path: Path) -> str:
        with Image.open(path) as opened:
            pixel = opened.convert("RGB").getpixel((opened.width // 2, opened.height // 2))
        return min(QUADRANTS, key=lambda each: sum(abs(a - b) for a, b in zip(QUADRANTS[each], pixel, strict=True)))

    return name


@pytest.fixture
def painted() -> Callable[..., Image.Image]:
    return quadrants
