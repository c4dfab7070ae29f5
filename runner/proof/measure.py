"""How long training samples are, counted without their pixels, and those that are too long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runner.errors import DataError, StepError
from runner.proof.inspection import Inspector, refuse
from runner.proof.prompts import Progress
from runner.records import Rendered
from runner.stages import Trainer


@dataclass(frozen=True)
class Measured:
    """What one training sample comes to, from its words and the size of its images.

    Attributes:
        length: Tokens of the whole sample.
        trained: Tokens that carry loss.
        respelt: See `Inspection.respelt`.
    """

    length: int
    trained: int
    respelt: bool

    @property
    def prompt(self) -> int:
        """Tokens before the answer."""
        return self.length - self.trained


def measure(inspector: Inspector, rendered: Rendered, progress: Progress) -> Measured:
    """Check the words of a sample, and measure it.

    Raises:
        StepError: Something else than the answer carries loss, or the prompt is not the one of generation.
        DataError: An image cannot be used.
        StopRequestedError: The user asked to stop.
    """
    found = inspector.inspect_words(rendered)
    refuse(rendered.id, found.problems)
    progress.step()
    return Measured(found.num_tokens, found.num_trained, found.respelt)


def refuse_overlong(
    inspector: Inspector, trainer: Trainer, rendered: Sequence[Rendered], measured: Sequence[Measured]
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
                "(trainer.overlong: skip), so that nothing would be learnt; raise trainer.max_length, or show images "
                "with fewer pixels (model.max_pixels)"
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
