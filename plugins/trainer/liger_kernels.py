"""Liger's Triton kernels for norms and feed-forward blocks of a model (Hsu et al. 2024), as an option."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch

from runner.errors import RequirementError, SpecError

OPTION = ("trainer", "use_liger_kernel")


def apply_liger_kernels(module: torch.nn.Module) -> None:
    """Let the norms and feed-forward blocks of a model compute with Liger's kernels, in place.

    Only this model changes: other models of the process keep their code. The output layer keeps this project's own
    cross-entropy, which computes no logits of tokens without loss.

    Raises:
        RequirementError: liger-kernel is not installed, or there is no CUDA GPU.
        SpecError: Liger has no kernels for the model.
    """
    if find_spec("liger_kernel") is None or not torch.cuda.is_available():
        raise RequirementError(
            "trainer.use_liger_kernel needs a CUDA GPU and the package liger-kernel. Install it with pip install "
            "'mmre-runner[liger]', or set use_liger_kernel: false"
        )
    from liger_kernel.transformers.monkey_patch import (
        MODEL_TYPE_TO_APPLY_LIGER_FN,
        _apply_liger_kernel_to_instance,
    )

    model_type = getattr(getattr(module, "config", None), "model_type", None)
    if model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise SpecError(
            f"liger-kernel has no kernels for models of type {model_type}; set use_liger_kernel: false", path=OPTION
        )
    with _unchanged_model_code():
        _apply_liger_kernel_to_instance(
            model=module, rope=False, cross_entropy=False, fused_linear_cross_entropy=False, layer_norm=False
        )


@contextmanager
def _unchanged_model_code() -> Iterator[None]:
    """Restore the names in transformers' modules, which Liger replaces for all models that are built later."""
    modules = [code for name, code in sys.modules.items() if name.startswith("transformers.models.") and code]
    before = [dict(vars(code)) for code in modules]
    try:
        yield
    finally:
        for code, names in zip(modules, before, strict=True):
            vars(code).update(names)
