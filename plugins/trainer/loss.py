"""The loss on the answers: cross-entropy where there are labels, and logits nowhere else."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from plugins.trainer.cross_entropy import summed_cross_entropy
from runner.records import IGNORED


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
