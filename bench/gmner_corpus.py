"""Makes a corpus in the form and the proportions of Twitter GMNER v2; other benchmarks import it.

Of 10,000 tweets 5,612 have a picture with a box of a tagged entity. Entities hold the characters that real ones do,
texts hold colons, pictures have the sizes that the published XML files name most, and up to 27 boxes. Names, texts and
pictures are drawn by a seed; nothing is taken from the published corpus.
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
WEIGHTS = (15, 14, 14, 11, 6, 4, 4, 3, 4)
WITH_BOX = 0.5612
WITHOUT_ENTITY = 0.0527
ODD_ENTITY = 0.0043
ODD = (": {}", "{} ;", "{} ' s", '" {}', "{} ,", "&amp ; {}")
SPLITS = {"train": 0.7, "dev": 0.15, "test": 0.15}
SYLLABLES = ("ka", "ro", "mi", "tan", "del", "su", "lor", "ven", "bra", "ni", "po", "shi")


@dataclass(frozen=True)
class Proportions:
    """What was made.

    Attributes:
        tweets: All of them.
        with_box: Those of which at least one box shows a tagged entity.
    """

    tweets: int
    with_box: int


def write_corpus(folder: Path, tweets: int, seed: int = 0) -> Proportions:
    """Write `txt/`, `xml/` and `images/` below a folder."""
    draw, with_box, lines = random.Random(seed), 0, {split: list[str]() for split in SPLITS}
    for name in ("txt", "xml", "images"):
        (folder / name).mkdir(parents=True)
    for number in range(tweets):
        entities = _entities(draw)
        split = draw.choices(list(SPLITS), list(SPLITS.values()))[0]
        lines[split] += [f"IMGID:{number}", *_tagged(draw, entities), ""]
        if draw.random() < WITH_BOX / (1 - WITHOUT_ENTITY) and entities:
            with_box += 1
            _picture(folder, number, draw, [" ".join(tokens) for _, tokens in entities])
    for split, written in lines.items():
        (folder / "txt" / f"{split}.txt").write_text("\n".join(written) + "\n", encoding="utf-8")
    return Proportions(tweets, with_box)


def _entities(draw: random.Random) -> list[tuple[str, list[str]]]:
    if draw.random() < WITHOUT_ENTITY:
        return []
    found = [(draw.choice(LABELS), _name(draw)) for _ in range(draw.choices((1, 2, 3), (50, 35, 15))[0])]
    return found + found[:1] if draw.random() < 0.01 else found


def _name(draw: random.Random) -> list[str]:
    words = ["".join(draw.choices(SYLLABLES, k=draw.randint(2, 3))).title() for _ in range(draw.randint(1, 3))]
    name = " ".join(words)
    return (draw.choice(ODD).format(name) if draw.random() < ODD_ENTITY else name).split()


def _tagged(draw: random.Random, entities: Sequence[tuple[str, list[str]]]) -> list[str]:
    lines = ["RT\tO", "@\tO", *(["x\tO", ":\tO"] if draw.random() < 0.46 else [])]
    for label, tokens in entities:
        lines += [f"{token}\t{'B' if place == 0 else 'I'}-{label}" for place, token in enumerate(tokens)]
        lines += [f"{''.join(draw.choices(SYLLABLES, k=2))}\tO" for _ in range(draw.randint(1, 6))]
    return lines


def _picture(folder: Path, number: int, draw: random.Random, names: Sequence[str]) -> None:
    width, height = draw.choices(SIZES, WEIGHTS)[0]
    boxes = [names[0], *draw.choices(names, k=draw.choices((0, 1, 2, 3, 26), (790, 125, 50, 34, 1))[0])]
    if draw.random() < 0.05:
        boxes.append("somebody whom no text names")
    objects = "".join(_object(draw, each, width, height) for each in boxes)
    size = f"<size><width>{width}</width><height>{height}</height></size>"
    # Some hundred files of the published corpus bear the name of another picture.
    named = f"<filename>{number if draw.random() > 0.08 else 'other'}.jpg</filename>"
    text = f"<annotation>{named}{size}{objects}</annotation>"
    (folder / "xml" / f"{number}.xml").write_text(text, encoding="utf-8")
    # Noise in two scales compresses about as photographs do.
    coarse = Image.frombytes("RGB", (width // 12, height // 12), draw.randbytes(width // 12 * (height // 12) * 3))
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / "images" / f"{number}.jpg", quality=85)


def _object(draw: random.Random, name: str, width: int, height: int) -> str:
    left, top = draw.randint(0, width // 2), draw.randint(0, height // 2)
    right, bottom = draw.randint(left + 20, width), draw.randint(top + 20, height)
    corners = f"<xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
    return f"<object><name>{escape(name)}</name><bndbox>{corners}</bndbox></object>"
