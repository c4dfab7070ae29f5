"""Shows samples as the model receives them: images, tokens with and without loss, lengths and problems."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from PIL import Image, ImageOps

from runner.errors import DataError, RequirementError, RunnerError, SpecError
from runner.html_page import render_page
from runner.images import open_image
from runner.preflight.sample_checker import SampleChecker
from runner.prompt_rendering import split_groups, training_texts
from runner.records import IGNORED, Rendered, Sample
from runner.regime import Regime
from runner.resolved_plan import create_adapter, create_plugin
from runner.spec.experiment_spec import ExperimentSpec
from runner.stages import Adapter, Features, Reporter, VisionLanguageModel

Kind = Literal["text", "special", "image"]

MAX_TOKENS_PER_CHARACTER = 8
"""A character can span several tokens: the bytes of an emoji are a token each. Longer spans are not looked for."""


@dataclass(frozen=True)
class PromptSegment:
    """A part of the token sequence of a sample.

    Attributes:
        kind: Text, one special token, or the tokens of an image.
        text: The text to display: special tokens are written out, an image is `‹image: 64 tokens›`.
        num_tokens: Number of tokens.
        trained: The tokens carry loss.
    """

    kind: Kind
    text: str
    num_tokens: int
    trained: bool


class PromptSegmenter:
    """Splits the encoded samples of one model into segments."""

    def __init__(self, model: VisionLanguageModel) -> None:
        """Use the tokenizer of a model."""
        self._model = model
        self._is_special: dict[int, bool] = {}

    def segment(self, ids: Sequence[int], labels: Sequence[int]) -> tuple[PromptSegment, ...]:
        """Split a sample: text with loss token by token, other text into runs.

        Args:
            ids: The token ids.
            labels: One label per token; -100 for no loss.
        """
        tokens = [(self._kind(token), label != IGNORED, token) for token, label in zip(ids, labels, strict=True)]
        return tuple(
            segment
            for (kind, trained), run in groupby(tokens, key=lambda token: token[:2])
            for segment in self._segment_run(kind, trained, [token for *_, token in run])
        )

    def _segment_run(self, kind: Kind, trained: bool, run: Sequence[int]) -> Iterator[PromptSegment]:
        if kind == "image":
            yield PromptSegment(kind, f"‹image: {len(run)} token{'s' if len(run) > 1 else ''}›", len(run), trained)
        elif kind == "special":
            yield from (PromptSegment(kind, self._model.decode_raw([token]), 1, trained) for token in run)
        elif trained:
            yield from (PromptSegment(kind, text, number, True) for text, number in self._split_tokens(run))
        else:
            yield PromptSegment(kind, self._model.decode_raw(run), len(run), False)

    def _kind(self, token: int) -> Kind:
        if token in self._model.image_token_ids:
            return "image"
        if token not in self._is_special:
            self._is_special[token] = bool(self._model.decode_raw([token])) and not self._model.decode([token])
        return "special" if self._is_special[token] else "text"

    def _split_tokens(self, run: Sequence[int]) -> Iterator[tuple[str, int]]:
        """Yield the text of each token with the number 1; tokens that share a character are yielded together."""
        start = 0
        while start < len(run):
            end, max_end = start + 1, min(len(run), start + MAX_TOKENS_PER_CHARACTER)
            while end < max_end and self._decode_span(run, start, end).endswith("\ufffd"):
                end += 1
            yield self._decode_span(run, start, end), end - start
            start = end

    def _decode_span(self, run: Sequence[int], start: int, end: int) -> str:
        """Decode tokens together with the token before them, since some tokenizers drop a leading space."""
        before = self._model.decode_raw(run[max(0, start - 1) : start])
        both = self._model.decode_raw(run[max(0, start - 1) : end])
        return both[len(before) :] if both.startswith(before) else self._model.decode_raw(run[start:end])


@dataclass(frozen=True)
class PreviewedImage:
    """An image of a prompt.

    Attributes:
        name: `main`, the letter of a segment, or `example` for an image of a few-shot example.
        path: The image file.
        width: Width of the file in pixels; None if it cannot be read.
        height: Height likewise.
        num_tokens: Number of image tokens; None if the tokens of adjacent images cannot be told apart.
    """

    name: str
    path: Path
    width: int | None
    height: int | None
    num_tokens: int | None

    def as_json(self) -> dict[str, Any]:
        """The image as plain data."""
        return {**vars(self), "path": str(self.path)}


@dataclass(frozen=True)
class PreviewedSample:
    """A sample as the model receives it.

    Attributes:
        id: The id of the sample.
        images: The images, in the order of the prompt.
        segments: Prompt and answer; in the test split the prompt only.
        target: The reference answer; None if the sample has none.
        trained_text: The tokens with loss as text, special tokens written out.
        truncated: The answer is cut off at the limit.
        limit: Maximum number of tokens; None for no limit.
        problems: Problems that the checks found.
        skipped: The sample exceeds the limit and is left out of training.
    """

    id: str
    images: tuple[PreviewedImage, ...]
    segments: tuple[PromptSegment, ...]
    target: str | None
    trained_text: str
    truncated: bool
    limit: int | None
    problems: tuple[str, ...]
    skipped: bool = False

    @property
    def prompt(self) -> str:
        """The text without loss; images are abbreviated and special tokens written out."""
        return "".join(segment.text for segment in self.segments if not segment.trained)

    @property
    def lengths(self) -> dict[str, int | float | None]:
        """Tokens by kind and in total, the limit, and `share`: the used fraction of the limit."""
        trained = sum(segment.num_tokens for segment in self.segments if segment.trained)
        image = sum(segment.num_tokens for segment in self.segments if segment.kind == "image" and not segment.trained)
        total = sum(segment.num_tokens for segment in self.segments)
        share = round(total / self.limit, 4) if self.limit else None
        text = total - image - trained
        return {"text": text, "image": image, "target": trained, "total": total, "limit": self.limit, "share": share}

    def as_json(self) -> dict[str, Any]:
        """The sample as docs/interface.md documents `preview --json`."""
        return {
            "id": self.id,
            "images": [str(image.path) for image in self.images],
            "prompt": self.prompt,
            "target": self.target,
            "trained_text": self.trained_text,
            "pictures": [image.as_json() for image in self.images],
            "lengths": self.lengths,
            "truncated": self.truncated,
            "skipped": self.skipped,
            "problems": list(self.problems),
        }


def previewed_images(
    sample: Sample, rendered: Rendered, segments: Sequence[PromptSegment]
) -> tuple[PreviewedImage, ...]:
    """Name and measure the images of a sample."""
    # Several segments can share a file, so each name is used once.
    names = [(sample.image, "main"), *((segment.image, segment.letter) for segment in sample.segments)]
    runs = [
        sum(segment.num_tokens for segment in run)
        for is_image, run in groupby(segments, lambda segment: segment.kind == "image")
        if is_image
    ]
    num_tokens: Sequence[int | None] = runs if len(runs) == len(rendered.images) else [None] * len(rendered.images)
    images = []
    for path, number in zip(rendered.images, num_tokens, strict=True):
        index = next((index for index, (file, _) in enumerate(names) if file == path), None)
        name = "example" if index is None else names.pop(index)[1]
        images.append(PreviewedImage(name, path, *_image_size(path), number))
    return tuple(images)


def _image_size(path: Path) -> tuple[int | None, int | None]:
    """Width and height of an image after its EXIF rotation."""
    try:
        with open_image(path) as image:
            return ImageOps.exif_transpose(image).size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None, None


Split = Literal["train", "test"]


@dataclass(frozen=True)
class Preview:
    """A split whose samples can be previewed.

    Attributes:
        samples: The samples of the split.
        regime: Renders samples.
        checker: Checks samples for the model and its trainer.
        rendered: The training examples, or the prompts for generation: equally many of each sample, in order.
        is_training: Whether they are training examples.
        max_new_tokens: Maximum length of a generated answer; None if the generator has no limit.
    """

    samples: Sequence[Sample]
    regime: Regime
    checker: SampleChecker
    rendered: Sequence[Rendered]
    is_training: bool
    max_new_tokens: int | None

    def preview_samples(self, limit: int | None) -> Iterator[PreviewedSample]:
        """Yield the first `limit` samples of the split, each with all its examples or prompts; None yields all."""
        segmenter = PromptSegmenter(self.checker.model)
        preview = self._preview_training if self.is_training else self._preview_prompt
        number = len(self.regime.tasks)
        for index, sample in enumerate(self.samples[:limit]):
            for rendered in self.rendered[number * index :][:number]:
                yield preview(sample, rendered, segmenter)

    def _preview_training(self, sample: Sample, rendered: Rendered, segmenter: PromptSegmenter) -> PreviewedSample:
        limit = self.checker.limit
        features, errors = self._encode(rendered)
        images = previewed_images(sample, rendered, ())
        preview = PreviewedSample(rendered.id, images, (), rendered.target, "", False, limit, errors)
        if features is None:
            return preview
        skipped = not len(features["input_ids"])
        if skipped:
            features = self.checker.encode_untruncated(rendered)
        # If encoding failed or skipped the sample because of its length, the length is not reported again.
        checker = replace(self.checker, limit=None) if errors or skipped else self.checker
        check = checker.inspect(rendered, features, checker.prompt_ids(rendered))
        segments = segmenter.segment(*_ids_and_labels(features))
        try:
            template_problems = checker.chat_template_problems(rendered)
        except RunnerError as error:
            template_problems = (str(error),)
        return replace(
            preview,
            images=previewed_images(sample, rendered, segments),
            segments=segments,
            trained_text="" if skipped else check.trained_text,
            truncated=check.truncated,
            skipped=skipped,
            problems=(*errors, *check.problems, *template_problems),
        )

    def _encode(self, rendered: Rendered) -> tuple[Features | None, tuple[str, ...]]:
        """Encode a sample as in training; if the trainer refuses its length, encode it without a limit.

        Returns:
            The features, or None if the sample cannot be encoded at all; and the error messages.
        """
        try:
            return self.checker.encode(rendered), ()
        except RunnerError as error:
            errors = (str(error),)
        try:
            return self.checker.encode_untruncated(rendered), errors
        except RunnerError:
            return None, errors

    def _preview_prompt(self, sample: Sample, prompt: Rendered, segmenter: PromptSegmenter) -> PreviewedSample:
        model = self.checker.model
        target, limit = _reference_answer(self.regime.adapters[prompt.task], sample), model.context_length
        try:
            features = model.encode(prompt)
        except RunnerError as error:
            images = previewed_images(sample, prompt, ())
            return PreviewedSample(prompt.id, images, (), target, "", False, limit, (str(error),))
        segments = segmenter.segment(*_ids_and_labels(features))
        problems = list(replace(self.checker, limit=None).inspect_prompt(prompt, features))
        length, max_new_tokens = len(features["input_ids"]), self.max_new_tokens or 1
        if limit is not None and length + max_new_tokens > limit:
            problems.append(
                f"a prompt of {length:,} tokens and an answer of {max_new_tokens:,} exceed {limit:,} tokens"
            )
        images = previewed_images(sample, prompt, segments)
        return PreviewedSample(prompt.id, images, segments, target, "", False, limit, tuple(problems))


def load_preview(spec: ExperimentSpec, split: Split, reporter: Reporter) -> Preview:
    """Load data, adapter and tokenizer of a spec; no weights are loaded.

    Args:
        spec: The spec.
        split: `train` to preview training samples, `test` to preview prompts for generation.
        reporter: Receives the progress of generating data.

    Raises:
        DataError: The data set is missing or broken, or the split is empty.
        RequirementError: The tokenizer and the processor of the model are not available on this machine.
        SpecError: The options contradict each other, or the spec has no model.
    """
    if spec.model is None:
        raise SpecError(
            f"there is no model to tokenize with: the generator {spec.generator.type!r} sends prompts to a server",
            path=("model",),
        )
    data = create_plugin(spec.data)
    adapter = create_adapter(spec, data.prepare(reporter).labels)
    training = data.load("train")
    regime = Regime(spec.regime, adapter, spec.seed, spec.num_target_draws)
    examples = regime.training_examples(training, split_groups(training, spec.max_hash_distance))
    try:
        model = create_plugin(spec.model).model_spec(training_texts(examples.distinct))
    except RequirementError as error:
        advice = "" if "--smoke" in str(error) else "; or preview a tiny model of the same architecture with --smoke"
        raise RequirementError(f"{error}{advice}") from error
    samples = data.load(split)
    if not samples:
        raise DataError(f"the {split} split has no samples")
    trainer = create_plugin(spec.trainer) if spec.trainer else None
    options, rendered = spec.generator_options, examples.first
    if split == "test":
        rendered = regime.prompts(samples, training, options.num_few_shot, max_hash_distance=spec.max_hash_distance)
    checker = SampleChecker.of(model, trainer)
    return Preview(samples, regime, checker, rendered, split == "train", options.max_answer_tokens)


def _ids_and_labels(features: Features) -> tuple[list[int], list[int]]:
    return features["input_ids"].tolist(), features["labels"].tolist()


def _reference_answer(adapter: Adapter, sample: Sample) -> str | None:
    """The reference answer of a test sample; None if it lacks an annotation."""
    try:
        return adapter.render_training(sample).target
    except RunnerError:
        return None


def write_page(file: Path, title: str, samples: Iterator[PreviewedSample]) -> None:
    """Write a page sample by sample, so that a whole split is never in memory.

    Args:
        file: The page; it is overwritten, and its folder is created.
        title: Title of the page.
        samples: The samples; they are iterated once.

    Raises:
        RequirementError: The file cannot be written.
    """
    render_page(file, "preview.html.jinja", title=title, samples=samples)
