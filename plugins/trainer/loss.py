"""Cross-entropy on the answer tokens, fused with the output layer so that full logits never exist."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import PreTrainedModel

from runner.records import IGNORED

LOGIT_BYTES = 64 * 2**20
"""Float32 logits that may exist at once: 110 positions over 150,000 words, enough to keep a matrix product busy."""


def summed_cross_entropy(hidden: torch.Tensor, labels: torch.Tensor, head: torch.nn.Module) -> torch.Tensor:
    """Sum the cross-entropy of labels that an output layer predicts from hidden states.

    Args:
        hidden: (positions, width).
        labels: (positions,), each a word.
        head: A linear layer, with or without a bias.

    Returns:
        A scalar in nats, float32.
    """
    layer = cast(torch.nn.Linear, head)
    # Within an autograd function nobody can tell any more whether gradients are wanted.
    learning = torch.is_grad_enabled()
    return cast(torch.Tensor, _FusedCrossEntropy.apply(hidden, layer.weight, layer.bias, labels, learning))  # type: ignore[no-untyped-call]  # torch's own


class _FusedCrossEntropy(torch.autograd.Function):
    """Takes the gradient while the logits of a part are there, in the forward pass, so that none are made twice.

    The derivative of the loss by the logits is their softmax, less one at the label.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        learning: bool,
    ) -> torch.Tensor:
        ctx.gradients = [
            torch.zeros_like(each) if each is not None and learning and needed else None
            for each, needed in zip((hidden, weight, bias), ctx.needs_input_grad[:3], strict=True)
        ]
        of_hidden, of_weight, of_bias = ctx.gradients
        device = hidden.device.type
        lower = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        matrix, vector = weight.to(lower), None if bias is None else bias.to(lower)
        loss = torch.zeros((), device=hidden.device)
        for place in _parts(len(labels), len(weight)):
            part, words = hidden[place].to(lower), labels[place, None]
            values = functional.log_softmax(functional.linear(part, matrix, vector).float(), dim=-1)
            loss -= values.gather(1, words).sum()
            if not learning:
                continue
            slope = values.exp_().scatter_add_(1, words, -torch.ones_like(words, dtype=values.dtype)).to(lower)
            if of_hidden is not None:
                of_hidden[place] = slope @ matrix
            if of_weight is not None:
                _add_product(of_weight, slope.T, part)
            if of_bias is not None:
                of_bias += slope.sum(dim=0)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        return (*(None if each is None else each.mul_(scale) for each in gradients), None, None)


def part_size(num_words: int) -> int:
    """Count the positions whose logits, over so many words, exist at once."""
    return max(1, LOGIT_BYTES // (4 * num_words))


def _parts(num_positions: int, num_words: int) -> Iterator[slice]:
    size = part_size(num_words)
    for start in range(0, num_positions, size):
        yield slice(start, start + size)


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add a product of matrices, in place; where the precisions agree, without a second matrix of that size."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


class AnswerLoss(torch.nn.Module):
    """A model with its loss, as one module, so that data-parallel wrappers see the whole forward pass."""

    def __init__(self, model: torch.nn.Module) -> None:
        """Take a transformers model: its base gives hidden states, its output embeddings give logits."""
        super().__init__()
        self.model = cast(PreTrainedModel, model)

    def forward(self, labels: torch.Tensor, **inputs: Any) -> torch.Tensor:
        """Sum the cross-entropy of the labelled tokens.

        The head is applied at positions that predict a label alone: over a vocabulary of 150,000 the logits
        of a whole prompt would take more memory than everything else.

        Args:
            labels: (rows, length), `IGNORED` where there is no loss; position t is predicted from t - 1.
            inputs: Whatever else the model takes.

        Returns:
            A scalar in nats, summed, in float32.
        """
        wanted = functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
        labelled = wanted != IGNORED
        hidden = self.model.base_model(**inputs, use_cache=False).last_hidden_state
        head = self.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        return summed_cross_entropy(hidden[labelled], wanted[labelled], head)
