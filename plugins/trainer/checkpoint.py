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
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from plugins.trainer.training_history import History
from runner.errors import StepError

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
            return f"{told}, where {missing} need {_shown(missing * size)}; {ways}, or lower trainer.save_total_limit"
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
