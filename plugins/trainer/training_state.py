"""Everything that a training changes: weights, optimizer states, learning rates and random numbers."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import torch
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from plugins.trainer.checkpoint_reader import CheckpointReader
from plugins.trainer.checkpoint_writer import NOT_DISTRIBUTED, is_distributed, single_error, write_tensors
from runner.errors import StepError


class TrainingState:
    """The trainable weights, their optimizer states and the learning-rate schedules.

    Tensors are saved as `weights/<parameter>` and `moments/<parameter>/<entry>`, whole or as each worker's shard;
    torch's distributed checkpoints reassemble them on loading. Frozen weights are not saved, as the model is built
    with them again.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        schedules: Sequence[torch.optim.lr_scheduler.LRScheduler],
    ) -> None:
        """Take module, optimizers and schedules, after accelerate has wrapped them."""
        self._module, self._optimizers, self._schedules = module, optimizers, schedules

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors to write: whole, or this worker's shards."""
        tensors = self._weights()
        for optimizer in self._optimizers:
            for name, parameter in self._named_parameters(optimizer).items():
                moments = optimizer.state.get(parameter, {})
                tensors |= {f"moments/{name}/{entry}": tensor for entry, tensor in moments.items()}
        return tensors

    def write(self, folder: Path, threads: int = 1) -> None:
        """Write the tensors; all workers take part.

        Args:
            folder: The folder, which exists.
            threads: Number of threads of each worker that write.
        """
        with _no_warning():
            write_tensors(self.tensors(), folder, threads)

    def read(self, folder: Path, metadata: Metadata | None = None) -> None:
        """Load the tensors of a folder; all workers take part.

        Args:
            folder: The folder.
            metadata: What `read_metadata` returned for this folder; by default read here.

        Raises:
            StepError: The folder is not a checkpoint of this training; see `CheckpointReader`.
        """
        stored_tensors = (metadata or read_metadata(folder)).state_dict_metadata
        tensors = self._weights()
        for optimizer in self._optimizers:
            optimizer.state.clear()
            for name, parameter in self._named_parameters(optimizer).items():
                prefix = f"moments/{name}/"
                for key, stored in stored_tensors.items():
                    if key.startswith(prefix):
                        assert isinstance(stored, TensorStorageMetadata)
                        if stored.size.numel() > parameter.numel():
                            raise StepError(f"{folder}: {key} is larger than its parameter")
                        tensors[key] = _empty_moment(stored, parameter)
                        optimizer.state[parameter][key.removeprefix(prefix)] = tensors[key]
        _load(tensors, folder)

    def read_weights(self, folder: Path) -> None:
        """Load only the weights of a folder; all workers take part.

        Raises:
            StepError: The folder is not a checkpoint of this training; see `CheckpointReader`.
        """
        _load(self._weights(), folder)

    def lr_state(self) -> dict[str, Any]:
        """Return the states of the schedules and the current learning rates, the same on all workers."""
        return {
            "schedules": [schedule.state_dict() for schedule in self._schedules],
            "lr": [[group["lr"] for group in optimizer.param_groups] for optimizer in self._optimizers],
        }

    def load_lr_state(self, state: dict[str, Any]) -> None:
        """Load the result of `lr_state`."""
        for schedule, schedule_state in zip(self._schedules, state["schedules"], strict=True):
            schedule.load_state_dict(schedule_state)
        for optimizer, rates in zip(self._optimizers, state["lr"], strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate

    def num_trainable(self) -> int:
        """Count the trainable weights over all workers."""
        return sum(parameter.numel() for parameter in self._module.parameters() if parameter.requires_grad)

    def _weights(self) -> dict[str, torch.Tensor]:
        """Return the trainable parameters and the persistent buffers."""
        persistent = self._module.state_dict().keys()
        buffers = {name: buffer for name, buffer in self._module.named_buffers() if name in persistent}
        trainable = {name: each for name, each in self._module.named_parameters() if each.requires_grad}
        return {f"weights/{name}": tensor.detach() for name, tensor in {**trainable, **buffers}.items()}

    def _named_parameters(self, optimizer: torch.optim.Optimizer) -> dict[str, torch.nn.Parameter]:
        ids = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        return {name: parameter for name, parameter in self._module.named_parameters() if id(parameter) in ids}


def read_metadata(folder: Path) -> Metadata:
    """Read which tensors a folder holds; see `CheckpointReader`."""
    return CheckpointReader(folder).read_metadata()


def rng_states() -> dict[str, Any]:
    """Return the states of all random number generators of this process."""
    algorithm, keys, *position = numpy.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (algorithm, keys.tolist(), *position),  # type: ignore[union-attr]  # it is an array with legacy=True
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_rng_states(states: dict[str, Any]) -> None:
    """Restore the result of `rng_states`."""
    random.setstate(states["python"])
    numpy.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _empty_moment(stored: TensorStorageMetadata, parameter: torch.nn.Parameter) -> torch.Tensor:
    """Allocate an optimizer state tensor; one of the parameter's shape is sharded like the parameter."""
    dtype = stored.properties.dtype
    if stored.size == parameter.shape:
        return torch.zeros_like(parameter.detach(), dtype=dtype)
    return torch.zeros(stored.size, dtype=dtype, device=parameter.device)


def _load(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    reader = CheckpointReader(folder)
    reader.read_metadata()  # torch would raise its errors as an error of its own
    with single_error(), _no_warning():
        load(tensors, storage_reader=reader, no_dist=not is_distributed())


@contextmanager
def _no_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", NOT_DISTRIBUTED)
        yield
