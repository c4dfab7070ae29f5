"""The small world of the synthetic data: named things, each with a label and an emblem of its own."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from plugins.data.emblems import COLOURS, SHAPES, Emblem

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
class Thing:
    """A named thing.

    Attributes:
        label: What kind of thing.
        name: How texts call it.
        emblem: How pictures show it; no other thing has the same.
    """

    label: str
    name: str
    emblem: Emblem


class World:
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
        self.known: list[Thing] = []
        self.new: list[Thing] = []
        for label, shape in zip(LABELS, SHAPES, strict=True):
            colours = rng.sample(list(COLOURS), len(COLOURS))
            things = [Thing(label, _new_name(rng, names), Emblem(colour, shape)) for colour in colours]
            self.known += things[:num_known]
            self.new += things[THINGS_PER_LABEL:]
        self._seed = seed

    def draw(self, rng: random.Random, number: int, new_share: float, but: Collection[Thing] = ()) -> list[Thing]:
        """Draw different things, each of them a new one with probability `new_share`."""
        drawn: list[Thing] = []
        for _ in range(number):
            pool = self.new if rng.random() < new_share else self.known
            drawn.append(rng.choice([thing for thing in pool if thing not in drawn and thing not in but]))
        return drawn

    def told(self, share: float) -> frozenset[Thing]:
        """Choose the things whose emblem summaries name: the larger share has all of the smaller one.

        Args:
            share: Of the known things, and of the new ones; of each label alike, as far as their numbers allow.
        """
        rng = random.Random(f"told {self._seed}")
        chosen: list[Thing] = []
        for half in (self.known, self.new):
            by_label = [rng.sample(each, len(each)) for each in _by_label(half)]
            in_turns = [thing for turn in zip(*by_label, strict=True) for thing in rng.sample(turn, len(turn))]
            chosen += in_turns[: round(share * len(in_turns))]
        return frozenset(chosen)

    @staticmethod
    def tweet(rng: random.Random, things: Sequence[Thing]) -> str:
        """Write a text that names things, in their order."""
        clauses = [rng.choice(_CLAUSES[thing.label]).format(thing.name) for thing in things]
        return f"{rng.choice(_OPENERS)} {' , '.join(clauses)}{rng.choice(_CLOSERS)}"


def _by_label(things: Sequence[Thing]) -> list[list[Thing]]:
    return [[thing for thing in things if thing.label == label] for label in LABELS]


def _new_name(rng: random.Random, taken: set[str]) -> str:
    """Invent a name that nothing has yet."""
    while True:
        name = "".join(rng.choice(part) for part in (_ONSETS, _VOWELS, _ONSETS, _VOWELS, _CODAS)).capitalize()
        if name not in taken:
            taken.add(name)
            return name
