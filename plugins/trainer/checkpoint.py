"""Training checkpoints that load on any number of workers, written atomically."""

from __future__ import annotations

import random
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import torch
from accelerate import Accelerator
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from plugins.trainer.checkpoint_reader import METADATA, CheckpointReader
from plugins.trainer.training_history_and_warnings import TrainingHistory
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

    def write(self, folder: Path) -> None:
        """Write the tensors; all workers take part."""
        tensors = self._weights()
        for optimizer in self._optimizers:
            for name, parameter in self._named_parameters(optimizer).items():
                moments = optimizer.state.get(parameter, {})
                tensors |= {f"moments/{name}/{entry}": tensor for entry, tensor in moments.items()}
        with _no_distributed() as no_dist:
            save(tensors, checkpoint_id=folder, no_dist=no_dist)

    def read(self, folder: Path) -> None:
        """Load the tensors of a folder; all workers take part.

        Raises:
            StepError: The folder is not a checkpoint of this training; see `CheckpointReader`.
        """
        metadata = CheckpointReader(folder).read_metadata().state_dict_metadata
        tensors = self._weights()
        for optimizer in self._optimizers:
            optimizer.state.clear()
            for name, parameter in self._named_parameters(optimizer).items():
                prefix = f"moments/{name}/"
                for key, stored in metadata.items():
                    if key.startswith(prefix):
                        assert isinstance(stored, TensorStorageMetadata)
                        if stored.size.numel() > parameter.numel():
                            raise StepError(f"{folder}: {key} is larger than its parameter; delete this checkpoint")
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
    with _no_distributed() as no_dist:
        load(tensors, storage_reader=reader, no_dist=no_dist)


@contextmanager
def _no_distributed() -> Iterator[bool]:
    """Yield whether this process is in no process group; torch would warn about that although it is passed on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield not (torch.distributed.is_available() and torch.distributed.is_initialized())


_FOLDER_NAME = re.compile(r"step-(\d{8})")

BYTES_PER_WEIGHT = 12
"""Bytes of a checkpoint for each trainable weight: the weight and two moments of AdamW in float32. Muon keeps one."""


class Checkpoints:
    """The checkpoints of one training, in a folder that all workers share.

    Each checkpoint is a folder with the tensors of a `TrainingState`, `course.pt` with learning rates and history, and
    `random-<worker>.pt`. The position in the data follows from the step in the folder's name.
    """

    def __init__(
        self, folder: Path, limit: int, accelerator: Accelerator, state: TrainingState, history: TrainingHistory
    ) -> None:
        """Take the folder and what to save and restore.

        Args:
            folder: The folder of the checkpoints.
            limit: Number of newest checkpoints to keep.
            accelerator: The accelerator of this worker.
            state: Weights, optimizer states and learning rates.
            history: Validation metrics and counts.
        """
        self._folder, self._limit = folder, limit
        self._accelerator, self._state, self._history = accelerator, state, history

    def restore(self) -> int:
        """Load the newest checkpoint.

        A worker that did not take part in writing it keeps its current random number states.

        Returns:
            The optimizer steps done at that checkpoint; 0 if there is no checkpoint.
        """
        saved = self._saved()
        if not saved:
            return 0
        newest = max(saved)
        self._state.read(saved[newest])
        course = torch.load(saved[newest] / "course.pt", weights_only=True)
        self._state.load_lr_state(course["rates"])
        self._history.restore(course["history"])
        if self._rng_file(saved[newest]).exists():
            set_rng_states(torch.load(self._rng_file(saved[newest]), weights_only=True))
        return newest

    def restore_weights(self, step: int) -> None:
        """Load only the weights of the checkpoint after a step."""
        self._state.read_weights(self._saved()[step])

    def save(self, step: int, best_step: int | None = None) -> None:
        """Write the state after a step, and delete outdated checkpoints.

        Args:
            step: Optimizer steps done.
            best_step: A step whose checkpoint is kept whatever its age.
        """
        if step in self._saved():
            return
        target = self._folder / f"step-{step:08d}"
        unfinished = target.with_name(f".{target.name}")
        if self._accelerator.is_main_process:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
        self._accelerator.wait_for_everyone()
        torch.save(rng_states(), self._rng_file(unfinished))
        if self._accelerator.is_main_process:
            torch.save({"rates": self._state.lr_state(), "history": self._history.state()}, unfinished / "course.pt")
        self._state.write(unfinished)
        self._accelerator.wait_for_everyone()
        if self._accelerator.is_main_process:
            # A folder without its tensors, left by a kill, is no checkpoint and would be in the way.
            shutil.rmtree(target, ignore_errors=True)
            unfinished.rename(target)
            self._prune(best_step)
        self._accelerator.wait_for_everyone()

    def check_disk_space(self, *, keep_best: bool) -> str | None:
        """Estimate whether the disk has room for all checkpoints to be kept.

        One more is counted, as the oldest is deleted after the newest is written. Existing ones are subtracted.

        Args:
            keep_best: Whether the best checkpoint is kept beside the newest ones.

        Returns:
            A warning with required and free space; None if there is enough room.

        Raises:
            StepError: There is no room for a single checkpoint.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        size, free = self._state.num_trainable() * BYTES_PER_WEIGHT, shutil.disk_usage(self._folder).free
        num_saved = len(self._saved())
        problem = f"a checkpoint takes about {_gigabytes(size)}, and {self._folder} has {_gigabytes(free)} free"
        remedy = "set another compute.storage, or train fewer weights (frozen, lora)"
        if not num_saved and size > free:
            raise StepError(f"{problem}; {remedy}")
        num_missing = self._limit + 1 + keep_best - num_saved
        if num_missing * size > free:
            return (
                f"{problem}, but {num_missing} checkpoints need {_gigabytes(num_missing * size)}; {remedy}, or lower "
                "trainer.save_total_limit"
            )
        return None

    def _rng_file(self, folder: Path) -> Path:
        return folder / f"random-{self._accelerator.process_index}.pt"

    def _saved(self) -> Mapping[int, Path]:
        """Return the complete checkpoints by step."""
        folders = [file.parent for file in self._folder.glob(f"step-*/{METADATA}")]
        return {int(match[1]): folder for folder in folders if (match := _FOLDER_NAME.fullmatch(folder.name))}

    def _prune(self, best_step: int | None) -> None:
        saved = self._saved()
        for step in sorted(saved)[: -self._limit]:
            if step != best_step:
                shutil.rmtree(saved[step])
        for abandoned in self._folder.glob(".step-*"):
            shutil.rmtree(abandoned)


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.3g} GB"
