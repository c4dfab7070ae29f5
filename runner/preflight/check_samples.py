"""Checks the samples of a trial before training: a selection in full, all others without pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from runner.errors import DataError, SpecError, StepError
from runner.preflight.sample_checker import SampleCheck, SampleChecker, raise_problems
from runner.records import IGNORED, Rendered, TextPart
from runner.stages import Features, Reporter, StopRequestedError, Trainer, VisionLanguageModel

LONGEST, FIRST, CHOSEN = 4, 4, 24
"""Of the samples that are encoded whole before training, images and all: how many of the longest, of the first, and
how many in all, the first of each arrangement of images among them. The others are when they are first trained on."""


def select_samples(rendered: Sequence[Rendered], lengths: Sequence[int]) -> list[int]:
    """Choose the samples to encode whole: the longest, the first, the first of each arrangement of images and texts.

    Returns:
        Places in order, `CHOSEN` of them where there are as many.
    """
    arrangements = [tuple(isinstance(part, TextPart) for part in each.content) for each in rendered]
    firsts = {arrangement: place for place, arrangement in reversed(list(enumerate(arrangements)))}
    by_length = sorted(range(len(rendered)), key=lambda place: (-lengths[place], place))
    # The larger an arrangement, the more can be wrong with it.
    by_size = sorted(firsts.values(), key=lambda place: (-len(arrangements[place]), place))
    wanted = [*by_length[:LONGEST], *range(min(FIRST, len(rendered))), *by_size, *range(len(rendered))]
    return sorted(list(dict.fromkeys(wanted))[:CHOSEN])


class Progress:
    """Tells how far a proof is, and hears that it is to stop."""

    def __init__(self, reporter: Reporter, total: int) -> None:
        """Begin with nothing done of so many."""
        self._reporter, self._total, self._done = reporter, total, 0

    def step(self) -> None:
        """One more is done.

        Raises:
            StopRequestedError: The user asked to stop.
        """
        self._done += 1
        self._reporter.progress(self._done, self._total)
        if self._reporter.stop_requested():
            raise StopRequestedError


def check_prompts(
    model: VisionLanguageModel, prompts: Sequence[Rendered], max_new_tokens: int | None, progress: Progress
) -> int:
    """Check that prompts and the answers to them have room in the model, without reading pixels.

    Args:
        model: Has a `context_length`, or takes any length.
        prompts: Without targets.
        max_new_tokens: The most tokens of an answer; None where the generator sets no limit.
        progress: Told of each prompt.

    Returns:
        Tokens of the longest prompt; 0 of none.

    Raises:
        DataError: A prompt alone leaves no room for an answer, or an image cannot be used.
        SpecError: The longest prompt leaves less room than `max_new_tokens`.
        StopRequestedError: The user asked to stop.
    """
    longest, at = 0, ""
    for prompt in prompts:
        count = model.count(prompt)
        if count.text + count.image > longest:
            longest, at = count.text + count.image, prompt.id
        progress.step()
    if model.context_length is None:
        return longest
    room = model.context_length - longest
    told = (
        f"the prompt of sample {at} has {longest:,} tokens, and the model was configured for {model.context_length:,}"
    )
    if room <= 0:
        raise DataError(f"{told}: no answer can be written; show images with fewer pixels (model.max_pixels)")
    if max_new_tokens is not None and max_new_tokens > room:
        raise SpecError(
            f"{told}: an answer of {max_new_tokens:,} tokens finds no room; {room:,} do, or more where images are "
            "shown with fewer pixels (model.max_pixels)",
            path=("generator", "max_new_tokens"),
        )
    return longest


@dataclass(frozen=True)
class SampleLengths:
    """What one training sample comes to, from its words and the size of its images.

    Attributes:
        length: Tokens of the whole sample.
        trained: Tokens that carry loss.
        respelt: See `SampleCheck.respelt`.
    """

    length: int
    trained: int
    respelt: bool

    @property
    def prompt(self) -> int:
        """Tokens before the answer."""
        return self.length - self.trained


def measure_lengths(inspector: SampleChecker, rendered: Rendered, progress: Progress) -> SampleLengths:
    """Check the words of a sample, and measure it.

    Raises:
        StepError: Something else than the answer carries loss, or the prompt is not the one of generation.
        DataError: An image cannot be used.
        StopRequestedError: The user asked to stop.
    """
    found = inspector.inspect_words(rendered)
    raise_problems(rendered.id, found.problems)
    progress.step()
    return SampleLengths(found.num_tokens, found.num_trained, found.respelt)


def refuse_overlong(
    inspector: SampleChecker, trainer: Trainer, rendered: Sequence[Rendered], measured: Sequence[SampleLengths]
) -> None:
    """Refuse what the trainer will refuse, in its own words, and say how many there are.

    Raises:
        DataError: A sample is too long, or all are where such samples are left out.
    """
    limit = inspector.limit
    if limit is None:
        return
    if trainer.skips:
        if all(each.length > limit for each in measured):
            raise DataError(
                f"all {len(rendered):,} training samples are longer than {limit:,} tokens, and left out "
                "(trainer.on_overlength: skip), so training would have no effect; raise trainer.max_length, or lower "
                "model.max_pixels"
            )
        return
    overlong = [
        place
        for place, each in enumerate(measured)
        if each.length > limit and not (trainer.truncates and each.prompt < limit)
    ]
    if not overlong:
        return
    longest = max(overlong, key=lambda place: measured[place].length)
    number = f"{len(overlong):,} of {len(rendered):,} training samples are too long, this one most of all"
    try:
        trainer.encode(inspector.model, rendered[longest])
    except DataError as error:
        raise DataError(f"{number}: {error}" if len(overlong) > 1 else str(error)) from error
    raise StepError(
        f"sample {rendered[longest].id}: {measured[longest].length:,} tokens were counted, more than the limit of "
        f"{limit:,}, and the trainer takes it as it is"
    )


NAMED = 5
"""Samples that are left out whose ids a warning names."""


@dataclass(frozen=True)
class SamplesReport:
    """What was found before a training.

    Attributes:
        samples: How many, with those that are left out; the words of each were checked.
        encoded_whole: Ids of those that were encoded with their images.
        tokens_trained: Tokens that carry loss in an epoch over all samples.
        longest: Tokens of the longest sample that is not left out.
        longest_id: Its id.
        limit: The most tokens of a sample; None for any number.
        truncated: Ids of the samples whose answers are cut at the limit.
        skipped: Ids of the samples that are left out, as they are beyond the limit.
        respelt: Ids of the samples in whose answers the tokenizer writes characters in another, equal way.
        longest_prompt: Tokens of the test split's longest prompt.
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
        """The proof as plain data."""
        return asdict(self)


