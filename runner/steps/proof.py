"""A proof before training: on real samples, what carries loss is the answer, and nothing is cut off in silence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from runner.errors import DataError, SpecError, StepError
from runner.records import Rendered, TextPart
from runner.stages import Features, Reporter, StopRequestedError, TokenCount, Trainer, VisionLanguageModel
from runner.steps.inspection import IGNORED, Inspector, refuse

LONGEST, FIRST, CHOSEN = 4, 4, 24
"""Of the samples that are encoded whole before training, images and all: how many of the longest, of the first, and
how many in all, the first of each arrangement of images among them. The others are when they are first trained on."""


@dataclass(frozen=True)
class Proof:
    """What was found before a training.

    Attributes:
        samples: How many; the words of each were checked.
        encoded_whole: Ids of those that were encoded with their images.
        tokens_trained: Tokens that carry loss in an epoch over all samples.
        longest: Tokens of the longest sample.
        longest_id: Its id.
        limit: The most tokens of a sample; None for any number.
        truncated: Ids of the samples whose answers are cut at the limit.
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
    respelt: tuple[str, ...]
    longest_prompt: int

    def as_json(self) -> dict[str, Any]:
        """The proof as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Measured:
    """What one training sample comes to, from its words and the size of its images.

    Attributes:
        count: Its tokens by kind, what trails the end token not among them.
        trained: Tokens that carry loss.
        respelt: See `Inspection.respelt`.
    """

    count: TokenCount
    trained: int
    respelt: bool

    @property
    def length(self) -> int:
        """Tokens of the whole sample."""
        return self.prompt + self.trained

    @property
    def prompt(self) -> int:
        """Tokens before the answer."""
        return self.count.text + self.count.image


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


def prove(
    inspector: Inspector,
    trainer: Trainer,
    rendered: Sequence[Rendered],
    prompts: Sequence[Rendered],
    max_new_tokens: int | None,
    reporter: Reporter,
) -> Proof:
    """Check the training samples, and the room for later answers, before anything is learnt.

    The words of every sample are checked, and its length by the size of its images; `choose` says which samples are
    encoded whole.

    Args:
        inspector: Of the model and the trainer.
        trainer: The trainer.
        rendered: The training split with its targets, at least one sample.
        prompts: The test split's.
        max_new_tokens: See `prove_prompts`.
        reporter: Told of the progress, and of answers that will be cut or written otherwise.

    Raises:
        StepError: Something else than the answer carries loss, or a prompt is not the one of generation.
        DataError: A sample is too long, or an image cannot be used.
        SpecError: See `prove_prompts`.
        StopRequestedError: The user asked to stop.
    """
    progress = Progress(reporter, len(prompts) + len(rendered) + min(CHOSEN, len(rendered)))
    longest_prompt = prove_prompts(inspector.model, prompts, max_new_tokens, progress)
    measured = [_measure(inspector, each, progress) for each in rendered]
    _refuse_overlong(inspector, trainer, rendered, measured)
    chosen = choose(rendered, [each.length for each in measured])
    _prove_whole(inspector, [(rendered[place], measured[place]) for place in chosen], progress)
    proof = _summed(inspector.limit, rendered, measured, chosen, longest_prompt)
    _warn(proof, reporter)
    return proof


def _summed(
    limit: int | None, rendered: Sequence[Rendered], measured: Sequence[Measured], chosen: Sequence[int], prompt: int
) -> Proof:
    longest = max(range(len(rendered)), key=lambda place: measured[place].length)
    return Proof(
        samples=len(rendered),
        encoded_whole=tuple(rendered[place].id for place in chosen),
        tokens_trained=sum(_trained(each, limit) for each in measured),
        longest=measured[longest].length,
        longest_id=rendered[longest].id,
        limit=limit,
        truncated=_ids(rendered, [limit is not None and each.length > limit for each in measured]),
        respelt=_ids(rendered, [each.respelt for each in measured]),
        longest_prompt=prompt,
    )


def choose(rendered: Sequence[Rendered], lengths: Sequence[int]) -> list[int]:
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


def prove_prompts(
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


def _measure(inspector: Inspector, rendered: Rendered, progress: Progress) -> Measured:
    found = inspector.inspect_words(rendered)
    refuse(rendered.id, found.problems)
    progress.step()
    return Measured(inspector.model.count(rendered), found.num_trained, found.respelt)


def _refuse_overlong(
    inspector: Inspector, trainer: Trainer, rendered: Sequence[Rendered], measured: Sequence[Measured]
) -> None:
    """Refuse what the trainer will refuse, in its own words, and say how many there are."""
    limit = inspector.limit
    if limit is None:
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


def _prove_whole(inspector: Inspector, chosen: Sequence[tuple[Rendered, Measured]], progress: Progress) -> None:
    shortest: Features | None = None
    longest: Features | None = None
    for rendered, measured in chosen:
        features = inspector.encode(rendered)
        found = inspector.inspect(rendered, features, inspector.prompt_ids(rendered))
        refuse(rendered.id, (*inspector.inspect_turn(rendered), *found.problems))
        if found.num_tokens != measured.length and not found.truncated:
            raise StepError(
                f"sample {rendered.id}: {found.num_tokens:,} tokens, and {measured.length:,} were counted from its "
                "text and the size of its images"
            )
        shortest = features if shortest is None or _length(features) < _length(shortest) else shortest
        longest = features if longest is None or _length(features) > _length(longest) else longest
        progress.step()
    if shortest is not None and longest is not None:
        _prove_padding(inspector.model, [shortest, longest])


def _prove_padding(model: VisionLanguageModel, batch: Sequence[Features]) -> None:
    """Check that a batch holds each sample from its first place on, with nothing to learn behind it."""
    collated = model.collate(batch, "right")
    for row, features in enumerate(batch):
        for name in ("input_ids", "labels"):
            whole, alone = collated[name][row].tolist(), features[name].tolist()
            behind = whole[len(alone) :]
            if whole[: len(alone)] != alone or (name == "labels" and set(behind) - {IGNORED}):
                raise StepError(f"padding a batch on the right changes the {name} of its samples")


def _trained(measured: Measured, limit: int | None) -> int:
    return measured.trained if limit is None else min(measured.trained, limit - measured.prompt)


def _ids(rendered: Sequence[Rendered], marks: Sequence[bool]) -> tuple[str, ...]:
    return tuple(each.id for each, marked in zip(rendered, marks, strict=True) if marked)


def _length(features: Features) -> int:
    return len(features["input_ids"])


def _warn(proof: Proof, reporter: Reporter) -> None:
    if proof.truncated:
        reporter.warn(
            f"{len(proof.truncated):,} of {proof.samples:,} training samples are longer than {proof.limit:,} tokens, "
            f"such as {proof.truncated[0]}: the end of their answers is cut off; events.jsonl lists them"
        )
    if proof.respelt:
        reporter.warn(
            f"the tokenizer writes characters in the answers of {len(proof.respelt):,} of {proof.samples:,} training "
            f"samples in another, canonically equal way (Unicode's NFC), such as {proof.respelt[0]}; what the model "
            "then writes does not equal the data set's spelling to the letter"
        )
