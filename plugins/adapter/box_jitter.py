"""Jitter of boxes in the targets of training, with a guard on the IoU."""

from __future__ import annotations

import math
import random
from typing import Annotated

from pydantic import Field

from runner.records import Box
from runner.stages import Options, intersection_over_union

SIGMA = 1 / math.sqrt(3)
"""Standard deviation of a shift or growth, as a share of its limit: that of a uniform distribution between the limits,
as in E2E-GMNER."""


class BoxJitter(Options):
    """Random changes of the boxes in the targets of training (Gaussian Risk-Aware Box Perturbation of E2E-GMNER).

    Prompts, references, and the targets of the validation loss never change. Defaults: those of E2E-GMNER's training
    script (arXiv 2604.17319).
    """

    shift: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Largest shift of a box, as a share of its width and of its height; normally distributed and cut off there."""
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Largest change of its width and of its height, as a share of each; distributed like `shift`."""
    min_iou: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Smallest intersection over union of the written box and the annotated one. Another box is drawn below it."""
    tries: Annotated[int, Field(ge=1, le=100)] = 5
    """Number of boxes that are drawn. If none reaches `min_iou`, the annotated box is written."""
    small_area: Annotated[float, Field(ge=0)] = 1024
    """Boxes with a smaller area change half as much, in square units of the frame, such as pixels."""
    draws: Annotated[int, Field(ge=1, le=100)] = 10
    """Number of targets that are drawn for each sample. The epochs use them in turn; with the number of epochs, the
    boxes of every epoch are drawn anew."""


def jitter_box(box: Box, limits: tuple[float, float], options: BoxJitter, rng: random.Random) -> Box:
    """Return a changed box in whole units of the frame, whose IoU with the box reaches `min_iou`.

    Args:
        box: The box, in the frame.
        limits: Width and height of the image in the frame; the changed box stays inside.
        options: The amounts.
        rng: Random numbers.

    Returns:
        The box itself if no change reaches `min_iou`.
    """
    left, top, right, bottom = box
    amount = 0.5 if (right - left) * (bottom - top) < options.small_area else 1.0
    for _ in range(options.tries):
        x1, x2 = _jitter_side(left, right, amount, options, rng)
        y1, y2 = _jitter_side(top, bottom, amount, options, rng)
        changed = (_clip(x1, limits[0]), _clip(y1, limits[1]), _clip(x2, limits[0]), _clip(y2, limits[1]))
        if intersection_over_union(changed, box) >= options.min_iou:
            return changed
    return box


def _jitter_side(low: float, high: float, amount: float, options: BoxJitter, rng: random.Random) -> tuple[float, float]:
    length = high - low
    middle = (low + high) / 2 + length * amount * _truncated_normal(options.shift, rng)
    half = length / 2 * (1 + amount * _truncated_normal(options.scale, rng))
    return middle - half, middle + half


def _truncated_normal(limit: float, rng: random.Random) -> float:
    return min(max(rng.gauss(0.0, SIGMA * limit), -limit), limit)


def _clip(side: float, limit: float) -> float:
    """Round to a whole unit inside the image: boxes are written in whole units."""
    return float(round(min(max(side, 0.0), limit)))