def check_samples(
    inspector: SampleChecker,
    trainer: Trainer,
    rendered: Sequence[Rendered],
    prompts: Sequence[Rendered],
    max_new_tokens: int | None,
    reporter: Reporter,
) -> SamplesReport:
    """Check the training samples, and the room for later answers, before anything is learnt.

    The words of every sample are checked, and its length by the size of its images; `select_samples` says which samples
    are encoded whole.

    Args:
        inspector: Of the model and the trainer.
        trainer: The trainer.
        rendered: The training split with its targets, at least one sample.
        prompts: The test split's.
        max_new_tokens: See `check_prompts`.
        reporter: Told of the progress, and of answers that will be cut or written otherwise.

    Raises:
        StepError: Something else than the answer carries loss, or a prompt is not the one of generation.
        DataError: A sample is too long, or an image cannot be used.
        SpecError: See `check_prompts`.
        StopRequestedError: The user asked to stop.
    """
    progress = Progress(reporter, len(prompts) + len(rendered) + min(CHOSEN, len(rendered)))
    longest_prompt = check_prompts(inspector.model, prompts, max_new_tokens, progress)
    measured = [measure_lengths(inspector, each, progress) for each in rendered]
    refuse_overlong(inspector, trainer, rendered, measured)
    over = [inspector.limit is not None and each.length > inspector.limit for each in measured]
    trained = [place for place in range(len(rendered)) if not (over[place] and trainer.skips)]
    samples, lengths = [rendered[place] for place in trained], [measured[place] for place in trained]
    chosen = select_samples(samples, [each.length for each in lengths])
    _prove_whole(inspector, [(samples[place], lengths[place]) for place in chosen], progress)
    longest = max(range(len(samples)), key=lambda place: lengths[place].length)
    proof = SamplesReport(
        samples=len(rendered),
        encoded_whole=tuple(samples[place].id for place in chosen),
        tokens_trained=sum(_trained(each, inspector.limit) for each in lengths),
        longest=lengths[longest].length,
        longest_id=samples[longest].id,
        limit=inspector.limit,
        truncated=() if trainer.skips else _ids(rendered, over),
        skipped=_ids(rendered, over) if trainer.skips else (),
        respelt=_ids(samples, [each.respelt for each in lengths]),
        longest_prompt=longest_prompt,
    )
    _warn(proof, reporter)
    return proof


