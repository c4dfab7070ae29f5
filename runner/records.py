"""The frozen records that stages exchange: samples, rendered samples, answers, scores and estimates."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count, groupby, product
from pathlib import Path
from string import ascii_lowercase
from typing import Any, Literal
from unicodedata import category, combining, normalize

IGNORED = -100
"""The label of positions that do not contribute to the loss, as in torch and transformers."""

Ending = Literal["clean", "repaired", "malformed"]
"""The result of parsing an answer."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom of a rectangle."""


@dataclass(frozen=True, slots=True)
class Entity:
    """A pair of label and entity in the text."""

    label: str
    text: str


@dataclass(frozen=True, slots=True)
class Segment:
    """A crop of the main image that shows one entity.

    Attributes:
        letter: Its letter in the sample: a … z, aa, ab …
        image: The file of the crop; None if the data has no images.
        entity: The text of the entity that it shows.
        box: Left, top, right and bottom in pixels of the main image.
    """

    letter: str
    image: Path | None
    entity: str
    box: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Sample:
    """One tweet with its image and annotations.

    Attributes:
        id: The id, unique in a data set.
        text: The text of the tweet.
        image: The main image; None if there is only text.
        summary: A description of the main image; None if there is none.
        entities: The entities in the order of the text; may contain the same pair twice.
        segments: The segments in the order of their letters.
    """

    id: str
    text: str
    image: Path | None
    summary: str | None
    entities: tuple[Entity, ...]
    segments: tuple[Segment, ...]


def is_blank(text: str) -> bool:
    """Return whether a text shows nothing: it is empty, or holds only white space and invisible format characters."""
    return all(char.isspace() or category(char) in {"Cc", "Cf"} for char in text)


def replace_lone_surrogates(text: str) -> str:
    """Replace unpaired surrogates with U+FFFD: a token limit can cut an emoji apart, which JSON can hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def find_blank_text(sample: Sample) -> str | None:
    """Describe the first text of a sample that shows nothing; None if there is none.

    The text and the summary may be empty: the sample then has none. An entity may not be empty.
    """
    if sample.text and is_blank(sample.text):
        return 'the text holds only white space; write "" if there is no text'
    if sample.summary and is_blank(sample.summary):
        return "the summary holds only white space; write null if there is no summary"
    if any(is_blank(entity.text) for entity in sample.entities):
        return "an entity is empty or holds only white space; remove the entity"
    if any(is_blank(segment.entity) for segment in sample.segments):
        return "the entity of a segment is empty or holds only white space; remove the segment"
    return None


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image in a prompt."""

    path: Path


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text in a prompt."""

    text: str


@dataclass(frozen=True, slots=True)
class Rendered:
    """A sample rendered by an adapter; the model's chat template is applied to it later.

    Attributes:
        id: The sample's id.
        content: Images and text of the user's turn, in order.
        target: The answer to train on, without end token; None in a prompt for generation.
        examples: Few-shot examples as earlier turns, each with its target and without examples of its own.
        task: The task that the prompt asks, if each task has its own prompt; empty if a prompt asks all tasks.
    """

    id: str
    content: tuple[ImagePart | TextPart, ...]
    target: str | None = None
    examples: tuple[Rendered, ...] = ()
    task: str = ""

    @property
    def sample_id(self) -> str:
        """The id of the sample: that of the prompt, without the task."""
        return self.id.removesuffix(f"/{self.task}") if self.task else self.id

    @property
    def images(self) -> tuple[Path, ...]:
        """The images in the order of the model's input, those of the examples first."""
        own = tuple(part.path for part in self.content if isinstance(part, ImagePart))
        return tuple(path for example in self.examples for path in example.images) + own

    @property
    def prompt(self) -> str:
        """The text of the user's turn."""
        return "".join(part.text for part in self.content if isinstance(part, TextPart))


@dataclass(frozen=True, slots=True)
class Completion:
    """The answer that a model generated for one sample.

    Attributes:
        id: The sample's id.
        output: The text, without the end token.
        finished: False if the answer was cut off at the maximum number of new tokens.
    """

    id: str
    output: str
    finished: bool = True


MAX_COMBINING_MARKS = 30
"""Number of combining marks in a row that any text needs at most: the limit of Unicode's Stream-Safe Text Format."""

_CANDIDATES = re.compile(rf"[^\x00-\u02ff]{{{MAX_COMBINING_MARKS + 1},}}")
"""Matches where a longer row could be: no character before U+0300 is a combining mark."""


