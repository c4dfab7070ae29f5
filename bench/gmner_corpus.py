"""Generates a corpus in the format and with the proportions of Twitter GMNER v2; other benchmarks import it.

Of 10,000 tweets, 5,612 have an image with a box of a tagged entity. Entities contain the unusual characters of real
ones, and texts contain colons. Images have the most frequent sizes of the published XML files, and up to 27 boxes.
Names, texts and images are random with a seed; nothing comes from the published corpus.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from PIL import Image

LABELS = ("PER", "LOC", "ORG", "OTHER")
SIZES = ((600, 450), (600, 338), (600, 800), (600, 600), (1200, 1200), (1200, 675), (600, 400), (500, 500), (1024, 768))
SIZE_WEIGHTS = (15, 14, 14, 11, 6, 4, 4, 3, 4)
BOX_RATE = 0.5612
NO_ENTITY_RATE = 0.0527
UNUSUAL_ENTITY_RATE = 0.0043
UNUSUAL_FORMATS = (": {}", "{} ;", "{} ' s", '" {}', "{} ,", "&amp ; {}")
SPLIT_RATIOS = {"train": 0.7, "dev": 0.15, "test": 0.15}
IMAGE_FOLDERS = ("twitter2015_images", "twitter2017_images")
"""The folders of the archive `IJCAI2019_data` with the images of the published corpus."""
SYLLABLES = ("ka", "ro", "mi", "tan", "del", "su", "lor", "ven", "bra", "ni", "po", "shi")


@dataclass(frozen=True)
class CorpusSize:
    """The size of a generated corpus.

    Attributes:
        tweets: Number of tweets.
        with_box: Number of tweets with at least one box of a tagged entity.
    """

    tweets: int
    with_box: int


def write_corpus(folder: Path, tweets: int, seed: int = 0, *, all_images: bool = False) -> CorpusSize:
    """Generate a corpus and write `txt/`, `xml/` and images into a folder.

    Args:
        folder: The folder, which is created.
        tweets: Number of tweets.
        seed: Seed of names, texts and images.
        all_images: Whether tweets without a box have an image too, as their authors publish them: in two folders,
            `twitter2015_images/` and `twitter2017_images/`. Otherwise the images are in `images/`.
    """
    rng, with_box, lines = random.Random(seed), 0, {split: list[str]() for split in SPLIT_RATIOS}
    for name in ("txt", "xml", *(IMAGE_FOLDERS if all_images else ("images",))):
        (folder / name).mkdir(parents=True)
    for number in range(tweets):
        entities = _draw_entities(rng)
        split = rng.choices(list(SPLIT_RATIOS), list(SPLIT_RATIOS.values()))[0]
        lines[split] += [f"IMGID:{number}", *_tagged_lines(rng, entities), ""]
        if rng.random() < BOX_RATE / (1 - NO_ENTITY_RATE) and entities:
            with_box += 1
            size = _write_boxes(folder, number, rng, [" ".join(tokens) for _, tokens in entities])
            _write_image(_image_folder(folder, number, all_images), number, rng, size)
        elif all_images:
            # Draws from numbers of its own, so that the corpus is otherwise the same.
            own_rng = random.Random(f"{seed}-{number}")
            _write_image(_image_folder(folder, number, all_images), number, own_rng, _draw_size(own_rng))
    for split, split_lines in lines.items():
        (folder / "txt" / f"{split}.txt").write_text("\n".join(split_lines) + "\n", encoding="utf-8")
    return CorpusSize(tweets, with_box)


def _draw_entities(rng: random.Random) -> list[tuple[str, list[str]]]:
    if rng.random() < NO_ENTITY_RATE:
        return []
    entities = [(rng.choice(LABELS), _draw_name(rng)) for _ in range(rng.choices((1, 2, 3), (50, 35, 15))[0])]
    return entities + entities[:1] if rng.random() < 0.01 else entities


def _draw_name(rng: random.Random) -> list[str]:
    words = ["".join(rng.choices(SYLLABLES, k=rng.randint(2, 3))).title() for _ in range(rng.randint(1, 3))]
    name = " ".join(words)
    return (rng.choice(UNUSUAL_FORMATS).format(name) if rng.random() < UNUSUAL_ENTITY_RATE else name).split()


def _tagged_lines(rng: random.Random, entities: Sequence[tuple[str, list[str]]]) -> list[str]:
    lines = ["RT\tO", "@\tO", *(["x\tO", ":\tO"] if rng.random() < 0.46 else [])]
    for label, tokens in entities:
        lines += [f"{token}\t{'B' if index == 0 else 'I'}-{label}" for index, token in enumerate(tokens)]
        lines += [f"{''.join(rng.choices(SYLLABLES, k=2))}\tO" for _ in range(rng.randint(1, 6))]
    return lines


def _image_folder(folder: Path, number: int, all_images: bool) -> Path:
    return folder / (IMAGE_FOLDERS[number % len(IMAGE_FOLDERS)] if all_images else "images")


def _draw_size(rng: random.Random) -> tuple[int, int]:
    return rng.choices(SIZES, SIZE_WEIGHTS)[0]


def _write_boxes(folder: Path, number: int, rng: random.Random, names: Sequence[str]) -> tuple[int, int]:
    """Write the XML file of an image, and return the size of the image."""
    width, height = _draw_size(rng)
    boxes = [names[0], *rng.choices(names, k=rng.choices((0, 1, 2, 3, 26), (790, 125, 50, 34, 1))[0])]
    if rng.random() < 0.05:
        boxes.append("somebody whom no text names")
    objects = "".join(_object_xml(rng, name, width, height) for name in boxes)
    size = f"<size><width>{width}</width><height>{height}</height></size>"
    # Several hundred XML files of the published corpus contain the file name of another image.
    filename = f"<filename>{number if rng.random() > 0.08 else 'other'}.jpg</filename>"
    text = f"<annotation>{filename}{size}{objects}</annotation>"
    (folder / "xml" / f"{number}.xml").write_text(text, encoding="utf-8")
    return width, height


def _write_image(folder: Path, number: int, rng: random.Random, size: tuple[int, int]) -> None:
    """Write upscaled noise, which compresses to about the size of photographs."""
    width, height = size
    coarse = Image.frombytes("RGB", (width // 12, height // 12), rng.randbytes(width // 12 * (height // 12) * 3))
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=85)


def _object_xml(rng: random.Random, name: str, width: int, height: int) -> str:
    left, top = rng.randint(0, width // 2), rng.randint(0, height // 2)
    right, bottom = rng.randint(left + 20, width), rng.randint(top + 20, height)
    corners = f"<xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
    return f"<object><name>{escape(name)}</name><bndbox>{corners}</bndbox></object>"