def _prove_whole(
    inspector: SampleChecker, chosen: Sequence[tuple[Rendered, SampleLengths]], progress: Progress
) -> None:
    shortest: Features | None = None
    longest: Features | None = None
    for rendered, measured in chosen:
        features = inspector.encode(rendered)
        found = inspector.inspect(rendered, features, inspector.prompt_ids(rendered))
        raise_problems(rendered.id, (*inspector.inspect_turn(rendered), *found.problems))
        _check_length(rendered.id, found, measured, inspector.limit)
        shortest = features if shortest is None or _length(features) < _length(shortest) else shortest
        longest = features if longest is None or _length(features) > _length(longest) else longest
        progress.step()
    if shortest is not None and longest is not None:
        _prove_padding(inspector.model, [shortest, longest])


def _check_length(sample: str, found: SampleCheck, measured: SampleLengths, limit: int | None) -> None:
    """Check that a sample is as long as was counted, and cut where it is too long and nowhere else."""
    cut = limit is not None and measured.length > limit
    if found.num_tokens != (limit if cut else measured.length) or found.truncated != cut:
        told = f"{found.num_tokens:,} tokens{', the end of the answer cut off' if found.truncated else ''}"
        raise StepError(
            f"sample {sample}: {told}, where {measured.length:,} were counted from its text and the size of its images"
        )


def _prove_padding(model: VisionLanguageModel, batch: Sequence[Features]) -> None:
    """Check that a batch holds each sample from its first place on, with nothing to learn behind it."""
    collated = model.collate(batch, "right")
    for row, features in enumerate(batch):
        for name in ("input_ids", "labels"):
            whole, alone = collated[name][row].tolist(), features[name].tolist()
            behind = whole[len(alone) :]
            if whole[: len(alone)] != alone or (name == "labels" and set(behind) - {IGNORED}):
                raise StepError(f"padding a batch on the right changes the {name} of its samples")


def _trained(measured: SampleLengths, limit: int | None) -> int:
    return measured.trained if limit is None else min(measured.trained, limit - measured.prompt)


def _ids(rendered: Sequence[Rendered], marks: Sequence[bool]) -> tuple[str, ...]:
    return tuple(each.id for each, marked in zip(rendered, marks, strict=True) if marked)


def _length(features: Features) -> int:
    return len(features["input_ids"])


def _warn(proof: SamplesReport, reporter: Reporter) -> None:
    if proof.truncated:
        reporter.warn(
            f"{len(proof.truncated):,} of {proof.samples:,} training samples are longer than {proof.limit:,} tokens, "
            f"such as {proof.truncated[0]}: the end of their answers is cut off; events.jsonl lists them"
        )
    if proof.skipped:
        more = " and so on" if len(proof.skipped) > NAMED else ""
        reporter.warn(
            f"{len(proof.skipped):,} of {proof.samples:,} training samples are longer than {proof.limit:,} tokens and "
            f"left out: {', '.join(proof.skipped[:NAMED])}{more}; events.jsonl lists them"
        )
    if proof.respelt:
        reporter.warn(
            f"the tokenizer writes characters in the answers of {len(proof.respelt):,} of {proof.samples:,} training "
            f"samples in another, canonically equal way (Unicode's NFC), such as {proof.respelt[0]}; what the model "
            "then writes does not equal the data set's spelling to the letter"
        )
