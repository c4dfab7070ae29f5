"""A proof before training: on real samples, what carries loss is the answer, and nothing is cut off in silence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from runner.errors import StepError
from runner.proof.choice import CHOSEN, choose
from runner.proof.inspection import Inspection, Inspector, refuse
from runner.proof.measure import Measured, measure, refuse_overlong
from runner.proof.prompts import Progress, prove_prompts
from runner.records import IGNORED, Rendered
from runner.stages import Features, Reporter, Trainer, VisionLanguageModel


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
    measured = [measure(inspector, each, progress) for each in rendered]
    refuse_overlong(inspector, trainer, rendered, measured)
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


def _prove_whole(inspector: Inspector, chosen: Sequence[tuple[Rendered, Measured]], progress: Progress) -> None:
    shortest: Features | None = None
    longest: Features | None = None
    for rendered, measured in chosen:
        features = inspector.encode(rendered)
        found = inspector.inspect(rendered, features, inspector.prompt_ids(rendered))
        refuse(rendered.id, (*inspector.inspect_turn(rendered), *found.problems))
        _check_length(rendered.id, found, measured, inspector.limit)
        shortest = features if shortest is None or _length(features) < _length(shortest) else shortest
        longest = features if longest is None or _length(features) > _length(longest) else longest
        progress.step()
    if shortest is not None and longest is not None:
        _prove_padding(inspector.model, [shortest, longest])


def _check_length(sample: str, found: Inspection, measured: Measured, limit: int | None) -> None:
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
