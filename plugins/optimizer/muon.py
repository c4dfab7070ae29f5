"""Muon for matrices and AdamW for the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from plugins.optimizer.grouped_optimizer import GroupedOptimizer, attach_schedule, make_fused_adamw
from plugins.optimizer.optimizer_options import MuonGroupOptions, MuonOptions
from plugins.optimizer.param_groups import ParamGroup
from runner.stages import ScheduledOptimizer


class CpuMuon(torch.optim.Muon):
    """`torch.optim.Muon` with a float32 update on CPUs; on accelerators it is torch's own, with the same state.

    It requires torch's default `adjust_lr_fn`.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every matrix that has a gradient; see `torch.optim.Optimizer.step`."""
        matrices = [(matrix, group) for group in self.param_groups for matrix in group["params"]]
        # Checked at every step, as weights may move to their device after the optimizer was built.
        if any(matrix.device.type != "cpu" for matrix, _ in matrices):
            return super().step(closure)  # type: ignore[no-untyped-call]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for matrix, group in matrices:
            if matrix.grad is not None:
                self._update(matrix, matrix.grad, group)
        return loss

    def _update(self, matrix: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        direction = gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
        update = orthogonalize(direction, group["ns_coefficients"], group["ns_steps"], group["eps"])
        rows, columns = matrix.shape
        matrix.mul_(1 - group["lr"] * group["weight_decay"])
        # Tall matrices take longer steps (Jordan 2024): torch's `adjust_lr_fn="original"`, its default.
        matrix.add_(update.to(matrix.dtype), alpha=-group["lr"] * math.sqrt(max(1, rows / columns)))


def orthogonalize(
    matrix: torch.Tensor, coefficients: tuple[float, float, float], num_steps: int, eps: float
) -> torch.Tensor:
    """Bring a matrix's singular values near one and keep its singular vectors.

    Args:
        matrix: (m, n), of any floating dtype.
        coefficients: a, b, c of the odd polynomial ax + bx^3 + cx^5 that each step applies to the singular values.
            torch's defaults grow small ones fastest and end between 0.7 and 1.2 (Jordan, "Muon: an optimizer for
            hidden layers in neural networks", 2024).
        num_steps: Number of times that the polynomial is applied.
        eps: The smallest Frobenius norm that the matrix is divided by.

    Returns:
        (m, n) in float32.
    """
    a, b, c = coefficients
    rows, columns = matrix.shape
    # Of the two Gram matrices, the smaller one is cheaper.
    x = (matrix.T if rows > columns else matrix).float()
    x = x / x.norm().clamp(min=eps)
    for _ in range(num_steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if rows > columns else x


class MuonOptimizer(GroupedOptimizer):
    """The plugin `muon` of the stage `optimizer`."""

    def __init__(self, options: MuonOptions) -> None:
        """Take the section's options."""
        super().__init__(options.groups, options)
        self._options = options

    def build(self, module: torch.nn.Module, num_steps: int) -> Sequence[ScheduledOptimizer]:
        """Build an optimizer for each algorithm in use, and their schedules; see `Optimizer.build`."""
        torch_groups: dict[str, list[dict[str, Any]]] = {"muon": [], "adamw": []}
        for group in self.assign_groups(module):
            torch_groups[_algorithm(group)] += group.torch_groups()
        optimizers: list[torch.optim.Optimizer] = []
        if torch_groups["muon"]:
            optimizers.append(CpuMuon(torch_groups["muon"], momentum=self._options.momentum))
        if torch_groups["adamw"]:
            optimizers.append(make_fused_adamw(torch_groups["adamw"], self._options))
        return [attach_schedule(optimizer, self._options, num_steps) for optimizer in optimizers]


def _algorithm(group: ParamGroup) -> str:
    assert isinstance(group.options, MuonGroupOptions)
    return group.options.algorithm
