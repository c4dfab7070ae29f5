"""Shows samples as the model receives them: images, tokens with and without loss, lengths and problems."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from PIL import Image, ImageOps

from runner.errors import DataError, RequirementError, RunnerError, SpecError
from runner.html_page import fill
from runner.plan import implement
from runner.preflight.sample_checker import SampleChecker
from runner.records import IGNORED, Rendered, Sample
from runner.rendering import training_texts, with_examples
from runner.spec.experiment_spec import ExperimentSpec
from runner.stages import Adapter, Features, Reporter, VisionLanguageModel

Kind = Literal["text", "special", "image"]

CHARACTER_TOKENS = 8
"""So many tokens may share a character: bytes of an emoji, each a token of its own."""


@dataclass(frozen=True)
class PromptSegment:
    """A piece of what the model gets.

    Attributes:
        kind: Plain text, one special token, or the places of an image.
        text: As it is shown: special tokens spelt out, an image as `‹image: 64 tokens›`.
        num_tokens: How many tokens it is.
        trained: Whether they carry loss.
    """

    kind: Kind
    text: str
    num_tokens: int
    trained: bool


class PromptSegmenter:
    """Cuts the encoded samples of one model."""

    def __init__(self, model: VisionLanguageModel) -> None:
        """Take the model."""
        self._model = model
        self._special: dict[int, bool] = {}

    def pieces(self, ids: Sequence[int], labels: Sequence[int]) -> tuple[PromptSegment, ...]:
        """Cut a sample, text that carries loss by its tokens, other text where something else comes between.

        Args:
            ids: Its tokens.
            labels: A label a token, -100 where there is no loss.
        """
        marked = [(self._kind(token), label != IGNORED, token) for token, label in zip(ids, labels, strict=True)]
        return tuple(
            piece
            for (kind, trained), run in groupby(marked, key=lambda each: each[:2])
            for piece in self._run(kind, trained, [token for *_, token in run])
        )

    def _run(self, kind: Kind, trained: bool, run: Sequence[int]) -> Iterator[PromptSegment]:
        if kind == "image":
            yield PromptSegment(kind, f"‹image: {len(run)} token{'s' if len(run) > 1 else ''}›", len(run), trained)
        elif kind == "special":
            yield from (PromptSegment(kind, self._model.decode_raw([token]), 1, trained) for token in run)
        elif trained:
            yield from (PromptSegment(kind, text, number, True) for text, number in self._by_token(run))
        else:
            yield PromptSegment(kind, self._model.decode_raw(run), len(run), False)

    def _kind(self, token: int) -> Kind:
        if token in self._model.image_token_ids:
            return "image"
        if token not in self._special:
            self._special[token] = bool(self._model.decode_raw([token])) and not self._model.decode([token])
        return "special" if self._special[token] else "text"

    def _by_token(self, run: Sequence[int]) -> Iterator[tuple[str, int]]:
        """Yield the text of each token, or of the few that share a character, and how many those are."""
        start = 0
        while start < len(run):
            end = start + 1
            while end < min(len(run), start + CHARACTER_TOKENS) and self._spelt(run, start, end).endswith("\ufffd"):
                end += 1
            yield self._spelt(run, start, end), end - start
            start = end

    def _spelt(self, run: Sequence[int], start: int, end: int) -> str:
        """The text of some tokens behind the one before them, as some tokenizers drop a space at the beginning."""
        before = self._model.decode_raw(run[max(0, start - 1) : start])
        both = self._model.decode_raw(run[max(0, start - 1) : end])
        return both[len(before) :] if both.startswith(before) else self._model.decode_raw(run[start:end])


@dataclass(frozen=True)
class PreviewedImage:
    """An image in the order that the model sees.

    Attributes:
        name: `main`, the letter of a segment, or `example` where it is shown with a solved sample.
        path: Its file.
        width: In pixels, as the file is; None where it cannot be read.
        height: As `width`.
        num_tokens: Places of its features; None where the model's tokens do not tell one image from the next.
    """

    name: str
    path: Path
    width: int | None
    height: int | None
    num_tokens: int | None

    def as_json(self) -> dict[str, Any]:
        """The picture as plain data."""
        return {**vars(self), "path": str(self.path)}


@dataclass(frozen=True)
class PreviewedSample:
    """A sample to look at.

    Attributes:
        id: The sample's.
        pictures: In the order that the model sees.
        pieces: Prompt and answer; without the answer in a split that nothing is trained on.
        target: The answer that is right; None where the sample holds none.
        trained_text: What carries loss, special tokens spelt out.
        truncated: The end of the answer is cut off at the limit.
        limit: The most tokens that it may have; None for any number.
        problems: What the proof finds wrong with it.
        skipped: It is beyond the limit and left out of training.
    """

    id: str
    pictures: tuple[PreviewedImage, ...]
    pieces: tuple[PromptSegment, ...]
    target: str | None
    trained_text: str
    truncated: bool
    limit: int | None
    problems: tuple[str, ...]
    skipped: bool = False

    @property
    def prompt(self) -> str:
        """What carries no loss, images folded and special tokens spelt out."""
        return "".join(piece.text for piece in self.pieces if not piece.trained)

    @property
    def lengths(self) -> dict[str, int | float | None]:
        """Tokens by kind and in all, the limit, and the share of it that is used."""
        trained = sum(piece.num_tokens for piece in self.pieces if piece.trained)
        image = sum(piece.num_tokens for piece in self.pieces if piece.kind == "image" and not piece.trained)
        total = sum(piece.num_tokens for piece in self.pieces)
        share = round(total / self.limit, 4) if self.limit else None
        text = total - image - trained
        return {"text": text, "image": image, "target": trained, "total": total, "limit": self.limit, "share": share}

    def as_json(self) -> dict[str, Any]:
        """The sample as docs/interface.md's `preview --json` lists it."""
        return {
            "id": self.id,
            "images": [str(picture.path) for picture in self.pictures],
            "prompt": self.prompt,
            "target": self.target,
            "trained_text": self.trained_text,
            "pictures": [picture.as_json() for picture in self.pictures],
            "lengths": self.lengths,
            "truncated": self.truncated,
            "skipped": self.skipped,
            "problems": list(self.problems),
        }


