"""All that a training has come to, by names that do not depend on the number of workers or on what they divide."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

METADATA = ".metadata"
"""The file that torch writes last into a folder of tensors."""


class TrainingState:
    """The weights that learn, the moments of their optimizers, and the schedules of the rates.

    Tensors are kept as `weights/<parameter>` and `moments/<parameter>/<entry>`, whole or each worker's part of them:
    torch's distributed checkpoints bring them together on reading. What does not learn is not kept, as the model is
    made with it again.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        schedules: Sequence[torch.optim.lr_scheduler.LRScheduler],
    ) -> None:
        """Take what trains, after accelerate has wrapped it."""
        self._module, self._optimizers, self._schedules = module, optimizers, schedules

    def write(self, folder: Path) -> None:
        """Write the tensors; all workers take part."""
        tensors = self._weights()
        for optimizer in self._optimizers:
            for name, parameter in self._learning(optimizer).items():
                moments = optimizer.state.get(parameter, {})
                tensors |= {f"moments/{name}/{entry}": tensor for entry, tensor in moments.items()}
        with _process_group() as alone:
            save(tensors, checkpoint_id=folder, no_dist=alone)

    def read(self, folder: Path) -> None:
        """Take over the tensors of a folder; all workers take part."""
        written = FileSystemReader(folder).read_metadata().state_dict_metadata
        tensors = self._weights()
        for optimizer in self._optimizers:
            optimizer.state.clear()
            for name, parameter in self._learning(optimizer).items():
                prefix = f"moments/{name}/"
                for key, stored in written.items():
                    if key.startswith(prefix):
                        assert isinstance(stored, TensorStorageMetadata)
                        tensors[key] = _empty(stored, parameter)
                        optimizer.state[parameter][key.removeprefix(prefix)] = tensors[key]
        with _process_group() as alone:
            load(tensors, checkpoint_id=folder, no_dist=alone)

    def read_weights(self, folder: Path) -> None:
        """Take over the weights of a folder alone; all workers take part."""
        with _process_group() as alone:
            load(self._weights(), checkpoint_id=folder, no_dist=alone)

    def rates(self) -> dict[str, Any]:
        """The schedules, and the rates that they have set; the same on all workers."""
        return {
            "schedules": [schedule.state_dict() for schedule in self._schedules],
            "lr": [[group["lr"] for group in optimizer.param_groups] for optimizer in self._optimizers],
        }

    def set_rates(self, rates: dict[str, Any]) -> None:
        """Take over what `rates` gave."""
        for schedule, state in zip(self._schedules, rates["schedules"], strict=True):
            schedule.load_state_dict(state)
        for optimizer, rows in zip(self._optimizers, rates["lr"], strict=True):
            for group, rate in zip(optimizer.param_groups, rows, strict=True):
                group["lr"] = rate

    def num_learning(self) -> int:
        """Weights that learn, over all workers."""
        return sum(each.numel() for each in self._module.parameters() if each.requires_grad)

    def _weights(self) -> dict[str, torch.Tensor]:
        """What a model has beside frozen parameters, so also the buffers that are saved with it."""
        kept = self._module.state_dict().keys()
        buffers = {name: each for name, each in self._module.named_buffers() if name in kept}
        learning = {name: each for name, each in self._module.named_parameters() if each.requires_grad}
        return {f"weights/{name}": each.detach() for name, each in {**learning, **buffers}.items()}

    def _learning(self, optimizer: torch.optim.Optimizer) -> dict[str, torch.nn.Parameter]:
        taken = {id(each) for group in optimizer.param_groups for each in group["params"]}
        return {name: each for name, each in self._module.named_parameters() if id(each) in taken}


def random_states() -> dict[str, Any]:
    """The states of all random numbers of this process."""
    algorithm, keys, *place = numpy.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (algorithm, keys.tolist(), *place),  # type: ignore[union-attr]  # it is an array with legacy=True
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Take over what `random_states` gave."""
    random.setstate(states["python"])
    numpy.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _empty(stored: TensorStorageMetadata, parameter: torch.nn.Parameter) -> torch.Tensor:
    """Room for a moment: one of the parameter's shape is divided among the workers as the parameter is."""
    dtype = stored.properties.dtype
    if stored.size == parameter.shape:
        return torch.zeros_like(parameter.detach(), dtype=dtype)
    return torch.zeros(stored.size, dtype=dtype, device=parameter.device)


@contextmanager
def _process_group() -> Iterator[bool]:
    """Tell whether this process is alone, of which torch warns although it is told."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield not (torch.distributed.is_available() and torch.distributed.is_initialized())
