"""Checks one encoded sample: its labels, its prompt, its image tokens and its length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from unicodedata import normalize

from runner.errors import StepError
from runner.records import IGNORED, Rendered, TextPart
from runner.stages import Features, Trainer, VisionLanguageModel

BEFORE, AFTER = 20, 40
"""Characters shown before and after the place where two texts part."""


def text_difference(expected: str, found: str) -> str:
    """Say where two texts part: `at character 12 expected '…' and found '…'`."""
    pairs = zip(expected, found, strict=False)
    place = next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(expected), len(found)))
    return f"at character {place} expected {text_excerpt(expected, place)} and found {text_excerpt(found, place)}"


def text_excerpt(text: str, place: int) -> str:
    """Quote a text around a place, on one line."""
    first, end = max(0, place - BEFORE), place + AFTER
    return f"{'…' if first else ''}{text[first:end]!r}{'…' if end < len(text) else ''}"


def composed(text: str) -> str:
    """A text as tokenizers that compose characters write it (Unicode's NFC), so that spellings can be compared."""
    return normalize("NFC", text)


def squeezed(text: str) -> str:
    """A text composed and without white space."""
    return "".join(composed(text).split())


def label_position_problems(
    model: VisionLanguageModel, ids: Sequence[int], labels: Sequence[int], places: Sequence[int]
) -> Iterator[str]:
    """Say where tokens carry loss that must not, or labels stand beside their tokens.

    Args:
        model: Tells image tokens from others, and spells.
        ids: The tokens of a sample.
        labels: A label a token.
        places: Where they are not `IGNORED`.
    """
    if not places:
        yield "no token carries loss: the sample is masked from end to end"
        return
    images = model.image_token_ids
    in_loss = next((place for place in places if {ids[place], labels[place]} & images), None)
    if in_loss is not None:
        yield f"an image token carries loss, at token {in_loss} of {len(ids)}"
    apart = next((place for place in places if ids[place] != labels[place]), None)
    if apart is not None:
        yield (
            f"the label at token {apart} is {model.decode_raw([labels[apart]])!r}, and the token that stands there "
            f"is {model.decode_raw([ids[apart]])!r}: labels belong at the tokens themselves"
            f"{_shift(ids, labels, places)}"
        )
    hole = next((place for place, after in pairwise(places) if after != place + 1), None)
    if hole is not None:
        yield f"the tokens that carry loss are interrupted after token {hole} of {len(ids)}"


def label_text_problems(
    model: VisionLanguageModel, trained: Sequence[int], text: str, target: str, target_suffix: str
) -> Iterator[str]:
    """Say where the trained tokens are not the target, its end token and what trails it.

    Args:
        model: Spells, and says which tokens end an answer.
        trained: The labels of a sample that carry loss; of none, `label_position_problems` tells.
        text: The same, spelt out.
        target: The answer.
        target_suffix: Text that is trained after its end token.
    """
    if not trained:
        return
    wanted = f"{target}{model.turn_end}{target_suffix}"
    if composed(text) != composed(wanted):
        parted = text_difference(wanted, text)
        yield f"the tokens that carry loss are not the answer, its end token and what trails it: {parted}"
        return
    stops = [place for place, token in enumerate(trained) if token in model.stop_token_ids]
    if not stops:
        yield f"{model.turn_end!r} is trained as an answer's end, and no token of it ends an answer later"
        return
    ended = model.decode_raw(trained[: stops[0] + 1])
    if composed(ended) != composed(f"{target}{model.turn_end}"):
        yield f"a token that ends an answer stands inside it: {text_difference(wanted, ended)}"


def _shift(ids: Sequence[int], labels: Sequence[int], places: Sequence[int]) -> str:
    """Say so where all labels fit the token after or before their place."""
    for by, where in ((1, "one place too early"), (-1, "one place too late")):
        inside = [place for place in places if 0 <= place + by < len(ids)]
        if inside and all(labels[place] == ids[place + by] for place in inside):
            return f", and all of them stand {where}"
    return ""


def without_images(rendered: Rendered) -> Rendered:
    """The same sample as text alone."""
    return replace(
        rendered,
        content=tuple(part for part in rendered.content if isinstance(part, TextPart)),
        examples=tuple(without_images(example) for example in rendered.examples),
    )


def prompt_problems(
    model: VisionLanguageModel, rendered: Rendered, found: Sequence[int], prompt: Sequence[int] | None
) -> Iterator[str]:
    """Say where a prompt is not what an answer is generated from, or lacks a text of its sample.

    Args:
        model: Spells, and tells image tokens from others.
        rendered: The sample.
        found: The tokens before its answer.
        prompt: The tokens of generation; None where the comparison with them was made elsewhere.
    """
    if prompt is not None and list(found) != list(prompt):
        parted = _parted(model, prompt, found)
        yield f"the prompt in training is not the one that an answer is generated from: {parted}"
        return
    lacking = _first_lacking(_texts(rendered), _spelt(model, found))
    if lacking is not None:
        yield f"the prompt lacks a text of the sample, or has it out of order: {lacking[:60]!r}"


def _parted(model: VisionLanguageModel, prompt: Sequence[int], found: Sequence[int]) -> str:
    expected, shown = _spelt(model, prompt), _spelt(model, found)
    if expected == shown:
        return f"expected {len(prompt)} tokens and found {len(found)}, of the same text"
    return text_difference(expected, shown)


def _spelt(model: VisionLanguageModel, ids: Sequence[int]) -> str:
    return model.decode_raw([token for token in ids if token not in model.image_token_ids])


def _texts(rendered: Rendered) -> Iterator[str]:
    for example in rendered.examples:
        yield from _texts(example)
        yield example.target or ""
    yield from (part.text for part in rendered.content if isinstance(part, TextPart))


def _first_lacking(texts: Iterator[str], prompt: str) -> str | None:
    """The first of some texts that does not follow on those before it; templates may strip space around them."""
    within, start = composed(prompt), 0
    for text in texts:
        wanted = composed(text).strip()
        place = within.find(wanted, start)
        if place < 0:
            return wanted
        start = place + len(wanted)
    return None


@dataclass(frozen=True)
class SampleCheck:
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
class SampleChecker:
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
    def of(cls, model: VisionLanguageModel, trainer: Trainer | None) -> SampleChecker:
        """Make the inspector of a model with the limit of who trains it, or its own.

        Raises:
            SpecError: The trainer asks for more tokens than the model was configured for.
        """
        return cls(model, trainer, trainer.limit(model) if trainer else model.context_length)

    @property
    def target_suffix(self) -> str:
        """Text that is trained after the end token."""
        return self.trainer.target_suffix if self.trainer else ""

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
        return self.model.encode(rendered, self.target_suffix)

    def prompt_ids(self, rendered: Rendered, *, pixels: bool = True) -> list[int]:
        """The tokens of a sample's prompt as it is encoded to generate an answer."""
        return _list(self.model.encode(replace(rendered, target=None), pixels=pixels)["input_ids"])

    def check(self, rendered: Rendered, features: Features) -> None:
        """Inspect a sample as it is about to be trained on, without the vision tower, which may be at work.

        Raises:
            StepError: Something is wrong with it.
        """
        num_tokens = self.model.num_image_tokens(rendered)
        raise_problems(rendered.id, self.inspect(rendered, features, num_features=num_tokens).problems)

    def inspect_words(self, rendered: Rendered) -> SampleCheck:
        """Inspect a sample without the pixels of its images, which is quick, and whatever its length."""
        features = self.model.encode(rendered, self.target_suffix, pixels=False)
        prompt = self.prompt_ids(rendered, pixels=False)
        # Places of images are counted by the sizes here, and compared with features where pixels are read.
        num_places = self._num_image_tokens(_list(features["input_ids"]))
        return replace(self, limit=None).inspect(rendered, features, prompt, num_features=num_places)

    def inspect_turn(self, rendered: Rendered) -> tuple[str, ...]:
        """Say where the chat template writes a solved turn otherwise than a sample is trained on.

        Seen on a turn before another one, where the template places question and answer itself. White space is not
        compared: templates differ in it between a turn that is past and one that is awaited.
        """
        alone = without_images(replace(rendered, examples=()))
        followed = Rendered(rendered.id, (TextPart("And then?"),), examples=(alone,))
        shown = self.model.decode_raw(_list(self.model.encode(followed)["input_ids"]))
        wanted = f"{self.model.decode_raw(self.prompt_ids(alone))}{alone.target}"
        found, expected = squeezed(shown), squeezed(wanted)
        if found.startswith(expected):
            return ()
        parted = text_difference(expected, found[: len(expected)])
        return (f"the chat template does not place the answer where it is trained (without white space): {parted}",)

    def inspect(
        self,
        rendered: Rendered,
        features: Features,
        prompt: Sequence[int] | None = None,
        *,
        num_features: int | None = None,
    ) -> SampleCheck:
        """Inspect a sample that was encoded with its target.

        Args:
            rendered: With its target.
            features: As `encode` gives them.
            prompt: As `prompt_ids` gives them; None where the comparison with them was made elsewhere.
            num_features: As many image tokens as there have to be; by default as many as the features that the vision
                tower makes of the pixels, for which some models run it.
        """
        ids, labels = _list(features["input_ids"]), _list(features["labels"])
        places = [place for place, label in enumerate(labels) if label != IGNORED]
        trained = [labels[place] for place in places]
        text, wanted = self.model.decode_raw(trained), f"{rendered.target}{self.model.turn_end}{self.target_suffix}"
        truncated = self._is_truncated(len(ids), text, wanted)
        if num_features is None:
            num_features = self.model.num_image_features(features)
        problems = [
            *label_position_problems(self.model, ids, labels, places),
            *(
                ()
                if truncated
                else label_text_problems(self.model, trained, text, rendered.target or "", self.target_suffix)
            ),
            *prompt_problems(self.model, rendered, ids[: places[0]] if places else ids, prompt),
            *self._image_problems(rendered, ids, num_features),
            *self._length_problems(len(ids)),
        ]
        return SampleCheck(
            num_tokens=len(ids),
            num_image_tokens=self._num_image_tokens(ids),
            num_trained=len(places),
            trained_text=text,
            truncated=truncated,
            respelt=not truncated and text != wanted and composed(text) == composed(wanted),
            problems=tuple(problems),
        )

    def inspect_prompt(self, rendered: Rendered, features: Features) -> tuple[str, ...]:
        """Say what is wrong with a sample that was encoded without a target."""
        ids = _list(features["input_ids"])
        return (
            *prompt_problems(self.model, rendered, ids, None),
            *self._image_problems(rendered, ids, self.model.num_image_features(features)),
            *self._length_problems(len(ids)),
        )

    def _is_truncated(self, length: int, text: str, wanted: str) -> bool:
        """Whether the answer ends early, as a trainer that truncates may leave it at the limit."""
        # A cut between the bytes of a character leaves a replacement mark.
        shown = composed(text.rstrip("\ufffd"))
        early = shown != composed(wanted) and composed(wanted).startswith(shown)
        allowed = self.trainer is not None and self.trainer.truncates
        return allowed and length == self.limit and bool(text) and early

    def _image_problems(self, rendered: Rendered, ids: Sequence[int], made: int) -> Iterator[str]:
        tokens = self._num_image_tokens(ids)
        if tokens != made:
            yield f"{tokens:,} image tokens stand for {made:,} features of {len(rendered.images)} images"
        elif tokens < len(rendered.images):
            yield f"{tokens:,} image tokens are too few for {len(rendered.images)} images"

    def _length_problems(self, length: int) -> Iterator[str]:
        if self.limit is not None and length > self.limit:
            yield f"{length:,} tokens are more than the limit of {self.limit:,}"

    def _num_image_tokens(self, ids: Sequence[int]) -> int:
        return sum(ids.count(token) for token in self.model.image_token_ids)


def raise_problems(sample: str, problems: Sequence[str]) -> None:
    """Stop where something is wrong with a sample.

    Raises:
        StepError: Naming the sample and its first problem.
    """
    if problems:
        more = f" (and {len(problems) - 1} more, which `runner preview` shows)" if len(problems) > 1 else ""
        raise StepError(f"sample {sample}: {problems[0]}{more}")


def _list(tensor: object) -> list[int]:
    return tensor.tolist()  # type: ignore[attr-defined,no-any-return]  # a tensor: the engine does not import torch
