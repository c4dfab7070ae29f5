"""The plain, frozen records that pass between stages: samples, what is rendered of them, answers and scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count, product
from pathlib import Path
from string import ascii_lowercase
from typing import Any, Literal

IGNORED = -100
"""The label of positions without loss, as torch's and transformers' losses have it."""

Ending = Literal["clean", "repaired", "malformed"]
"""How the parsing of an answer ended."""


@dataclass(frozen=True, slots=True)
class Entity:
    """A label-entity pair named in the text."""

    label: str
    text: str


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece cut from the main image that shows one entity.

    Attributes:
        letter: Its number in a sample: a … z, aa, ab …
        image: The file of the cut piece, None where the data has no images.
        entity: The text of the entity that it shows.
        box: Left, top, right and bottom in pixels of the main image.
    """

    letter: str
    image: Path | None
    entity: str
    box: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Sample:
    """One tweet with its image: what is asked about and what is right.

    Attributes:
        id: Unique in a data set.
        text: The tweet.
        image: The main image; None for text alone.
        summary: What the main image shows; None where nobody wrote it.
        entities: In the order of the text; the same pair may stand twice.
        segments: In the order of their letters.
    """

    id: str
    text: str
    image: Path | None
    summary: str | None
    entities: tuple[Entity, ...]
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image at its place in a prompt."""

    path: Path


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text at its place in a prompt."""

    text: str


@dataclass(frozen=True, slots=True)
class Rendered:
    """A sample as an adapter shows it to a model; the model's chat template goes around it.

    Attributes:
        id: The sample's id.
        content: Images and text of the user's turn, in order.
        target: The answer to be learnt, without end token; None when only a prompt was asked for.
        examples: Solved samples shown as earlier turns, each with its target and without examples of its own.
    """

    id: str
    content: tuple[ImagePart | TextPart, ...]
    target: str | None = None
    examples: tuple[Rendered, ...] = ()

    @property
    def images(self) -> tuple[Path, ...]:
        """The images in the order the model sees them, those of the examples first."""
        own = tuple(part.path for part in self.content if isinstance(part, ImagePart))
        return tuple(path for example in self.examples for path in example.images) + own

    @property
    def prompt(self) -> str:
        """The text of the user's turn."""
        return "".join(part.text for part in self.content if isinstance(part, TextPart))


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote for one sample.

    Attributes:
        id: The sample's id.
        output: The text, without the end token.
        finished: False where the limit of new tokens cut the answer off.
    """

    id: str
    output: str
    finished: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """The content of an answer; a part is None where its task was not asked for.

    Attributes:
        summary: Task 1.
        pairs: Task 2, (label, entity) pairs as a set.
        mapping: Task 2, segment letter to entity.
    """

    summary: str | None
    pairs: frozenset[tuple[str, str]] | None
    mapping: Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class Prediction:
    """A parsed answer and how the parsing ended.

    Attributes:
        answer: What could be read.
        ending: Clean, repaired (read, although it is not as asked for) or malformed (a part is lost).
        notes: What was repaired or lost, in plain words.
    """

    answer: Answer
    ending: Ending
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Score:
    """What one sample is worth.

    Attributes:
        id: The sample's id.
        ending: How the parsing of its answer ended.
        notes: What the parser repaired or lost.
        counts: Metric plugin's name to the counts or values it keeps a sample.
    """

    id: str
    ending: Ending
    notes: tuple[str, ...]
    counts: Mapping[str, Mapping[str, Any]]


def segment_letters() -> Iterator[str]:
    """Yield a … z, aa, ab … without end, as segments are numbered."""
    for length in count(1):
        yield from ("".join(letters) for letters in product(ascii_lowercase, repeat=length))


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on the device of one worker when a training step needs most.

    Attributes:
        moment: When that is: `loss` (the forward pass is done), `backward`, `step` (the optimizer's), or `answer`
            (samples kept aside are answered by whole weights; what the generator keeps is not counted).
        weights: Master weights, and what is computed with besides: copies in a lower precision, weights gathered
            from other workers.
        gradients: Those that are there at that moment, and what exchanges them between workers.
        optimizer: The optimizer's state.
        activations: What the forward pass keeps for the backward pass.
        logits: What the output layer and the cross-entropy take.
    """

    moment: Literal["loss", "backward", "step", "answer"]
    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


@dataclass(frozen=True, slots=True)
class TrainingWay:
    """One way to compute a training.

    Attributes:
        change: What to change in the spec for it, as `--set` takes it or in words; empty for the spec as it is.
        strategy: How workers share the work.
        memory: Of one worker.
    """

    change: str
    strategy: str
    memory: Memory


@dataclass(frozen=True, slots=True)
class TrainingBudget:
    """How much is trained, as a trainer works it out before it runs; a training that is stopped early has less.

    Attributes:
        steps: Optimizer steps; None where that takes the lengths of the samples, which are not known.
        tokens: Tokens of answers that are trained on in all these steps; None where the lengths are not known.
    """

    steps: int | None
    tokens: int | None


@dataclass(frozen=True, slots=True)
class TrainingEstimate:
    """What a training takes, as its trainer works it out before it runs.

    Attributes:
        ways: As the spec has it, then what takes less memory, the least costly first.
        flops_per_step: Floating-point operations of a mean optimizer step, over all workers.
        checkpoint: Bytes of one checkpoint.
        num_checkpoints: How many are on the disk at once.
        model: Bytes of the trained model.
    """

    ways: tuple[TrainingWay, ...]
    flops_per_step: float
    checkpoint: int
    num_checkpoints: int
    model: int
