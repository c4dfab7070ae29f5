"""Whether a prompt is the one of generation, and holds the texts of its sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from runner.proof.excerpt import composed, difference
from runner.records import Rendered, TextPart
from runner.stages import VisionLanguageModel


def without_images(rendered: Rendered) -> Rendered:
    """The same sample as text alone."""
    return replace(
        rendered,
        content=tuple(part for part in rendered.content if isinstance(part, TextPart)),
        examples=tuple(without_images(example) for example in rendered.examples),
    )


def prompt_problems(
    model: VisionLanguageModel, rendered: Rendered, found: Sequence[int], prompt: Sequence[int] | None
) -> Iterator[str]:
    """Say where a prompt is not what an answer is generated from, or lacks a text of its sample.

    Args:
        model: Spells, and tells image tokens from others.
        rendered: The sample.
        found: The tokens before its answer.
        prompt: The tokens of generation; None where the comparison with them was made elsewhere.
    """
    if prompt is not None and list(found) != list(prompt):
        parted = _parted(model, prompt, found)
        yield f"the prompt in training is not the one that an answer is generated from: {parted}"
        return
    lacking = _first_lacking(_texts(rendered), _spelt(model, found))
    if lacking is not None:
        yield f"the prompt lacks a text of the sample, or has it out of order: {lacking[:60]!r}"


def _parted(model: VisionLanguageModel, prompt: Sequence[int], found: Sequence[int]) -> str:
    expected, shown = _spelt(model, prompt), _spelt(model, found)
    if expected == shown:
        return f"expected {len(prompt)} tokens and found {len(found)}, of the same text"
    return difference(expected, shown)


def _spelt(model: VisionLanguageModel, ids: Sequence[int]) -> str:
    return model.spell([token for token in ids if token not in model.image_token_ids])


def _texts(rendered: Rendered) -> Iterator[str]:
    for example in rendered.examples:
        yield from _texts(example)
        yield example.target or ""
    yield from (part.text for part in rendered.content if isinstance(part, TextPart))


def _first_lacking(texts: Iterator[str], prompt: str) -> str | None:
    """The first of some texts that does not follow on those before it; templates may strip space around them."""
    within, start = composed(prompt), 0
    for text in texts:
        wanted = composed(text).strip()
        place = within.find(wanted, start)
        if place < 0:
            return wanted
        start = place + len(wanted)
    return None
