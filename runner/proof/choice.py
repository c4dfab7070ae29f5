"""Which samples are encoded whole before training."""

from __future__ import annotations

from collections.abc import Sequence

from runner.records import Rendered, TextPart

LONGEST, FIRST, CHOSEN = 4, 4, 24
"""Of the samples that are encoded whole before training, images and all: how many of the longest, of the first, and
how many in all, the first of each arrangement of images among them. The others are when they are first trained on."""


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
