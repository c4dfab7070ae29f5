"""Training checkpoints that load on any number of workers, written atomically."""

from __future__ import annotations

import random
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from plugins.trainer.checkpoint_reader import CheckpointReader
from plugins.trainer.training_history_and_warnings import TrainingHistory
from runner.errors import LostWorkerError, OutOfMemoryError, StepError, step_error_class
from runner.files import sync_file, sync_folder

T = TypeVar("T")


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
        with _single_error(), _no_distributed() as no_dist:
            save(tensors, checkpoint_id=folder, no_dist=no_dist)

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
    with _single_error(), _no_distributed() as no_dist:
        load(tensors, storage_reader=reader, no_dist=no_dist)


@contextmanager
def _no_distributed() -> Iterator[bool]:
    """Yield whether this process is in no process group; torch would warn about that although it is passed on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield not (torch.distributed.is_available() and torch.distributed.is_initialized())


@contextmanager
def _single_error() -> Iterator[None]:
    """Raise the error of the first failed worker in place of torch's exception, which is not an `Exception`."""
    try:
        yield
    except CheckpointException as error:
        cause, _ = next(iter(error.failures.values()))
        raise cause from error


def _describe(error: BaseException) -> str:
    """Describe an error. Torch hides an error of the disk behind one of its own, so that the disk's error is shown."""
    shown, cause = error, error.__cause__ or error.__context__
    while cause is not None and not isinstance(shown, OSError):
        shown, cause = (cause if isinstance(cause, OSError) else shown), cause.__cause__ or cause.__context__
    lines = str(shown).splitlines()
    return f"{type(shown).__name__}: {lines[0]}" if lines else type(shown).__name__


def _write_synced(value: Any, file: Path) -> None:
    """Write a value for `torch.load`; the content is on the disk when this returns."""
    with file.open("wb") as opened:
        torch.save(value, opened)
        sync_file(opened)


_FOLDER_NAME = re.compile(r"step-(\d{8})")

BYTES_PER_WEIGHT = 12
"""Bytes of a checkpoint for each trainable weight: the weight and two moments of AdamW in float32. Muon keeps one."""


