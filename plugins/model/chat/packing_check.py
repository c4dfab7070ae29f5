"""Finds out whether the samples of a packed row are computed as if alone, by computing two short ones both ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

from runner.stages import Features

FULL_ATTENTION = "full_attention"
"""Transformers' name of decoder layers that `packed_attention` computes within each sample."""

SLIDING = ("sliding_attention", "chunked_attention")
"""Names of layers whose mask `packed_attention` would ignore; short rows do not show it."""

PROBE_LENGTHS = (7, 5)
"""Tokens of the two samples: more than the kernel of a convolution over tokens, usually 4."""

TOLERANCE = 1e-3
"""Largest difference, relative to the largest value. A state that crosses the border of samples changes a value by
about its size."""


def packs_as_alone(module: Any, pack: Callable[[Sequence[Features]], Mapping[str, Any]]) -> bool:
    """Return whether loss and gradients of a packed row equal those of its samples alone.

    Layers with full attention are known to be right, so a model that has no others is not run. Layers with a running
    state, such as linear attention or convolutions, carry it into the next sample, unless a kernel resets it.

    Args:
        module: The model, not wrapped or sharded. It is run in evaluation mode, on its device.
        pack: Concatenates samples into one row, which has `labels` and the model's other inputs.
    """
    kinds = set(getattr(module.config.get_text_config(), "layer_types", None) or [FULL_ATTENTION])
    if kinds == {FULL_ATTENTION}:
        return True
    if kinds.intersection(SLIDING) or any(type(each) is not torch.nn.Parameter for each in module.parameters()):
        return False
    if module.device.type == "meta":
        return False
    samples = [_probe(length, module.config.get_text_config().vocab_size) for length in PROBE_LENGTHS]
    was_training = module.training
    module.eval()
    try:
        together = _loss_and_gradient(module, pack(samples))
        alone = [_loss_and_gradient(module, pack([sample])) for sample in samples]
    finally:
        module.train(was_training)
    loss = sum((each for each, _ in alone), torch.zeros(()))
    gradient = torch.cat([each for _, each in alone], dim=1)
    return _is_close(together[0], loss) and _is_close(together[1], gradient)


def _probe(length: int, vocab_size: int) -> Features:
    ids = torch.arange(length) * 7919 % vocab_size  # a prime, so that the tokens differ
    return {"input_ids": ids, "labels": ids.clone(), "mm_token_type_ids": torch.zeros(length, dtype=torch.long)}


def _loss_and_gradient(module: Any, row: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the summed loss of a row, and its gradient with respect to the embedded tokens: (1, length, width)."""
    inputs = {
        name: value.to(module.device) if isinstance(value, torch.Tensor) else value for name, value in row.items()
    }
    labels = inputs.pop("labels")
    embedded: list[torch.Tensor] = []

    def keep(layer: torch.nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    hook = module.get_input_embeddings().register_forward_hook(keep)
    try:
        with torch.enable_grad():
            hidden = module.base_model(**inputs, use_cache=False).last_hidden_state
            logits = module.get_output_embeddings()(hidden)[0, :-1].float()
            loss = functional.cross_entropy(logits, labels[0, 1:], reduction="sum")
            (gradient,) = torch.autograd.grad(loss, embedded)
    finally:
        hook.remove()
    return loss.detach().cpu(), gradient.float().cpu()


def _is_close(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((actual - expected).abs().max() <= TOLERANCE * expected.abs().max())
