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

NAMED = 5
"""Samples that are left out whose ids a warning names."""


@dataclass(frozen=True)
class Proof:
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
    over = [inspector.limit is not None and each.length > inspector.limit for each in measured]
    trained = [place for place in range(len(rendered)) if not (over[place] and trainer.skips)]
    samples, lengths = [rendered[place] for place in trained], [measured[place] for place in trained]
    chosen = choose(samples, [each.length for each in lengths])
    _prove_whole(inspector, [(samples[place], lengths[place]) for place in chosen], progress)
    longest = max(range(len(samples)), key=lambda place: lengths[place].length)
    proof = Proof(
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
