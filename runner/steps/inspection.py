"""Whether the tokens that carry loss are the answer and nothing else, in one encoded sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from unicodedata import normalize

from runner.errors import StepError
from runner.records import Rendered, TextPart
from runner.stages import Features, Trainer, VisionLanguageModel
from runner.steps.excerpt import difference

IGNORED = -100
"""The label of positions without loss."""


@dataclass(frozen=True)
class Inspection:
    """What was found in one encoded sample.

    Attributes:
        num_tokens: Its length.
        num_image_tokens: Places of the vision tower's features among them.
        num_trained: Tokens that carry loss.
        trained_text: Those tokens as text, special tokens spelt out.
        truncated: The end of the answer was cut off.
        respelt: The tokenizer writes a character of the answer in another, canonically equal way (Unicode's NFC).
        problems: What is wrong, the most telling first.
    """

    num_tokens: int
    num_image_tokens: int
    num_trained: int
    trained_text: str
    truncated: bool
    respelt: bool
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Inspector:
    """Inspects the encoded samples of one model, as one trainer encodes them.

    Attributes:
        model: The model.
        trainer: Who trains it; None where nobody does.
        limit: The most tokens of a sample; None for any number.
    """

    model: VisionLanguageModel
    trainer: Trainer | None
    limit: int | None

    @classmethod
    def of(cls, model: VisionLanguageModel, trainer: Trainer | None) -> Inspector:
        """Make the inspector of a model with the limit of who trains it, or its own.

        Raises:
            SpecError: The trainer asks for more tokens than the model was configured for.
        """
        return cls(model, trainer, trainer.limit(model) if trainer else model.context_length)

    @property
    def trailing(self) -> str:
        """Text that is trained after the end token."""
        return self.trainer.trailing if self.trainer else ""

    def encode(self, rendered: Rendered) -> Features:
        """Encode a sample with its target as it is trained on.

        Raises:
            DataError: It is too long, or an image cannot be used.
        """
        return self.trainer.encode(self.model, rendered) if self.trainer else self.encode_whole(rendered)

    def encode_whole(self, rendered: Rendered) -> Features:
        """Encode a sample with its target, whatever its length.

        Raises:
            DataError: An image cannot be used.
        """
        return self.model.encode(rendered, self.trailing)

    def prompt_ids(self, rendered: Rendered) -> list[int]:
        """The tokens of a sample's prompt as it is encoded to generate an answer."""
        return _list(self.model.encode(replace(rendered, target=None))["input_ids"])

    def check(self, rendered: Rendered, features: Features) -> None:
        """Inspect a sample as it is about to be trained on.

        Raises:
            StepError: Something is wrong with it.
        """
        refuse(rendered.id, self.inspect(rendered, features).problems)

    def inspect_words(self, rendered: Rendered) -> Inspection:
        """Inspect a sample without its images, which is quick, and whatever its length."""
        alone = without_images(rendered)
        return replace(self, limit=None).inspect(alone, self.encode_whole(alone), self.prompt_ids(alone))

    def inspect_turn(self, rendered: Rendered) -> tuple[str, ...]:
        """Say where the chat template writes a solved turn otherwise than a sample is trained on.

        Seen on a turn before another one, where the template places question and answer itself. White space is not
        compared: templates differ in it between a turn that is past and one that is awaited.
        """
        alone = without_images(replace(rendered, examples=()))
        followed = Rendered(rendered.id, (TextPart("And then?"),), examples=(alone,))
        shown = self.model.spell(_list(self.model.encode(followed)["input_ids"]))
        wanted = f"{self.model.spell(self.prompt_ids(alone))}{alone.target}"
        squeezed, expected = _squeezed(shown), _squeezed(wanted)
        if squeezed.startswith(expected):
            return ()
        parted = difference(expected, squeezed[: len(expected)])
        return (f"the chat template does not place the answer where it is trained (without white space): {parted}",)

    def inspect(self, rendered: Rendered, features: Features, prompt: Sequence[int] | None = None) -> Inspection:
        """Inspect a sample that was encoded with its target.

        Args:
            rendered: With its target.
            features: As `encode` gives them.
            prompt: As `prompt_ids` gives them; None where the comparison with them was made elsewhere.
        """
        ids, labels = _list(features["input_ids"]), _list(features["labels"])
        places = [place for place, label in enumerate(labels) if label != IGNORED]
        trained = [labels[place] for place in places]
        text, wanted = self.model.spell(trained), f"{rendered.target}{self.model.turn_end}{self.trailing}"
        truncated = self._is_truncated(len(ids), text, wanted)
        problems = [
            *self._place_problems(ids, labels, places),
            *(() if truncated else self._text_problems(rendered, trained, text, wanted)),
            *self._prompt_problems(rendered, ids[: places[0]] if places else ids, prompt),
            *self._image_problems(rendered, ids, features),
            *self._length_problems(len(ids)),
        ]
        return Inspection(
            num_tokens=len(ids),
            num_image_tokens=self._num_image_tokens(ids),
            num_trained=len(places),
            trained_text=text,
            truncated=truncated,
            respelt=not truncated and text != wanted and _nfc(text) == _nfc(wanted),
            problems=tuple(problems),
        )

    def inspect_prompt(self, rendered: Rendered, features: Features) -> tuple[str, ...]:
        """Say what is wrong with a sample that was encoded without a target."""
        ids = _list(features["input_ids"])
        return (
            *self._prompt_problems(rendered, ids, None),
            *self._image_problems(rendered, ids, features),
            *self._length_problems(len(ids)),
        )

    def _is_truncated(self, length: int, text: str, wanted: str) -> bool:
        """Whether the answer ends early, as a trainer that truncates may leave it at the limit."""
        # A cut between the bytes of a character leaves a replacement mark.
        shown = _nfc(text.rstrip("\ufffd"))
        early = shown != _nfc(wanted) and _nfc(wanted).startswith(shown)
        allowed = self.trainer is not None and self.trainer.truncates
        return allowed and length == self.limit and bool(shown) and early

    def _place_problems(self, ids: Sequence[int], labels: Sequence[int], places: Sequence[int]) -> Iterator[str]:
        if not places:
            yield "no token carries loss: the sample is masked from end to end"
            return
        images = self.model.image_token_ids
        in_loss = next((place for place in places if {ids[place], labels[place]} & images), None)
        if in_loss is not None:
            yield f"an image token carries loss, at token {in_loss} of {len(ids)}"
        apart = next((place for place in places if ids[place] != labels[place]), None)
        if apart is not None:
            yield (
                f"the label at token {apart} is {self.model.spell([labels[apart]])!r}, and the token that stands there "
                f"is {self.model.spell([ids[apart]])!r}: labels belong at the tokens themselves"
                f"{_shift(ids, labels, places)}"
            )
        hole = next((place for place, after in pairwise(places) if after != place + 1), None)
        if hole is not None:
            yield f"the tokens that carry loss are interrupted after token {hole} of {len(ids)}"

    def _text_problems(self, rendered: Rendered, trained: Sequence[int], text: str, wanted: str) -> Iterator[str]:
        if not trained:
            return
        if _nfc(text) != _nfc(wanted):
            parted = difference(wanted, text)
            yield f"the tokens that carry loss are not the answer, its end token and what trails it: {parted}"
            return
        stops = [place for place, token in enumerate(trained) if token in self.model.stop_token_ids]
        if not stops:
            yield f"{self.model.turn_end!r} is trained as an answer's end, and no token of it ends an answer later"
            return
        ended = self.model.spell(trained[: stops[0] + 1])
        if _nfc(ended) != _nfc(f"{rendered.target}{self.model.turn_end}"):
            yield f"a token that ends an answer stands inside it: {difference(wanted, ended)}"

    def _prompt_problems(self, rendered: Rendered, found: Sequence[int], prompt: Sequence[int] | None) -> Iterator[str]:
        if prompt is not None and list(found) != list(prompt):
            parted = self._parted(prompt, found)
            yield f"the prompt in training is not the one that an answer is generated from: {parted}"
            return
        lacking = _first_lacking(_texts(rendered), self._without_images(found))
        if lacking is not None:
            yield f"the prompt lacks a text of the sample, or has it out of order: {lacking[:60]!r}"

    def _parted(self, prompt: Sequence[int], found: Sequence[int]) -> str:
        expected, shown = self._without_images(prompt), self._without_images(found)
        if expected == shown:
            return f"expected {len(prompt)} tokens and found {len(found)}, of the same text"
        return difference(expected, shown)

    def _image_problems(self, rendered: Rendered, ids: Sequence[int], features: Features) -> Iterator[str]:
        tokens, made = self._num_image_tokens(ids), self.model.num_image_features(features)
        if tokens != made:
            yield f"{tokens:,} image tokens stand for {made:,} features of {len(rendered.images)} images"
        elif tokens < len(rendered.images):
            yield f"{tokens:,} image tokens are too few for {len(rendered.images)} images"

    def _length_problems(self, length: int) -> Iterator[str]:
        if self.limit is not None and length > self.limit:
            yield f"{length:,} tokens are more than the limit of {self.limit:,}"

    def _num_image_tokens(self, ids: Sequence[int]) -> int:
        return sum(token in self.model.image_token_ids for token in ids)

    def _without_images(self, ids: Sequence[int]) -> str:
        return self.model.spell([token for token in ids if token not in self.model.image_token_ids])


def without_images(rendered: Rendered) -> Rendered:
    """The same sample as text alone."""
    return replace(
        rendered,
        content=tuple(part for part in rendered.content if isinstance(part, TextPart)),
        examples=tuple(without_images(example) for example in rendered.examples),
    )


def refuse(sample: str, problems: Sequence[str]) -> None:
    """Stop where something is wrong with a sample.

    Raises:
        StepError: Naming the sample and its first problem.
    """
    if problems:
        more = f" (and {len(problems) - 1} more, which `runner preview` shows)" if len(problems) > 1 else ""
        raise StepError(f"sample {sample}: {problems[0]}{more}")


def _list(tensor: object) -> list[int]:
    return tensor.tolist()  # type: ignore[attr-defined,no-any-return]  # a tensor: the engine does not import torch


def _nfc(text: str) -> str:
    return normalize("NFC", text)


def _squeezed(text: str) -> str:
    return "".join(_nfc(text).split())


def _shift(ids: Sequence[int], labels: Sequence[int], places: Sequence[int]) -> str:
    """Say so where all labels fit the token after or before their place."""
    for by, where in ((1, "one place too early"), (-1, "one place too late")):
        inside = [place for place in places if 0 <= place + by < len(ids)]
        if inside and all(labels[place] == ids[place + by] for place in inside):
            return f", and all of them stand {where}"
    return ""


def _texts(rendered: Rendered) -> Iterator[str]:
    for example in rendered.examples:
        yield from _texts(example)
        yield example.target or ""
    yield from (part.text for part in rendered.content if isinstance(part, TextPart))


def _first_lacking(texts: Iterator[str], prompt: str) -> str | None:
    """The first of some texts that does not follow on those before it; templates may strip space around them."""
    within, start = _nfc(prompt), 0
    for text in texts:
        wanted = _nfc(text).strip()
        place = within.find(wanted, start)
        if place < 0:
            return wanted
        start = place + len(wanted)
    return None
