"""Whether the tokens that carry loss are the answer and nothing else, in one encoded sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from runner.errors import StepError
from runner.proof.excerpt import composed, difference, squeezed
from runner.proof.labels import place_problems, text_problems
from runner.proof.words import prompt_problems, without_images
from runner.records import IGNORED, Rendered, TextPart
from runner.stages import Features, Trainer, VisionLanguageModel


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

    def prompt_ids(self, rendered: Rendered, *, pixels: bool = True) -> list[int]:
        """The tokens of a sample's prompt as it is encoded to generate an answer."""
        return _list(self.model.encode(replace(rendered, target=None), pixels=pixels)["input_ids"])

    def check(self, rendered: Rendered, features: Features) -> None:
        """Inspect a sample as it is about to be trained on, without the vision tower, which may be at work.

        Raises:
            StepError: Something is wrong with it.
        """
        num_tokens = self.model.num_image_tokens(rendered)
        refuse(rendered.id, self.inspect(rendered, features, num_features=num_tokens).problems)

    def inspect_words(self, rendered: Rendered) -> Inspection:
        """Inspect a sample without the pixels of its images, which is quick, and whatever its length."""
        features = self.model.encode(rendered, self.trailing, pixels=False)
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
        shown = self.model.spell(_list(self.model.encode(followed)["input_ids"]))
        wanted = f"{self.model.spell(self.prompt_ids(alone))}{alone.target}"
        found, expected = squeezed(shown), squeezed(wanted)
        if found.startswith(expected):
            return ()
        parted = difference(expected, found[: len(expected)])
        return (f"the chat template does not place the answer where it is trained (without white space): {parted}",)

    def inspect(
        self,
        rendered: Rendered,
        features: Features,
        prompt: Sequence[int] | None = None,
        *,
        num_features: int | None = None,
    ) -> Inspection:
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
        text, wanted = self.model.spell(trained), f"{rendered.target}{self.model.turn_end}{self.trailing}"
        truncated = self._is_truncated(len(ids), text, wanted)
        if num_features is None:
            num_features = self.model.num_image_features(features)
        problems = [
            *place_problems(self.model, ids, labels, places),
            *(() if truncated else text_problems(self.model, trained, text, rendered.target or "", self.trailing)),
            *prompt_problems(self.model, rendered, ids[: places[0]] if places else ids, prompt),
            *self._image_problems(rendered, ids, num_features),
            *self._length_problems(len(ids)),
        ]
        return Inspection(
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
