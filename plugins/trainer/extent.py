"""How long a training lasts: its optimizer steps, and the tokens of answers that are trained on in them."""

from __future__ import annotations

from collections.abc import Sequence

from plugins.trainer.batches import Order
from plugins.trainer.encoded import Overlong
from plugins.trainer.sft_options import SftOptions
from runner.errors import SpecError
from runner.records import Extent
from runner.stages import TokenCount


def answer_tokens(counts: Sequence[TokenCount], limit: int | None, overlong: Overlong) -> list[int]:
    """Count what is trained on of each sample's answer, its end token included and what trails it not.

    Args:
        counts: Lengths of the samples.
        limit: The most tokens of a sample; None for any number.
        overlong: What becomes of a longer one; one that will be refused counts whole.
    """
    return [_answer_tokens(count, limit, overlong) for count in counts]


def _answer_tokens(count: TokenCount, limit: int | None, overlong: Overlong) -> int:
    prompt = count.text + count.image
    if limit is None or prompt + count.target <= limit or overlong == "refuse":
        return count.target
    return max(0, limit - prompt) if overlong == "truncate" else 0


def extent(options: SftOptions, order: Order, tokens: Sequence[int] | None) -> Extent:
    """Work out steps and tokens; see `Trainer.extent`.

    Args:
        options: The trainer's.
        order: Of the samples.
        tokens: Of each sample, by its place (`answer_tokens`); None where they are not known.

    Raises:
        SpecError: A number of tokens is asked for, and no sample that is trained on has any.
    """
    steps = _steps(options, order, tokens)
    if steps is not None and options.max_steps is not None:
        steps = min(steps, options.max_steps)
    return Extent(steps, None if steps is None or tokens is None else order.num_tokens(tokens, steps))


def _steps(options: SftOptions, order: Order, tokens: Sequence[int] | None) -> int | None:
    if options.epochs is not None:
        return options.epochs * order.steps_per_epoch
    assert options.tokens is not None
    if tokens is None:
        return None
    if not any(tokens[place] for place in order.training):
        raise SpecError(
            f"{options.tokens:,} tokens of answers can never be trained on, as no sample is left that has any; "
            "raise trainer.max_length, or show images with fewer pixels (model.max_pixels)",
            path=("trainer", "tokens"),
        )
    return order.steps_to(tokens, options.tokens)
