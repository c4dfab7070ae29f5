"""Checkpoints that a training continues from: written whole or not at all, the newest few kept."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from accelerate import Accelerator

_NAME = re.compile(r"step-(\d{8})")


class Checkpoints:
    """The checkpoints in a folder that all workers share.

    Each holds what accelerate's `save_state` writes: weights, optimizers, schedules, and the state of each
    worker's random numbers.
    """

    def __init__(self, folder: Path, keep: int, accelerator: Accelerator) -> None:
        """Take the folder, how many to keep, and the accelerator with everything prepared."""
        self._folder = folder
        self._keep = keep
        self._accelerator = accelerator

    def restore(self) -> int:
        """Load the newest checkpoint.

        Returns:
            The optimizer steps that were done then; 0 where there is no checkpoint.
        """
        saved = self._saved()
        if not saved:
            return 0
        newest = max(saved)
        self._accelerator.load_state(str(saved[newest]))
        return newest

    def save(self, step: int) -> None:
        """Write the state after a step, and remove checkpoints that are no longer kept."""
        if step in self._saved():
            return
        target = self._folder / f"step-{step:08d}"
        unfinished = target.with_name(f".{target.name}")
        if self._accelerator.is_main_process:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
        self._accelerator.wait_for_everyone()
        self._accelerator.save_state(str(unfinished))
        self._accelerator.wait_for_everyone()
        if self._accelerator.is_main_process:
            unfinished.rename(target)
            self._prune()
        self._accelerator.wait_for_everyone()

    def _saved(self) -> dict[int, Path]:
        found = self._folder.glob("step-*") if self._folder.is_dir() else ()
        return {int(name[1]): folder for folder in found if (name := _NAME.fullmatch(folder.name))}

    def _prune(self) -> None:
        saved = self._saved()
        for step in sorted(saved)[: -self._keep]:
            shutil.rmtree(saved[step])
        for abandoned in self._folder.glob(".step-*"):
            shutil.rmtree(abandoned)
