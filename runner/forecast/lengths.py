"""How long the samples of a training are, in tokens: in figures, or assumed where there is no data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner.stages import TokenCount

ASSUMED = TokenCount(text=280, image=1100, target=120, estimated=True)
"""A sample of M-MRE with the images of a tweet: the published prompt with a tweet, a photograph of a megapixel less
what its segments add, a summary with a pair or two."""


def assumed_length(limit: int | None) -> TokenCount:
    """Say how long a sample is taken to be where there is none.

    Args:
        limit: Of the spec, if it has one: then a sample is as long as it may be, the images filling it.
    """
    text = ASSUMED.text + ASSUMED.target
    return ASSUMED if limit is None else TokenCount(ASSUMED.text, max(0, limit - text), ASSUMED.target, estimated=True)


def length_figures(counts: Sequence[TokenCount], *, assumed: bool) -> dict[str, Any]:
    """Figures over the training split, an epoch: totals by kind, and the length of a sample.

    Returns:
        `text`, `image`, `target`, `total`: tokens; null where the one sample is assumed. `longest_sample`,
        `mean_sample`. `estimated`: whether text is counted in characters; `assumed`: whether there is no data.
    """
    lengths = [count.text + count.image + count.target for count in counts]
    kinds = ("text", "image", "target")
    totals = {kind: sum(getattr(count, kind) for count in counts) for kind in kinds} | {"total": sum(lengths)}
    return {
        **(dict.fromkeys(totals) if assumed else totals),
        "longest_sample": max(lengths),
        "mean_sample": sum(lengths) / len(lengths),
        "estimated": any(count.estimated for count in counts),
        "assumed": assumed,
    }
