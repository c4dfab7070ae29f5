"""Spares the last layer's feed-forward part the positions that predict nothing."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from transformers import PreTrainedModel


class Sparing:
    """Lets the last feed-forward part compute the positions that the output layer will read, and give zeros elsewhere.

    It treats each position alone, and what it adds goes to the output layer and nowhere else, so that the loss and
    every gradient stay what they are. That holds within a context, which must span the backward pass too, as it may
    compute activations again; outside, the model is itself.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Hook into the model; one whose layers are not as usual is left as it is."""
        self._within = False
        self._where: torch.Tensor | None = None
        layers = getattr(model.get_decoder(), "layers", None)  # type: ignore[no-untyped-call]  # transformers' own
        part = getattr(layers[-1], "mlp", None) if isinstance(layers, torch.nn.ModuleList) and len(layers) else None
        if part is not None:
            part.register_forward_pre_hook(self._select)
            part.register_forward_hook(self._put_back)

    def __enter__(self) -> None:
        """Begin to heed what is asked for."""
        self._within = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        self._within, self._where = False, None

    def ask(self, where: torch.Tensor) -> None:
        """Say which positions of the coming forward pass, and of its backward pass, will be read.

        Args:
            where: (rows, length).
        """
        if self._within:
            self._where = where

    def _select(self, part: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> torch.Tensor | None:
        return None if self._where is None else given[0][self._where][None]

    def _put_back(self, part: torch.nn.Module, given: Any, computed: torch.Tensor) -> torch.Tensor | None:
        if self._where is None:
            return None
        whole = computed.new_zeros(*self._where.shape, computed.shape[-1])
        return whole.masked_scatter(self._where[..., None], computed)
