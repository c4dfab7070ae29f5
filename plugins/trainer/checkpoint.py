"""Checkpoints that a training continues from, on any number of workers: written whole or not at all."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import Accelerator

from plugins.trainer.history import History
from plugins.trainer.state import METADATA, TrainingState, random_states, set_random_states
from runner.errors import StepError

_NAME = re.compile(r"step-(\d{8})")

BYTES_PER_WEIGHT = 12
"""Of a checkpoint: a weight and two moments of AdamW in float32. Muon keeps one."""


class Checkpoints:
    """The checkpoints in a folder that all workers share.

    Each is a folder with the tensors of a `TrainingState`, `course.pt` with the rates and the history so far,
    and `random-<worker>.pt`. Where in the data a training is follows from the step in the folder's name.
    """

    def __init__(
        self, folder: Path, keep: int, accelerator: Accelerator, state: TrainingState, history: History
    ) -> None:
        """Take the folder, how many of the newest to keep, and what to save and restore."""
        self._folder, self._keep = folder, keep
        self._accelerator, self._state, self._history = accelerator, state, history

    def restore(self) -> int:
        """Load the newest checkpoint.

        A worker that had no part in writing it goes on with the random numbers that it has.

        Returns:
            The optimizer steps that were done then; 0 where there is no checkpoint.
        """
        saved = self._saved()
        if not saved:
            return 0
        newest = max(saved)
        self._state.read(saved[newest])
        course = torch.load(saved[newest] / "course.pt", weights_only=True)
        self._state.set_rates(course["rates"])
        self._history.restore(course["history"])
        if self._random(saved[newest]).exists():
            set_random_states(torch.load(self._random(saved[newest]), weights_only=True))
        return newest

    def restore_weights(self, step: int) -> None:
        """Load the weights of the checkpoint after a step, and nothing else."""
        self._state.read_weights(self._saved()[step])

    def save(self, step: int, best: int | None = None) -> None:
        """Write the state after a step, and remove checkpoints that are no longer kept.

        Args:
            step: Optimizer steps done.
            best: A step whose checkpoint is kept whatever its age.
        """
        if step in self._saved():
            return
        target = self._folder / f"step-{step:08d}"
        unfinished = target.with_name(f".{target.name}")
        if self._accelerator.is_main_process:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
        self._accelerator.wait_for_everyone()
        torch.save(random_states(), self._random(unfinished))
        if self._accelerator.is_main_process:
            torch.save({"rates": self._state.rates(), "history": self._history.state()}, unfinished / "course.pt")
        self._state.write(unfinished)
        self._accelerator.wait_for_everyone()
        if self._accelerator.is_main_process:
            # One that a kill left without its tensors is no checkpoint, and would be in the way.
            shutil.rmtree(target, ignore_errors=True)
            unfinished.rename(target)
            self._prune(best)
        self._accelerator.wait_for_everyone()

    def room(self, *, best: bool) -> str | None:
        """Estimate whether the disk holds the checkpoints that are to be kept.

        One more is counted, as the oldest goes after the newest is written; those that are there already are not.

        Args:
            best: Whether the best one is kept beside the newest.

        Returns:
            What to warn of, with both figures; None where there is room.

        Raises:
            StepError: Not even one fits.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        size, free = self._state.num_learning() * BYTES_PER_WEIGHT, shutil.disk_usage(self._folder).free
        saved = len(self._saved())
        told = f"a checkpoint takes about {_shown(size)}, and {self._folder} has {_shown(free)} free"
        ways = "name another compute.storage, or let fewer weights learn (frozen, lora)"
        if not saved and size > free:
            raise StepError(f"{told}; {ways}")
        missing = self._keep + 1 + best - saved
        if missing * size > free:
            return f"{told}, where {missing} need {_shown(missing * size)}; {ways}, or lower trainer.keep_checkpoints"
        return None

    def _random(self, folder: Path) -> Path:
        return folder / f"random-{self._accelerator.process_index}.pt"

    def _saved(self) -> Mapping[int, Path]:
        found = [folder.parent for folder in self._folder.glob(f"step-*/{METADATA}")]
        return {int(name[1]): folder for folder in found if (name := _NAME.fullmatch(folder.name))}

    def _prune(self, best: int | None) -> None:
        saved = self._saved()
        for step in sorted(saved)[: -self._keep]:
            if step != best:
                shutil.rmtree(saved[step])
        for abandoned in self._folder.glob(".step-*"):
            shutil.rmtree(abandoned)


def _shown(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.3g} GB"