def previewed_images(sample: Sample, rendered: Rendered, pieces: Sequence[PromptSegment]) -> tuple[PreviewedImage, ...]:
    """Name and measure the images of a sample."""
    # Several segments may be one file, so each name is given away once.
    names = [(sample.image, "main"), *((segment.image, segment.letter) for segment in sample.segments)]
    runs = [sum(each.num_tokens for each in run) for image, run in groupby(pieces, _is_image) if image]
    tokens: Sequence[int | None] = runs if len(runs) == len(rendered.images) else [None] * len(rendered.images)
    pictures = []
    for path, number in zip(rendered.images, tokens, strict=True):
        place = next((at for at, (file, _) in enumerate(names) if file == path), None)
        name = "example" if place is None else names.pop(place)[1]
        pictures.append(PreviewedImage(name, path, *_size(path), number))
    return tuple(pictures)


def _is_image(piece: PromptSegment) -> bool:
    return piece.kind == "image"


def _size(path: Path) -> tuple[int | None, int | None]:
    """The size of an image as a person sees it."""
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None, None


Split = Literal["train", "test"]


@dataclass(frozen=True)
class Preview:
    """The samples of one split, to be looked at one after the other.

    Attributes:
        samples: Of the split.
        adapter: The spec's.
        inspector: Of the model and of who trains it.
        prompts: What is asked about each sample; None where the split is trained on.
        max_new_tokens: The most tokens of an answer; None where the generator sets no limit.
    """

    samples: Sequence[Sample]
    adapter: Adapter
    inspector: SampleChecker
    prompts: Sequence[Rendered] | None
    max_new_tokens: int | None

    def shown(self, number: int | None) -> Iterator[PreviewedSample]:
        """Yield the first samples of the split; None for all.

        Raises:
            DataError: The adapter cannot render a sample.
        """
        cutter = PromptSegmenter(self.inspector.model)
        if self.prompts is None:
            yield from (self._trained_on(sample, cutter) for sample in self.samples[:number])
            return
        for sample, prompt in zip(self.samples[:number], self.prompts[:number], strict=True):
            yield self._asked_about(sample, prompt, cutter)

    def _trained_on(self, sample: Sample, cutter: PromptSegmenter) -> PreviewedSample:
        rendered, limit = self.adapter.render_training(sample), self.inspector.limit
        features, refused = self._encoded(rendered)
        pictures = previewed_images(sample, rendered, ())
        shown = PreviewedSample(sample.id, pictures, (), rendered.target, "", False, limit, refused)
        if features is None:
            return shown
        skipped = not len(features["input_ids"])
        if skipped:
            features = self.inspector.encode_whole(rendered)
        # What was refused, or is left out, for its length is told already.
        inspector = replace(self.inspector, limit=None) if refused or skipped else self.inspector
        found = inspector.inspect(rendered, features, inspector.prompt_ids(rendered))
        pieces = cutter.pieces(*_tokens(features))
        return replace(
            shown,
            pictures=previewed_images(sample, rendered, pieces),
            pieces=pieces,
            trained_text="" if skipped else found.trained_text,
            truncated=found.truncated,
            skipped=skipped,
            problems=(*refused, *found.problems, *_turn_problems(inspector, rendered)),
        )

    def _encoded(self, rendered: Rendered) -> tuple[Features | None, tuple[str, ...]]:
        """Encode a sample as it is trained on; what the trainer refuses for its length is encoded whole."""
        try:
            return self.inspector.encode(rendered), ()
        except RunnerError as error:
            refused = (str(error),)
        try:
            return self.inspector.encode_whole(rendered), refused
        except RunnerError:
            return None, refused

    def _asked_about(self, sample: Sample, prompt: Rendered, cutter: PromptSegmenter) -> PreviewedSample:
        model = self.inspector.model
        target, limit = _right_answer(self.adapter, sample), model.context_length
        try:
            features = model.encode(prompt)
        except RunnerError as error:
            pictures = previewed_images(sample, prompt, ())
            return PreviewedSample(sample.id, pictures, (), target, "", False, limit, (str(error),))
        pieces = cutter.pieces(*_tokens(features))
        problems = (
            *replace(self.inspector, limit=None).inspect_prompt(prompt, features),
            *_without_room(limit, len(features["input_ids"]), self.max_new_tokens),
        )
        return PreviewedSample(
            sample.id, previewed_images(sample, prompt, pieces), pieces, target, "", False, limit, problems
        )


