"""Whether the tokens that carry loss stand at their places and are the answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from runner.proof.excerpt import composed, difference
from runner.stages import VisionLanguageModel


def place_problems(
    model: VisionLanguageModel, ids: Sequence[int], labels: Sequence[int], places: Sequence[int]
) -> Iterator[str]:
    """Say where tokens carry loss that must not, or labels stand beside their tokens.

    Args:
        model: Tells image tokens from others, and spells.
        ids: The tokens of a sample.
        labels: A label a token.
        places: Where they are not `IGNORED`.
    """
    if not places:
        yield "no token carries loss: the sample is masked from end to end"
        return
    images = model.image_token_ids
    in_loss = next((place for place in places if {ids[place], labels[place]} & images), None)
    if in_loss is not None:
        yield f"an image token carries loss, at token {in_loss} of {len(ids)}"
    apart = next((place for place in places if ids[place] != labels[place]), None)
    if apart is not None:
        yield (
            f"the label at token {apart} is {model.spell([labels[apart]])!r}, and the token that stands there "
            f"is {model.spell([ids[apart]])!r}: labels belong at the tokens themselves"
            f"{_shift(ids, labels, places)}"
        )
    hole = next((place for place, after in pairwise(places) if after != place + 1), None)
    if hole is not None:
        yield f"the tokens that carry loss are interrupted after token {hole} of {len(ids)}"


def text_problems(
    model: VisionLanguageModel, trained: Sequence[int], text: str, target: str, trailing: str
) -> Iterator[str]:
    """Say where the trained tokens are not the target, its end token and what trails it.

    Args:
        model: Spells, and says which tokens end an answer.
        trained: The labels of a sample that carry loss; of none, `place_problems` tells.
        text: The same, spelt out.
        target: The answer.
        trailing: Text that is trained after its end token.
    """
    if not trained:
        return
    wanted = f"{target}{model.turn_end}{trailing}"
    if composed(text) != composed(wanted):
        parted = difference(wanted, text)
        yield f"the tokens that carry loss are not the answer, its end token and what trails it: {parted}"
        return
    stops = [place for place, token in enumerate(trained) if token in model.stop_token_ids]
    if not stops:
        yield f"{model.turn_end!r} is trained as an answer's end, and no token of it ends an answer later"
        return
    ended = model.spell(trained[: stops[0] + 1])
    if composed(ended) != composed(f"{target}{model.turn_end}"):
        yield f"a token that ends an answer stands inside it: {difference(wanted, ended)}"


def _shift(ids: Sequence[int], labels: Sequence[int], places: Sequence[int]) -> str:
    """Say so where all labels fit the token after or before their place."""
    for by, where in ((1, "one place too early"), (-1, "one place too late")):
        inside = [place for place in places if 0 <= place + by < len(ids)]
        if inside and all(labels[place] == ids[place + by] for place in inside):
            return f", and all of them stand {where}"
    return ""
