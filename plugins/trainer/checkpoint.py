"""Training checkpoints that load on any number of workers, written atomically."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.distributed.checkpoint.metadata import Metadata

from plugins.trainer.checkpoint_writer import BackgroundWriter
from plugins.trainer.training_history_and_warnings import TrainingHistory
from plugins.trainer.training_state import TrainingState, read_metadata, rng_states, set_rng_states
from runner.errors import LostWorkerError, OutOfMemoryError, StepError, step_error_class
from runner.files import sync_file, sync_folder

T = TypeVar("T")


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


@dataclass(frozen=True)
class _PendingWrite:
    """A checkpoint that a thread writes: its step, its folder until it is complete, and the result of the thread."""

    step: int
    unfinished: Path
    done: Future[None]


class Checkpoints:
    """The checkpoints of one training, in a folder that all workers share.

    Each checkpoint is a folder with the tensors of a `TrainingState`, `course.pt` with learning rates, history and
    number of workers, and `random-<worker>.pt`. The position in the data follows from the step in the folder's name.
    """

    def __init__(
        self,
        folder: Path,
        limit: int,
        accelerator: Accelerator,
        state: TrainingState,
        history: TrainingHistory,
        *,
        threads: int = 1,
        is_async: bool = False,
    ) -> None:
        """Take the folder and what to save and restore. All workers must take part if `is_async` is set.

        Args:
            folder: The folder of the checkpoints.
            limit: Number of newest checkpoints to keep.
            accelerator: The accelerator of this worker.
            state: Weights, optimizer states and learning rates.
            history: Validation metrics and counts.
            threads: Number of threads with which each worker writes its tensors.
            is_async: Whether the training continues while a checkpoint is written; `close` then ends the thread.
        """
        self._folder, self._limit = folder, limit
        self._threads = threads
        self._background = BackgroundWriter(threads) if is_async else None
        self._pending: _PendingWrite | None = None
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

        With a background writer, the state is copied, and written after this returns; see `wait`.

        Args:
            step: Optimizer steps done.
            best_step: A step whose checkpoint is kept whatever its age.

        Raises:
            StepError: This checkpoint, or the one before, could not be written. Earlier ones are unchanged.
        """
        self.wait()
        if step in self._saved() and step not in self._damaged:
            return
        target = self._path(step)
        unfinished = target.with_name(f".{target.name}")
        with self._described_failure(step, unfinished):
            self._on_all_workers(lambda: self._clear(unfinished))
            self._on_all_workers(lambda: self._write_local_files(unfinished))
            background = self._background
            if background is None:
                self._on_all_workers(lambda: self._state.write(unfinished, self._threads))
                self._on_all_workers(lambda: self._publish(unfinished, target, best_step))
                self._damaged.clear()
            else:
                staged = self._on_all_workers(lambda: background.stage(self._state.tensors()))
                done = background.submit(staged, unfinished, lambda: self._publish(unfinished, target, best_step))
                self._pending = _PendingWrite(step, unfinished, done)

    def wait(self) -> None:
        """Wait until the checkpoint of the last `save` is complete; all workers must take part.

        Raises:
            StepError: The checkpoint could not be written. Earlier ones are unchanged.
        """
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        with self._described_failure(pending.step, pending.unfinished):
            self._on_all_workers(pending.done.result)
        self._damaged.clear()

    def close(self) -> None:
        """End the thread of the background writer. A checkpoint that it writes is completed if it can be."""
        if self._background is not None:
            self._background.close()

    @contextmanager
    def _described_failure(self, step: int, unfinished: Path) -> Iterator[None]:
        """Describe the error of a checkpoint that cannot be written, and how the training can continue."""
        try:
            yield
        except (OutOfMemoryError, LostWorkerError):
            raise
        except StepError as error:
            raise StepError(self._describe_failed_write(step, error, unfinished)) from error

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
        best_step = self._on_all_workers(lambda: self._restore_history(course, keep_best=keep_best))
        if best_step is not None and best_step != step:
            best = self._path(best_step)
            try:
                self._on_all_workers(lambda: self._state.read_weights(best))
            except (OutOfMemoryError, LostWorkerError):
                raise
            except StepError as error:
                raise StepError(f"{best.name}, which has the best weights, cannot be read: {error}") from error
        self._on_all_workers(lambda: self._state.read(folder, metadata))
        self._on_all_workers(lambda: self._restore_rates_and_rng(course, states))

    def _restore_history(self, course: dict[str, Any], *, keep_best: bool) -> int | None:
        """Restore the history, and return its best step; None if that is not needed."""
        self._history.restore(course["history"])
        return self._history.best_step() if keep_best else None

    def _restore_rates_and_rng(self, course: dict[str, Any], states: dict[str, Any] | None) -> None:
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
