"""The floating-point operations of a training, from a model's anatomy and the lengths of its samples."""

from __future__ import annotations

from plugins.trainer.kept import Anatomy
from plugins.trainer.memory import Length


def flops(anatomy: Anatomy, length: Length, *, again: bool, looks: float = 1.0) -> float:
    """Count the floating-point operations of a sample.

    Two a weight and position forward, two for the gradients of the hidden states, two for those of the weights
    (Kaplan et al. 2020), and with gradient checkpointing two to compute again. The scores of attention are left out:
    at 1,500 tokens they add 2 to 5 % to a 7B.

    Args:
        anatomy: Of the model as it trains.
        length: Of the sample.
        again: Whether layers are computed again in the backward pass.
        looks: How often its images are looked at, a step that takes the sample: less than one where a frozen vision
            part's features are kept.
    """
    parts = (
        (anatomy.language.matrices, length.total, True, anatomy.language.num_learning > 0),
        (anatomy.vision.matrices, looks * length.image * anatomy.patches, anatomy.vision.num_learning > 0, True),
        (anatomy.head, length.target, True, anatomy.head_learns),
    )
    return sum(
        2.0 * matrices * positions * (1 + (1 + again) * backward + (backward and learns))
        for matrices, positions, backward, learns in parts
    )
