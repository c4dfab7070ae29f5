"""Checks the samples of a trial before training: a selection in full, all others without pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from runner.errors import DataError, SpecError, StepError
from runner.preflight.sample_checker import SampleCheck, SampleChecker, raise_problems
from runner.records import IGNORED, Rendered, TextPart
from runner.stages import Features, Reporter, StopRequestedError, Trainer, VisionLanguageModel

NUM_LONGEST, NUM_FIRST, NUM_SELECTED = 4, 4, 24
"""Numbers of samples to encode with their images before training: the longest, the first, and in total. The total
includes the first sample of each arrangement of images. Training checks every other sample when it first uses it."""


def select_samples(rendered: Sequence[Rendered], lengths: Sequence[int]) -> list[int]:
    """Select the samples to encode in full: the longest, the first, and the first of each arrangement of parts.

    Returns:
        Sorted indices; `NUM_SELECTED` if there are that many samples.
    """
    arrangements = [tuple(isinstance(part, TextPart) for part in sample.content) for sample in rendered]
    first_by_arrangement = {arrangement: index for index, arrangement in reversed(list(enumerate(arrangements)))}
    by_length = sorted(range(len(rendered)), key=lambda index: (-lengths[index], index))
    # The more parts an arrangement has, the more can go wrong.
    by_num_parts = sorted(first_by_arrangement.values(), key=lambda index: (-len(arrangements[index]), index))
    first = range(min(NUM_FIRST, len(rendered)))
    candidates = [*by_length[:NUM_LONGEST], *first, *by_num_parts, *range(len(rendered))]
    return sorted(list(dict.fromkeys(candidates))[:NUM_SELECTED])


class CheckProgress:
    """Reports the progress of the checks, and stops them on request."""

    def __init__(self, reporter: Reporter, total: int) -> None:
        """Start with no check done out of `total`."""
        self._reporter, self._total, self._done = reporter, total, 0

    def step(self) -> None:
        """Count a finished check.

        Raises:
            StopRequestedError: The user requested a stop.
        """
        self._done += 1
        self._reporter.progress(self._done, self._total)
        if self._reporter.stop_requested():
            raise StopRequestedError


@dataclass(frozen=True)
class PromptLimits:
    """The prompts for generation, and the tokens for which they must leave room.

    Attributes:
        prompts: The prompts, without targets; with neutral words in place of predictions that they will show.
        max_new_tokens: Maximum length of an answer; None if the generator has no limit.
        num_predictions: The largest number of predictions that a prompt will show; each can be as long as an answer.
    """

    prompts: Sequence[Rendered]
    max_new_tokens: int | None
    num_predictions: int = 0


def check_prompt_lengths(model: VisionLanguageModel, limits: PromptLimits, progress: CheckProgress) -> int:
    """Check, without reading pixels, that prompts and generated answers fit into the context of the model.

    Args:
        model: The model; a `context_length` of None means no limit.
        limits: The prompts, and the lengths of answers.
        progress: Advanced by one for each prompt.

    Returns:
        Number of tokens of the longest prompt; 0 without prompts.

    Raises:
        DataError: A prompt fills the context, or an image cannot be used.
        SpecError: The longest prompt leaves too little of the context for the answers.
        StopRequestedError: The user requested a stop.
    """
    longest, longest_id = 0, ""
    for prompt in limits.prompts:
        count = model.count(prompt)
        if count.text + count.image > longest:
            longest, longest_id = count.text + count.image, prompt.id
        progress.step()
    if model.context_length is None:
        return longest
    remaining = model.context_length - longest
    prompt_length = (
        f"the prompt of sample {longest_id} has {longest:,} tokens, and the context of the model is "
        f"{model.context_length:,} tokens"
    )
    if remaining <= 0:
        raise DataError(
            f"{prompt_length}, which leaves no tokens for an answer; use images with fewer pixels (model.max_pixels)"
        )
    max_new_tokens, num_answers = limits.max_new_tokens, 1 + limits.num_predictions
    if max_new_tokens is not None and num_answers * max_new_tokens > remaining:
        predictions = f" for the answer and {limits.num_predictions} predictions before it" if num_answers > 1 else ""
        raise SpecError(
            f"{prompt_length}: max_new_tokens={max_new_tokens:,}{predictions} exceeds the remaining context of "
            f"{remaining:,} tokens. Lower it, or use images with fewer pixels (model.max_pixels)",
            path=("generator", "max_new_tokens"),
        )
    return longest


@dataclass(frozen=True)
class SampleLengths:
    """Lengths of a training sample, from its text and the size of its images.

    Attributes:
        length: Number of tokens of prompt and answer.
        trained: Number of tokens with loss.
        respelt: See `SampleCheck.respelt`.
    """

    length: int
    trained: int
    respelt: bool

    @property
    def prompt(self) -> int:
        """Number of tokens before the answer."""
        return self.length - self.trained


def measure_lengths(checker: SampleChecker, rendered: Rendered, progress: CheckProgress) -> SampleLengths:
    """Check a sample without reading pixels, and measure its lengths.

    Raises:
        StepError: Tokens other than the answer carry loss, or the prompt differs from the prompt of generation.
        DataError: An image cannot be used.
        StopRequestedError: The user requested a stop.
    """
    check = checker.inspect_without_pixels(rendered)
    raise_problems(rendered.id, check.problems)
    progress.step()
    return SampleLengths(check.num_tokens, check.num_trained, check.respelt)


def refuse_overlength(
    checker: SampleChecker, trainer: Trainer, rendered: Sequence[Rendered], lengths: Sequence[SampleLengths]
) -> None:
    """Raise the trainer's own error for a sample that is too long, with the number of such samples.

    Raises:
        DataError: A sample is too long, or the trainer skips such samples and all are too long.
    """
    limit = checker.limit
    if limit is None:
        return
    if trainer.skips:
        if all(sample.length > limit for sample in lengths):
            raise DataError(
                f"all {len(rendered):,} training samples have more than {limit:,} tokens and are skipped "
                "(trainer.on_overlength: skip), so training would have no effect; raise trainer.max_length, or lower "
                "model.max_pixels"
            )
        return
    too_long = [
        index
        for index, sample in enumerate(lengths)
        if sample.length > limit and not (trainer.truncates and sample.prompt < limit)
    ]
    if not too_long:
        return
    longest = max(too_long, key=lambda index: lengths[index].length)
    try:
        trainer.encode(checker.model, rendered[longest])
    except DataError as error:
        number = f"{len(too_long):,} of {len(rendered):,} training samples are too long; the longest: "
        raise DataError(f"{number if len(too_long) > 1 else ''}{error}") from error
    raise StepError(
        f"sample {rendered[longest].id}: {lengths[longest].length:,} tokens were counted, more than the limit of "
        f"{limit:,}, but the trainer encodes the sample without an error"
    )


NUM_NAMED_IDS = 5
"""Number of skipped samples that a warning names."""


@dataclass(frozen=True)
class SamplesReport:
    """Results of the checks before a training.

    Attributes:
        samples: Number of examples, including skipped ones; the text of each was checked. A sample is one example,
            unless each task has its own prompt or a prompt shows a context.
        encoded_whole: Ids of the samples that were encoded with their images.
        tokens_trained: Number of tokens with loss in an epoch.
        longest: Number of tokens of the longest sample that is not skipped.
        longest_id: The id of that sample.
        limit: Maximum number of tokens of a sample; None for no limit.
        truncated: Ids of the samples whose answers are cut off at the limit.
        skipped: Ids of the samples that exceed the limit and are left out of training.
        respelt: Ids of the samples whose answers the tokenizer normalizes to other, canonically equivalent characters.
        longest_prompt: Number of tokens of the longest prompt of the test split.
    """

    samples: int
    encoded_whole: tuple[str, ...]
    tokens_trained: int
    longest: int
    longest_id: str
    limit: int | None
    truncated: tuple[str, ...]
    skipped: tuple[str, ...]
    respelt: tuple[str, ...]
    longest_prompt: int

    def as_json(self) -> dict[str, Any]:
        """The report as plain data."""
        return asdict(self)


def check_samples(
    checker: SampleChecker,
    trainer: Trainer,
    rendered: Sequence[Rendered],
    epoch_size: int,
    limits: PromptLimits,
    reporter: Reporter,
) -> SamplesReport:
    """Check the training samples, and the context for generated answers, before training.

    Checks the text of every sample, and its length from the size of its images. `select_samples` selects the samples
    that are also encoded with their images.

    Args:
        checker: Checks samples for the model and the trainer.
        trainer: The trainer.
        rendered: All examples of the training split with their targets; at least one.
        epoch_size: Number of examples of an epoch, which come first.
        limits: The prompts of the test split; see `check_prompt_lengths`.
        reporter: Receives the progress, and warnings about truncated, skipped and normalized answers.

    Raises:
        StepError: Tokens other than the answer carry loss, or a prompt differs from the prompt of generation.
        DataError: A sample is too long, or an image cannot be used.
        SpecError: See `check_prompt_lengths`.
        StopRequestedError: The user requested a stop.
    """
    progress = CheckProgress(reporter, len(limits.prompts) + len(rendered) + min(NUM_SELECTED, len(rendered)))
    longest_prompt = check_prompt_lengths(checker.model, limits, progress)
    all_lengths = [measure_lengths(checker, sample, progress) for sample in rendered]
    refuse_overlength(checker, trainer, rendered, all_lengths)
    is_too_long = [checker.limit is not None and sample.length > checker.limit for sample in all_lengths]
    trained = [index for index in range(len(rendered)) if not (is_too_long[index] and trainer.skips)]
    samples, lengths = [rendered[index] for index in trained], [all_lengths[index] for index in trained]
    selected = select_samples(samples, [sample.length for sample in lengths])
    _check_encoded(checker, [(samples[index], lengths[index]) for index in selected], progress)
    longest = max(range(len(samples)), key=lambda index: lengths[index].length)
    report = SamplesReport(
        samples=len(rendered),
        encoded_whole=tuple(samples[index].id for index in selected),
        tokens_trained=sum(_num_trained(all_lengths[index], checker.limit) for index in trained if index < epoch_size),
        longest=lengths[longest].length,
        longest_id=samples[longest].id,
        limit=checker.limit,
        truncated=() if trainer.skips else _select_ids(rendered, is_too_long),
        skipped=_select_ids(rendered, is_too_long) if trainer.skips else (),
        respelt=_select_ids(samples, [sample.respelt for sample in lengths]),
        longest_prompt=longest_prompt,
    )
    _warn(report, reporter)
    return report


def _check_encoded(
    checker: SampleChecker, selected: Sequence[tuple[Rendered, SampleLengths]], progress: CheckProgress
) -> None:
    """Encode samples with their images and check them; then check a batch of the shortest and the longest."""
    shortest: Features | None = None
    longest: Features | None = None
    for rendered, lengths in selected:
        features = checker.encode(rendered)
        check = checker.inspect(rendered, features, checker.prompt_ids(rendered))
        raise_problems(rendered.id, (*checker.chat_template_problems(rendered), *check.problems))
        _compare_lengths(rendered.id, check, lengths, checker.limit)
        shortest = features if shortest is None or _length(features) < _length(shortest) else shortest
        longest = features if longest is None or _length(features) > _length(longest) else longest
        progress.step()
    if shortest is not None and longest is not None:
        _check_padding(checker.model, [shortest, longest])


def _compare_lengths(sample: str, check: SampleCheck, lengths: SampleLengths, limit: int | None) -> None:
    """Raise an error if the encoded length differs from the counted length, or if only one of them is truncated."""
    too_long = limit is not None and lengths.length > limit
    if check.num_tokens != (limit if too_long else lengths.length) or check.truncated != too_long:
        encoded = f"{check.num_tokens:,} tokens{' with a truncated answer' if check.truncated else ''}"
        raise StepError(
            f"sample {sample}: encoded to {encoded}, but {lengths.length:,} tokens were counted from its text and the "
            "size of its images"
        )


def _check_padding(model: VisionLanguageModel, batch: Sequence[Features]) -> None:
    """Check that a right-padded batch starts with the unchanged samples, and that padding carries no loss."""
    collated = model.collate(batch, "right")
    for row, features in enumerate(batch):
        for name in ("input_ids", "labels"):
            padded, unpadded = collated[name][row].tolist(), features[name].tolist()
            padding = padded[len(unpadded) :]
            if padded[: len(unpadded)] != unpadded or (name == "labels" and set(padding) - {IGNORED}):
                raise StepError(f"padding a batch on the right changes the {name} of its samples")


def _num_trained(lengths: SampleLengths, limit: int | None) -> int:
    return lengths.trained if limit is None else min(lengths.trained, limit - lengths.prompt)


def _select_ids(rendered: Sequence[Rendered], mask: Sequence[bool]) -> tuple[str, ...]:
    return tuple(sample.id for sample, selected in zip(rendered, mask, strict=True) if selected)


def _length(features: Features) -> int:
    return len(features["input_ids"])


def _warn(report: SamplesReport, reporter: Reporter) -> None:
    if report.truncated:
        reporter.warn(
            f"{len(report.truncated):,} of {report.samples:,} training samples have more than {report.limit:,} tokens, "
            f"such as {report.truncated[0]}; their answers are truncated (events.jsonl lists them)"
        )
    if report.skipped:
        more = ", …" if len(report.skipped) > NUM_NAMED_IDS else ""
        reporter.warn(
            f"{len(report.skipped):,} of {report.samples:,} training samples have more than {report.limit:,} tokens "
            f"and are skipped: {', '.join(report.skipped[:NUM_NAMED_IDS])}{more} (events.jsonl lists them)"
        )
    if report.respelt:
        reporter.warn(
            f"the tokenizer normalizes characters in the answers of {len(report.respelt):,} of {report.samples:,} "
            f"training samples, such as {report.respelt[0]}, to canonically equivalent ones (Unicode NFC); the model "
            "learns to write these. Metrics compare texts in NFC, so they do not change"
        )
