"""Muon for matrices and AdamW for the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from plugins.optimizer.adamw import GroupedOptimizer, fused_adamw, with_schedule
from plugins.optimizer.optimizer_options import MuonGroupOptions, MuonOptions
from plugins.optimizer.param_groups import GROUPS, ParamGroup, listed
from runner.errors import Problem, SpecError
from runner.stages import ScheduledOptimizer


class CpuMuon(torch.optim.Muon):
    """`torch.optim.Muon`, the same on accelerators and with the same state; see the module for CPUs.

    Made with torch's default `adjust_lr_fn`.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step over every matrix that has a gradient; see `torch.optim.Optimizer.step`."""
        matrices = [(matrix, group) for group in self.param_groups for matrix in group["params"]]
        # Asked at every step, as weights may move to their device after the optimizer was made.
        if any(matrix.device.type != "cpu" for matrix, _ in matrices):
            return super().step(closure)  # type: ignore[no-untyped-call]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for matrix, group in matrices:
            if matrix.grad is not None:
                self._take(matrix, matrix.grad, group)
        return loss

    def _take(self, matrix: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        direction = gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
        update = orthogonalized(direction, group["ns_coefficients"], group["ns_steps"], group["eps"])
        rows, columns = matrix.shape
        matrix.mul_(1 - group["lr"] * group["weight_decay"])
        # Tall matrices take longer steps (Jordan 2024): torch's `adjust_lr_fn="original"`, its default.
        matrix.add_(update.to(matrix.dtype), alpha=-group["lr"] * math.sqrt(max(1, rows / columns)))


def orthogonalized(
    matrix: torch.Tensor, coefficients: tuple[float, float, float], num_steps: int, eps: float
) -> torch.Tensor:
    """Bring a matrix's singular values near one, keeping its singular vectors.

    Args:
        matrix: (m, n), of any floating dtype.
        coefficients: a, b, c of the odd polynomial ax + bx^3 + cx^5 that each step applies to the singular values.
            torch's defaults grow small ones fastest and end between 0.7 and 1.2 (Jordan, "Muon: an optimizer for
            hidden layers in neural networks", 2024).
        num_steps: How often it is applied.
        eps: The smallest Frobenius norm that the matrix is divided by.

    Returns:
        (m, n) in float32.
    """
    a, b, c = coefficients
    rows, columns = matrix.shape
    # The smaller Gram matrix of the two is the cheaper.
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

    def assign_groups(self, module: torch.nn.Module) -> list[ParamGroup]:
        """The groups with their parameters; see `deal`.

        Raises:
            SpecError: Muon gets what is no matrix.
        """
        groups = super().assign_groups(module)
        if problems := [problem for group in groups for problem in _no_matrices(group)]:
            raise SpecError(problems)
        return groups

    def build(self, module: torch.nn.Module, num_steps: int) -> Sequence[ScheduledOptimizer]:
        """Make an optimizer for each algorithm in use, and their schedules; see `Optimizer.build`."""
        parameters: dict[str, list[dict[str, Any]]] = {"muon": [], "adamw": []}
        for group in self.assign_groups(module):
            parameters[_algorithm(group)] += group.torch_groups()
        optimizers: list[torch.optim.Optimizer] = []
        if parameters["muon"]:
            optimizers.append(CpuMuon(parameters["muon"], momentum=self._options.momentum))
        if parameters["adamw"]:
            optimizers.append(fused_adamw(parameters["adamw"], self._options))
        return [with_schedule(optimizer, self._options, num_steps) for optimizer in optimizers]


def _algorithm(group: ParamGroup) -> str:
    assert isinstance(group.options, MuonGroupOptions)
    return group.options.algorithm


def _no_matrices(group: ParamGroup) -> list[Problem]:
    if _algorithm(group) != "muon":
        return []
    odd = [f"{name} {tuple(each.shape)}" for name, each in group.learning.items() if each.ndim != 2]
    if not odd:
        return []
    message = (
        f"Muon takes matrices alone; this group also wins {listed(odd)}; "
        "win them in a group above it that has algorithm: adamw"
    )
    return [Problem(message, (*GROUPS, group.name, "match"))]