class Checkpoints:
    """The checkpoints of one training, in a folder that all workers share.

    Each checkpoint is a folder with the tensors of a `TrainingState`, `course.pt` with learning rates, history and
    number of workers, and `random-<worker>.pt`. The position in the data follows from the step in the folder's name.
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
        self._damaged: set[int] = set()

    def restore(self, warn: Callable[[str], None], *, keep_best: bool = False) -> int:
        """Load the newest checkpoint that can be read; damaged ones are kept until the next one is written.

        A worker that did not take part in writing it keeps its current random number states.

        Args:
            warn: Called with a message for each damaged checkpoint.
            keep_best: Whether the weights of the best step will be needed. A checkpoint counts as damaged if its best
                step was saved in another checkpoint that cannot be read, so that the training repeats this step.

        Returns:
            The optimizer steps done at that checkpoint; 0 if there is no checkpoint.

        Raises:
            StepError: There are checkpoints, but none can be read.
            OutOfMemoryError: There is not enough memory to read a checkpoint.
            LostWorkerError: The GPU of a worker failed, which says nothing about the checkpoint.
        """
        saved = self._saved()
        problems = []
        for step in sorted(saved, reverse=True):
            try:
                self._load(step, keep_best=keep_best)
            except (OutOfMemoryError, LostWorkerError):
                raise
            except StepError as error:
                self._damaged.add(step)
                problems.append(f"the checkpoint {saved[step]} is damaged ({error})")
            else:
                for problem in problems:
                    warn(f"{problem}; the training continues from the checkpoint after step {step}")
                return step
        if problems:
            raise StepError(
                f"{problems[0]}, and {self._folder} has no other checkpoint that can be read; restore the folder from "
                "a copy, or remove it and launch again, which trains from the beginning"
            )
        return 0

    def restore_weights(self, step: int) -> None:
        """Load only the weights of the checkpoint after a step.

        Raises:
            StepError: They cannot be read.
        """
        folder = self._path(step)
        try:
            self._on_all_workers(lambda: self._state.read_weights(folder))
        except (OutOfMemoryError, LostWorkerError):
            raise
        except StepError as error:
            raise StepError(
                f"the checkpoint {folder}, which has the best weights, is damaged ({error}); launch again, which "
                "repeats the training from an earlier checkpoint"
            ) from error

    def save(self, step: int, best_step: int | None = None) -> None:
        """Write the state after a step, and delete outdated checkpoints.

        Args:
            step: Optimizer steps done.
            best_step: A step whose checkpoint is kept whatever its age.

        Raises:
            StepError: The checkpoint could not be written. Earlier ones are unchanged.
        """
        if step in self._saved() and step not in self._damaged:
            return
        target = self._path(step)
        unfinished = target.with_name(f".{target.name}")
        try:
            self._on_all_workers(lambda: self._clear(unfinished))
            self._on_all_workers(lambda: self._write_local_files(unfinished))
            self._on_all_workers(lambda: self._state.write(unfinished))
            self._on_all_workers(lambda: self._publish(unfinished, target, best_step))
        except (OutOfMemoryError, LostWorkerError):
            raise
        except StepError as error:
            raise StepError(self._describe_failed_write(step, error, unfinished)) from error
        self._damaged.clear()

    def check_disk_space(self, *, keep_best: bool, encoded: Callable[[], tuple[Path, int]] | None = None) -> str | None:
        """Estimate whether the disk has room for all checkpoints to be kept, and for encoded samples.

        One more is counted, as the oldest is deleted after the newest is written. Existing ones are subtracted.

        Args:
            keep_best: Whether the best checkpoint is kept beside the newest ones.
            encoded: Returns the folder of encoded samples, and the bytes that the training will write there; they
                count if this is the disk of the checkpoints. None if it writes none.

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
        num_missing = max(0, self._limit + 1 + keep_best - num_saved)
        samples = self._bytes_on_same_disk(encoded)
        if num_missing * size + samples <= free:
            return None
        needs = f"{num_missing} checkpoints need {_gigabytes(num_missing * size)}"
        if samples:
            needs += f" and the encoded samples about {_gigabytes(samples)}"
        return f"{problem}, but {needs}; {remedy}, or lower trainer.save_total_limit"

    def _bytes_on_same_disk(self, encoded: Callable[[], tuple[Path, int]] | None) -> int:
        if encoded is None:
            return 0
        folder, size = encoded()
        return size if folder.stat().st_dev == self._folder.stat().st_dev else 0

    def _load(self, step: int, *, keep_best: bool) -> None:
        """Load a checkpoint. All workers have read their own files before the first tensor is exchanged."""
        folder = self._path(step)
        course, states, metadata = self._on_all_workers(lambda: self._read_local_files(folder))
        self._history.restore(course["history"])
        best_step = self._history.best_step() if keep_best else None
        if best_step is not None and best_step != step:
            best = self._path(best_step)
            try:
                self._on_all_workers(lambda: self._state.read_weights(best))
            except (OutOfMemoryError, LostWorkerError):
                raise
            except StepError as error:
                raise StepError(f"{best.name}, which has the best weights, cannot be read: {error}") from error
        self._on_all_workers(lambda: self._state.read(folder, metadata))
        self._state.load_lr_state(course["rates"])
        if states is not None:
            set_rng_states(states)

    def _read_local_files(self, folder: Path) -> tuple[dict[str, Any], dict[str, Any] | None, Metadata]:
        course = torch.load(folder / "course.pt", weights_only=True)
        takes_part = self._accelerator.process_index < course["workers"]
        states = torch.load(self._rng_file(folder), weights_only=True) if takes_part else None
        return course, states, read_metadata(folder)

    def _clear(self, unfinished: Path) -> None:
        if self._accelerator.is_main_process:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)

    def _write_local_files(self, unfinished: Path) -> None:
        _write_synced(rng_states(), self._rng_file(unfinished))
        if self._accelerator.is_main_process:
            course = {
                "rates": self._state.lr_state(),
                "history": self._history.state(),
                "workers": self._accelerator.num_processes,
            }
            _write_synced(course, unfinished / "course.pt")

    def _publish(self, unfinished: Path, target: Path, best_step: int | None) -> None:
        """Rename a complete checkpoint into place, and delete outdated and damaged ones."""
        if self._accelerator.is_main_process:
            sync_folder(unfinished)
            if target.exists():
                self._remove(target)  # A damaged checkpoint of the same step.
            unfinished.rename(target)
            sync_folder(self._folder)
            self._prune(int(target.name.removeprefix("step-")), best_step)

    def _describe_failed_write(self, step: int, error: StepError, unfinished: Path) -> str:
        size, free = self._state.num_trainable() * BYTES_PER_WEIGHT, shutil.disk_usage(self._folder).free
        if self._accelerator.is_main_process:
            shutil.rmtree(unfinished, ignore_errors=True)
        intact = self._saved().keys() - self._damaged
        resume = f"continues from the checkpoint after step {max(intact)}" if intact else "trains from the beginning"
        return (
            f"the checkpoint after step {step} could not be written to {self._folder} ({error}): its disk has "
            f"{_gigabytes(free)} free, and a checkpoint takes about {_gigabytes(size)}; free disk space and launch "
            f"again, which {resume}"
        )

    def _on_all_workers(self, work: Callable[[], T]) -> T:
        """Call a function on all workers, and wait until it has ended on each.

        Raises:
            StepError: It has failed on a worker; raised on all of them, with the error of the first.
            OutOfMemoryError: A worker did not have enough memory for it.
            LostWorkerError: The GPU of a worker failed.
        """
        result, failure = None, None
        try:
            result = work()
        except Exception as error:  # torch raises exceptions of many kinds for a damaged file
            failure = step_error_class(error), _describe(error)
        failures = [each for each in gather_object([failure]) if each is not None]
        if failures:
            error_class, reason = failures[0]
            raise error_class(reason)
        return result  # type: ignore[return-value]

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step:08d}"

    def _rng_file(self, folder: Path) -> Path:
        return folder / f"random-{self._accelerator.process_index}.pt"

    def _saved(self) -> Mapping[int, Path]:
        """Return the checkpoints by step, damaged ones included."""
        folders = self._folder.glob("step-*")
        return {int(match[1]): folder for folder in folders if (match := _FOLDER_NAME.fullmatch(folder.name))}

    def _prune(self, newest: int, best_step: int | None) -> None:
        saved = self._saved()
        intact = sorted(step for step in saved if step == newest or step not in self._damaged)
        kept = {*intact[-self._limit :], best_step}
        for step in saved.keys() - kept:
            self._remove(saved[step])
        for abandoned in self._folder.glob(".step-*"):
            shutil.rmtree(abandoned)

    def _remove(self, checkpoint: Path) -> None:
        """Delete a checkpoint. Its name changes first, so that a kill leaves no part of one under that name."""
        abandoned = checkpoint.with_name(f".{checkpoint.name}.removed")
        shutil.rmtree(abandoned, ignore_errors=True)
        checkpoint.rename(abandoned)
        shutil.rmtree(abandoned)


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.3g} GB"