def nfc(text: str) -> str:
    """Normalize a text to Unicode NFC, in which equivalent spellings of a character are equal.

    A text for which `can_be_normalized` is false stays as it is.
    """
    return normalize("NFC", text) if can_be_normalized(text) else text


def can_be_normalized(text: str) -> bool:
    """Return whether a text has no row of more than `MAX_COMBINING_MARKS` combining marks.

    Normalizing takes a time that is quadratic in the length of such a row, and no writing has longer rows. See Unicode
    Standard Annex 15, section 13.
    """
    return all(_longest_row_of_marks(found[0]) <= MAX_COMBINING_MARKS for found in _CANDIDATES.finditer(text))


def _longest_row_of_marks(text: str) -> int:
    """Count by the first character of each decomposition, because some marks only decompose to combining marks."""
    rows = groupby(text, lambda char: combining(normalize("NFKD", char)[0]) > 0)
    return max((sum(1 for _ in row) for is_mark, row in rows if is_mark), default=0)


@dataclass(frozen=True, slots=True)
class GroundedEntity:
    """An entity with the boxes that show it in the image.

    Attributes:
        label: Its label.
        text: Its text.
        boxes: Its boxes, in the frame of the adapter; empty if no box shows it. None in an answer whose text for the
            boxes cannot be read.
        position: Where the text of the sample mentions it, in any unit that orders mentions; None if it is not known.
    """

    label: str
    text: str
    boxes: tuple[Box, ...] | None
    position: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Convert the entity to plain data."""
        boxes = None if self.boxes is None else [list(box) for box in self.boxes]
        return {"label": self.label, "text": self.text, "boxes": boxes}


@dataclass(frozen=True, slots=True)
class Answer:
    """The content of an answer; a part is None if its task was not asked for.

    All texts are normalized to Unicode NFC, so that answers and references compare equal in any Unicode form.

    Attributes:
        summary: Task 1: the summary.
        pairs: Task 2: the set of (label, entity) pairs.
        mapping: Task 2: the entity of each segment letter.
        grounded: The entities with their boxes, in the order of the answer or of the text, for adapters whose answers
            hold boxes. The pairs are then those of these entities.
    """

    summary: str | None
    pairs: frozenset[tuple[str, str]] | None
    mapping: Mapping[str, str] | None
    grounded: tuple[GroundedEntity, ...] | None = None

    def __post_init__(self) -> None:
        """Normalize all texts to NFC."""
        if self.summary is not None:
            object.__setattr__(self, "summary", nfc(self.summary))
        if self.pairs is not None:
            object.__setattr__(self, "pairs", frozenset((nfc(label), nfc(entity)) for label, entity in self.pairs))
        if self.mapping is not None:
            mapping = {nfc(letter): nfc(entity) for letter, entity in self.mapping.items()}
            object.__setattr__(self, "mapping", mapping)
        if self.grounded is not None:
            grounded = tuple(replace(each, label=nfc(each.label), text=nfc(each.text)) for each in self.grounded)
            object.__setattr__(self, "grounded", grounded)


@dataclass(frozen=True, slots=True)
class Prediction:
    """A parsed answer and the result of parsing.

    Attributes:
        answer: The parts that could be parsed.
        ending: `clean`, `repaired` (parsed although the format is not as required) or `malformed` (a part is lost).
        notes: What was repaired or lost, in plain words.
    """

    answer: Answer
    ending: Ending
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Score:
    """The scores of one sample.

    Attributes:
        id: The sample's id.
        ending: The result of parsing its answer.
        notes: What the parser repaired or lost.
        counts: The counts or values of the sample, by metric plugin.
    """

    id: str
    ending: Ending
    notes: tuple[str, ...]
    counts: Mapping[str, Mapping[str, Any]]


def segment_letters() -> Iterator[str]:
    """Yield the letters of segments: a … z, aa, ab … without end."""
    for length in count(1):
        yield from ("".join(letters) for letters in product(ascii_lowercase, repeat=length))


@dataclass(frozen=True, slots=True)
class Memory:
    """The peak memory of a training step on one worker's device, in bytes.

    Attributes:
        moment: When the peak occurs: `loss` (after the forward pass), `backward`, `step` (of the optimizer), or
            `answer` (generation for validation samples with unsharded weights, without the generator's own memory).
        weights: Master weights and their working copies: copies in lower precision, weights gathered from other
            workers.
        gradients: Gradients at that moment, and the buffers that exchange them between workers.
        optimizer: Optimizer state.
        activations: Activations that the forward pass stores for the backward pass.
        logits: Memory of the output layer and the cross-entropy.
    """

    moment: Literal["loss", "backward", "step", "answer"]
    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


@dataclass(frozen=True, slots=True)
class TrainingVariant:
    """A training setup and its memory.

    Attributes:
        change: The change to the spec, in the form of `--set` or in words; empty for the unchanged spec.
        strategy: The strategy of distributed training.
        memory: The memory of one worker.
        flops_per_step: Floating-point operations of an average optimizer step, over all workers.
        exchanged_per_step: Bytes that each worker receives from the others in a step; it sends as many.
    """

    change: str
    strategy: str
    memory: Memory
    flops_per_step: float = 0
    exchanged_per_step: float = 0


@dataclass(frozen=True, slots=True)
class TrainingBudget:
    """The length of a training, computed before it runs; early stopping can make it shorter.

    Attributes:
        steps: Optimizer steps; None if they depend on the lengths of the samples, which are not known.
        tokens: Answer tokens that are trained on in all steps; None if the lengths are not known.
    """

    steps: int | None
    tokens: int | None


@dataclass(frozen=True, slots=True)
class HostMemory:
    """The main memory that a training takes on a machine with all its workers, in bytes.

    It does not count what each process takes anyway, and the weights of the checkpoint while they are loaded.

    Attributes:
        weights: What the trainer makes of the weights of the checkpoint: on CPUs, for all workers; on GPUs, 0.
        training: The training itself: on CPUs, the memory of all workers; on GPUs, 0.
        checkpoint: The copy of a checkpoint that is written while the training continues.
        save: The weights in main memory while the trained model is saved.
    """

    weights: int
    training: int
    checkpoint: int
    save: int


@dataclass(frozen=True, slots=True)
class CheckpointSchedule:
    """When a training writes checkpoints.

    Attributes:
        seconds: Time between two checkpoints; at the end of an epoch, half of it. None: the time does not matter.
        steps: Number of optimizer steps between two checkpoints; None: the number of steps does not matter.
        steps_per_epoch: Optimizer steps of an epoch.
        best_steps: Number of optimizer steps between two evaluations, after each of which the best model may be saved;
            None if the best model is not saved.
    """

    seconds: float | None
    steps: int | None
    steps_per_epoch: int
    best_steps: int | None = None

    def is_due(self, step: int, seconds_since_last: float) -> bool:
        """Return whether a checkpoint is due after a step.

        Args:
            step: Optimizer steps done.
            seconds_since_last: Time since the last checkpoint, or since the training was started or resumed.
        """
        if self.steps is not None and step % self.steps == 0:
            return True
        if self.seconds is None:
            return False
        is_epoch_end = step % self.steps_per_epoch == 0
        return seconds_since_last >= (self.seconds / 2 if is_epoch_end else self.seconds)

    def count(self, num_steps: int, seconds_per_step: float) -> int:
        """Count the checkpoints of a training that is not interrupted; none is written after the last step.

        Args:
            num_steps: Optimizer steps of the training.
            seconds_per_step: Time of each step.
        """
        number, last = 0, 0
        for step in range(1, num_steps):
            may_be_best = self.best_steps is not None and step % self.best_steps == 0
            if may_be_best or self.is_due(step, (step - last) * seconds_per_step):
                number, last = number + 1, step
        return number


@dataclass(frozen=True, slots=True)
class TrainingEstimate:
    """The resources of a training, estimated before it runs.

    Attributes:
        variants: The unchanged spec, then variants with less memory, the least costly first.
        flops_per_step: Floating-point operations of an average optimizer step, over all workers.
        checkpoint: Size of one checkpoint in bytes.
        num_checkpoints: Maximum number of checkpoints on disk at once.
        model: Size of the trained model in bytes.
        encoded: Size in bytes of the encoded samples that the trainer stores; 0 if it stores none.
        schedule: When checkpoints are written; None if the trainer does not say.
        host: The main memory of the training; None if the trainer does not say.
        exchanged_per_step: Bytes that each worker receives from the others in a step; it sends as many.
        faster: Variants that need less time and more memory, those with the fewest micro-batches first.
    """

    variants: tuple[TrainingVariant, ...]
    flops_per_step: float
    checkpoint: int
    num_checkpoints: int
    model: int
    encoded: int = 0
    schedule: CheckpointSchedule | None = None
    host: HostMemory | None = None
    exchanged_per_step: float = 0
    faster: tuple[TrainingVariant, ...] = ()
