"""Checks one encoded sample: its labels, its prompt, its image tokens and its length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from runner.errors import StepError
from runner.records import IGNORED, Rendered, TextPart, nfc
from runner.stages import Features, Trainer, VisionLanguageModel

BEFORE, AFTER = 20, 40
"""Characters to quote before and after the position where two texts differ."""


def text_difference(expected: str, found: str) -> str:
    """Describe the first difference of two texts: `at character 12 expected '…' and found '…'`."""
    pairs = zip(expected, found, strict=False)
    position = next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(expected), len(found)))
    quotes = f"expected {text_excerpt(expected, position)} and found {text_excerpt(found, position)}"
    return f"at character {position} {quotes}"


def text_excerpt(text: str, position: int) -> str:
    """Quote a text around a position, on one line."""
    start, end = max(0, position - BEFORE), position + AFTER
    return f"{'…' if start else ''}{text[start:end]!r}{'…' if end < len(text) else ''}"


def nfc_without_whitespace(text: str) -> str:
    """Normalize a text to NFC and remove all white space."""
    return "".join(nfc(text).split())


def label_position_problems(
    model: VisionLanguageModel, ids: Sequence[int], labels: Sequence[int], trained: Sequence[int]
) -> Iterator[str]:
    """Yield problems of the label positions: wrong tokens with loss, or labels that are not at their tokens.

    Args:
        model: Knows the image tokens and decodes tokens.
        ids: The token ids of a sample.
        labels: One label per token.
        trained: The indices whose label is not `IGNORED`.
    """
    if not trained:
        yield "no token carries loss: all labels of the sample are masked"
        return
    image_tokens = model.image_token_ids
    image_index = next((index for index in trained if {ids[index], labels[index]} & image_tokens), None)
    if image_index is not None:
        yield f"an image token carries loss, at token {image_index} of {len(ids)}"
    misplaced = next((index for index in trained if ids[index] != labels[index]), None)
    if misplaced is not None:
        yield (
            f"the label at token {misplaced} is {model.decode_raw([labels[misplaced]])!r}, but the token there is "
            f"{model.decode_raw([ids[misplaced]])!r}: a label belongs at its own token"
            f"{_describe_shift(ids, labels, trained)}"
        )
    gap = next((index for index, following in pairwise(trained) if following != index + 1), None)
    if gap is not None:
        yield f"the tokens with loss are not contiguous: there is a gap after token {gap} of {len(ids)}"


def label_text_problems(
    model: VisionLanguageModel, trained: Sequence[int], text: str, target: str, target_suffix: str
) -> Iterator[str]:
    """Yield problems of the trained text: it has to be the target, its end token and the suffix.

    Args:
        model: Decodes tokens, and knows which tokens end an answer.
        trained: The labels with loss; if there are none, `label_position_problems` reports it.
        text: The same labels as text.
        target: The reference answer.
        target_suffix: Text that is trained after the end token.
    """
    if not trained:
        return
    expected = f"{target}{model.turn_end}{target_suffix}"
    if nfc(text) != nfc(expected):
        difference = text_difference(expected, text)
        yield f"the tokens with loss are not the answer, its end token and trainer.target_suffix: {difference}"
        return
    stops = [index for index, token in enumerate(trained) if token in model.stop_token_ids]
    if not stops:
        yield f"{model.turn_end!r} is trained as the end of an answer, but generation stops at none of its tokens"
        return
    until_stop = text if stops[0] == len(trained) - 1 else model.decode_raw(trained[: stops[0] + 1])
    if nfc(until_stop) != nfc(f"{target}{model.turn_end}"):
        yield f"the answer contains a token that ends generation: {text_difference(expected, until_stop)}"


def _describe_shift(ids: Sequence[int], labels: Sequence[int], trained: Sequence[int]) -> str:
    """Say if all labels are those of the next or of the previous token."""
    for offset, description in ((1, "one token too early"), (-1, "one token too late")):
        inside = [index for index in trained if 0 <= index + offset < len(ids)]
        if inside and all(labels[index] == ids[index + offset] for index in inside):
            return f"; all labels are {description}"
    return ""


def without_images(rendered: Rendered) -> Rendered:
    """Return the sample with its text parts only."""
    return replace(
        rendered,
        content=tuple(part for part in rendered.content if isinstance(part, TextPart)),
        examples=tuple(without_images(example) for example in rendered.examples),
    )


def prompt_problems(
    model: VisionLanguageModel, rendered: Rendered, found: Sequence[int], expected: Sequence[int] | None
) -> Iterator[str]:
    """Yield problems of a prompt: it differs from the prompt of generation, or lacks a text of its sample.

    Args:
        model: Decodes tokens, and knows the image tokens.
        rendered: The sample.
        found: The tokens before the answer.
        expected: The tokens of the prompt of generation; None if they are compared elsewhere.
    """
    if expected is not None and list(found) != list(expected):
        expected_text, found_text = _decode_text(model, expected), _decode_text(model, found)
        if expected_text == found_text:
            difference = f"expected {len(expected)} tokens and found {len(found)}, with the same text"
        else:
            difference = text_difference(expected_text, found_text)
        yield f"the prompt in training differs from the prompt of generation: {difference}"
        return
    missing = _first_missing(_texts(rendered), _decode_text(model, found))
    if missing is not None:
        yield f"a text of the sample is missing in the prompt, or out of order: {missing[:60]!r}"


def _decode_text(model: VisionLanguageModel, ids: Sequence[int]) -> str:
    return model.decode_raw([token for token in ids if token not in model.image_token_ids])


def _texts(rendered: Rendered) -> Iterator[str]:
    for example in rendered.examples:
        yield from _texts(example)
        yield example.target or ""
    yield from (part.text for part in rendered.content if isinstance(part, TextPart))


def _first_missing(texts: Iterator[str], prompt: str) -> str | None:
    """Return the first text that is not in the prompt after the texts before it; templates may strip white space."""
    normalized_prompt, start = nfc(prompt), 0
    for text in texts:
        expected = nfc(text).strip()
        index = normalized_prompt.find(expected, start)
        if index < 0:
            return expected
        start = index + len(expected)
    return None


@dataclass(frozen=True)
class SampleCheck:
    """Results of the checks of one encoded sample.

    Attributes:
        num_tokens: Number of tokens.
        num_image_tokens: Number of image tokens among them, one per feature of the vision encoder.
        num_trained: Number of tokens with loss.
        trained_text: Those tokens as text, special tokens written out.
        truncated: The answer is cut off.
        respelt: The tokenizer normalizes a character of the answer to a canonically equivalent one (Unicode NFC).
        problems: What is wrong, the most important first.
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
    """Checks encoded samples for one model and one trainer.

    Attributes:
        model: The model.
        trainer: The trainer; None without training.
        limit: Maximum number of tokens of a sample; None for no limit.
    """

    model: VisionLanguageModel
    trainer: Trainer | None
    limit: int | None

    @classmethod
    def of(cls, model: VisionLanguageModel, trainer: Trainer | None) -> SampleChecker:
        """Create a checker with the limit of the trainer, or without a trainer that of the model.

        Raises:
            SpecError: The trainer's limit exceeds the context length of the model.
        """
        return cls(model, trainer, trainer.max_sample_tokens(model) if trainer else model.context_length)

    @property
    def target_suffix(self) -> str:
        """Text that is trained after the end token."""
        return self.trainer.target_suffix if self.trainer else ""

    def encode(self, rendered: Rendered) -> Features:
        """Encode a sample with its target, as in training.

        Raises:
            DataError: The sample is too long, or an image cannot be used.
        """
        return self.trainer.encode(self.model, rendered) if self.trainer else self.encode_untruncated(rendered)

    def encode_untruncated(self, rendered: Rendered) -> Features:
        """Encode a sample with its target, without a limit.

        Raises:
            DataError: An image cannot be used.
        """
        return self.model.encode(rendered, self.target_suffix)

    def prompt_ids(self, rendered: Rendered, *, pixels: bool = True) -> list[int]:
        """The token ids of the prompt of a sample, encoded as for generation."""
        return _to_list(self.model.encode(replace(rendered, target=None), pixels=pixels)["input_ids"])

    def check(self, rendered: Rendered, features: Features) -> None:
        """Check a sample just before it is trained, without running the vision encoder, which may be in use.

        Raises:
            StepError: The sample has a problem.
        """
        num_tokens = self.model.num_image_tokens(rendered)
        raise_problems(rendered.id, self.inspect(rendered, features, num_features=num_tokens).problems)

    def inspect_without_pixels(self, rendered: Rendered) -> SampleCheck:
        """Check a sample without reading its images, which is fast, and without a limit on its length."""
        features = self.model.encode(rendered, self.target_suffix, pixels=False)
        prompt = self.prompt_ids(rendered, pixels=False)
        # Without pixels there are no image features to compare the number of image tokens with.
        num_features = self._num_image_tokens(_to_list(features["input_ids"]))
        return replace(self, limit=None).inspect(rendered, features, prompt, num_features=num_features)

    def chat_template_problems(self, rendered: Rendered) -> tuple[str, ...]:
        """Compare a training sample with the same question and answer as an earlier turn of a chat.

        There the chat template itself writes question and answer. White space is ignored, since templates write it
        differently in earlier turns.
        """
        example = without_images(replace(rendered, examples=()))
        chat = Rendered(rendered.id, (TextPart("And then?"),), examples=(example,))
        chat_text = self.model.decode_raw(_to_list(self.model.encode(chat)["input_ids"]))
        training_text = f"{self.model.decode_raw(self.prompt_ids(example))}{example.target}"
        found, expected = nfc_without_whitespace(chat_text), nfc_without_whitespace(training_text)
        if found.startswith(expected):
            return ()
        difference = text_difference(expected, found[: len(expected)])
        return (f"the chat template writes an answer differently from training (without white space): {difference}",)

    def inspect(
        self,
        rendered: Rendered,
        features: Features,
        prompt: Sequence[int] | None = None,
        *,
        num_features: int | None = None,
    ) -> SampleCheck:
        """Check a sample that was encoded with its target.

        Args:
            rendered: The sample with its target.
            features: The result of `encode`.
            prompt: The result of `prompt_ids`; None if the prompts are compared elsewhere.
            num_features: The expected number of image tokens. Default: the number of features that the vision encoder
                makes of the pixels; some models run it for this.
        """
        ids, labels = _to_list(features["input_ids"]), _to_list(features["labels"])
        trained = [index for index, label in enumerate(labels) if label != IGNORED]
        trained_labels = [labels[index] for index in trained]
        text = self.model.decode_raw(trained_labels)
        expected = f"{rendered.target}{self.model.turn_end}{self.target_suffix}"
        truncated = self._is_truncated(len(ids), text, expected)
        if num_features is None:
            num_features = self.model.num_image_features(features)
        problems = list(label_position_problems(self.model, ids, labels, trained))
        if not truncated:
            problems += label_text_problems(self.model, trained_labels, text, rendered.target or "", self.target_suffix)
        problems += prompt_problems(self.model, rendered, ids[: trained[0]] if trained else ids, prompt)
        problems += self._image_problems(rendered, ids, num_features)
        problems += self._length_problems(len(ids))
        return SampleCheck(
            num_tokens=len(ids),
            num_image_tokens=self._num_image_tokens(ids),
            num_trained=len(trained),
            trained_text=text,
            truncated=truncated,
            respelt=not truncated and text != expected and nfc(text) == nfc(expected),
            problems=tuple(problems),
        )

    def inspect_prompt(self, rendered: Rendered, features: Features) -> tuple[str, ...]:
        """Return the problems of a sample that was encoded without its target."""
        ids = _to_list(features["input_ids"])
        return (
            *prompt_problems(self.model, rendered, ids, None),
            *self._image_problems(rendered, ids, self.model.num_image_features(features)),
            *self._length_problems(len(ids)),
        )

    def _is_truncated(self, length: int, text: str, expected: str) -> bool:
        """Return whether the answer was cut off at the limit by a trainer that truncates."""
        # If the cut is between the bytes of a character, the text ends with a replacement character.
        found = nfc(text.rstrip("\ufffd"))
        is_prefix = found != nfc(expected) and nfc(expected).startswith(found)
        truncates = self.trainer is not None and self.trainer.truncates
        return truncates and length == self.limit and bool(text) and is_prefix

    def _image_problems(self, rendered: Rendered, ids: Sequence[int], num_features: int) -> Iterator[str]:
        num_tokens, num_images = self._num_image_tokens(ids), len(rendered.images)
        if num_tokens != num_features:
            yield f"there are {num_tokens:,} image tokens for {num_features:,} features of {num_images} images"
        elif num_tokens < num_images:
            yield f"{num_tokens:,} image tokens are too few for {num_images} images"

    def _length_problems(self, length: int) -> Iterator[str]:
        if self.limit is not None and length > self.limit:
            yield f"{length:,} tokens exceed the limit of {self.limit:,}"

    def _num_image_tokens(self, ids: Sequence[int]) -> int:
        return sum(ids.count(token) for token in self.model.image_token_ids)


def raise_problems(sample: str, problems: Sequence[str]) -> None:
    """Raise an error if a sample has problems.

    Raises:
        StepError: With the id of the sample and its first problem.
    """
    if problems:
        more = f" (and {len(problems) - 1} more, which `runner preview` shows)" if len(problems) > 1 else ""
        raise StepError(f"sample {sample}: {problems[0]}{more}")


def _to_list(tensor: object) -> list[int]:
    return tensor.tolist()  # type: ignore[attr-defined,no-any-return]  # a tensor: the engine does not import torch