def load_preview(spec: ExperimentSpec, split: Split, reporter: Reporter) -> Preview:
    """Get data, adapter and tokenizer of a spec ready; no weights are loaded.

    Args:
        spec: As loaded.
        split: `train`, as it is trained on, or `test`, as it is asked about.
        reporter: Told of the progress of data that are made on the way.

    Raises:
        DataError: The data set is missing or broken, or the split is empty.
        UnmetError: The model's tokenizer and processor cannot be had on this machine.
        SpecError: The options do not fit one another, or there is no model to encode with.
    """
    if spec.model is None:
        raise SpecError(
            f"there is no model whose tokens could be shown: the generator {spec.generator.type!r} answers elsewhere",
            path=("model",),
        )
    data = implement(spec.data)
    adapter = implement(spec.adapter, data.prepare(reporter).labels)
    rendered = [adapter.render_training(sample) for sample in data.load("train")]
    try:
        model = implement(spec.model).model_spec(training_texts(rendered))
    except RequirementError as error:
        advice = "" if "--smoke" in str(error) else "; or look at the model's tiny twin with --smoke"
        raise RequirementError(f"{error}{advice}") from error
    samples = data.load(split)
    if not samples:
        raise DataError(f"the {split} split holds no samples")
    trainer = implement(spec.trainer) if spec.trainer else None
    options, prompts = spec.generator_options, None
    if split == "test":
        prompts = with_examples(adapter, samples, data.load("train"), options.num_few_shot, spec.seed)
    return Preview(samples, adapter, SampleChecker.of(model, trainer), prompts, options.answer_limit)


def _tokens(features: Features) -> tuple[list[int], list[int]]:
    return features["input_ids"].tolist(), features["labels"].tolist()


def _right_answer(adapter: Adapter, sample: Sample) -> str | None:
    """The answer that a test sample is measured against, where it has one."""
    try:
        return adapter.render_training(sample).target
    except RunnerError:
        return None


def _turn_problems(inspector: SampleChecker, rendered: Rendered) -> tuple[str, ...]:
    try:
        return inspector.inspect_turn(rendered)
    except RunnerError as error:
        return (str(error),)


def _without_room(limit: int | None, length: int, max_new_tokens: int | None) -> Iterator[str]:
    if limit is not None and length + (max_new_tokens or 1) > limit:
        yield f"{length:,} tokens leave no room in {limit:,} for an answer of {max_new_tokens or 1:,}"


def write_page(file: Path, title: str, samples: Iterator[PreviewedSample]) -> None:
    """Write a page sample by sample, so that a whole split does not fill the memory.

    Args:
        file: Written anew; its folder is made.
        title: What is shown.
        samples: Each is taken once.

    Raises:
        UnmetError: The file cannot be written.
    """
    fill(file, "preview.html.jinja", title=title, samples=samples)
