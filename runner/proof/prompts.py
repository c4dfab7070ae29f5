"""Whether prompts and the answers to them have room in the model."""

from __future__ import annotations

from collections.abc import Sequence

from runner.errors import DataError, SpecError
from runner.records import Rendered
from runner.stages import Reporter, StopRequestedError, VisionLanguageModel


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
