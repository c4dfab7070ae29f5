"""Cross-entropy on the answer tokens, fused with the output layer so that full logits never exist."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import PreTrainedModel

from runner.records import IGNORED

MAX_LOGIT_BYTES = 64 * 2**20
"""Maximum bytes of float32 logits at one time: 110 positions over 150,000 tokens, enough to keep a matrix product
busy."""


def summed_cross_entropy(hidden: torch.Tensor, labels: torch.Tensor, head: torch.nn.Module) -> torch.Tensor:
    """Sum the cross-entropy of labels that an output layer predicts from hidden states.

    Args:
        hidden: (positions, hidden size).
        labels: (positions,), token ids.
        head: A linear layer, with or without a bias.

    Returns:
        A scalar in nats, float32.
    """
    layer = cast(torch.nn.Linear, head)
    # Inside an autograd function, grad mode is always off.
    needs_gradient = torch.is_grad_enabled()
    return cast(torch.Tensor, _FusedCrossEntropy.apply(hidden, layer.weight, layer.bias, labels, needs_gradient))  # type: ignore[no-untyped-call]  # torch's own


class _FusedCrossEntropy(torch.autograd.Function):
    """Computes the gradients in the forward pass, while the logits of a chunk exist, so that they are computed once.

    The derivative of the loss with respect to the logits is their softmax, less one at the label.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        needs_gradient: bool,
    ) -> torch.Tensor:
        ctx.gradients = [
            torch.zeros_like(tensor) if tensor is not None and needs_gradient and needed else None
            for tensor, needed in zip((hidden, weight, bias), ctx.needs_input_grad[:3], strict=True)
        ]
        hidden_grad, weight_grad, bias_grad = ctx.gradients
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        cast_weight, cast_bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        loss = torch.zeros((), device=hidden.device)
        for chunk in _chunks(len(labels), len(weight)):
            chunk_hidden, chunk_labels = hidden[chunk].to(dtype), labels[chunk, None]
            log_probs = functional.log_softmax(functional.linear(chunk_hidden, cast_weight, cast_bias).float(), dim=-1)
            loss -= log_probs.gather(1, chunk_labels).sum()
            if not needs_gradient:
                continue
            minus_one = -torch.ones_like(chunk_labels, dtype=log_probs.dtype)
            logit_grad = log_probs.exp_().scatter_add_(1, chunk_labels, minus_one).to(dtype)
            if hidden_grad is not None:
                hidden_grad[chunk] = logit_grad @ cast_weight
            if weight_grad is not None:
                _add_product(weight_grad, logit_grad.T, chunk_hidden)
            if bias_grad is not None:
                bias_grad += logit_grad.sum(dim=0)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        return (*(None if gradient is None else gradient.mul_(scale) for gradient in gradients), None, None)


def logit_chunk_size(vocab_size: int) -> int:
    """Return the number of positions whose logits exist at one time."""
    return max(1, MAX_LOGIT_BYTES // (4 * vocab_size))


def _chunks(num_positions: int, vocab_size: int) -> Iterator[slice]:
    size = logit_chunk_size(vocab_size)
    for start in range(0, num_positions, size):
        yield slice(start, start + size)


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add a matrix product in place; if the dtypes agree, without a second matrix of that size."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


class AnswerLoss(torch.nn.Module):
    """A model with its loss as one module, so that data-parallel wrappers see the whole forward pass."""

    def __init__(self, model: torch.nn.Module) -> None:
        """Take a transformers model: its base model gives hidden states, its output embeddings give logits."""
        super().__init__()
        self.model = cast(PreTrainedModel, model)

    def get_input_embeddings(self) -> torch.nn.Module | None:
        """Return the embeddings, which accelerate then shards apart; None if the output layer shares their weights.

        All weights of the module that is not wrapped itself, such as the output layer's, are gathered and reduced
        together. FSDP cannot wrap weights apart that this module uses as well.
        """
        embeddings, head = self.model.get_input_embeddings(), self.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        return None if embeddings.weight is head.weight else embeddings

    def forward(self, labels: torch.Tensor, **inputs: Any) -> torch.Tensor:
        """Sum the cross-entropy of the labelled tokens.

        The output layer is applied only at positions that predict a label. Over a vocabulary of 150,000 tokens, the
        logits of a whole prompt would take more memory than everything else.

        Args:
            labels: (rows, length), `IGNORED` where there is no loss; position t is predicted from t - 1.
            inputs: The model's other inputs.

        Returns:
            A scalar in nats, summed, in float32.
        """
        targets = functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
        # Two masks would wait for the device twice.
        labelled = (targets != IGNORED).nonzero(as_tuple=True)
        hidden = self.model.base_model(**inputs, use_cache=False).last_hidden_state
        head = self.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        return summed_cross_entropy(hidden[labelled], targets[labelled], head)
