"""Writes the tensors of a checkpoint with torch's distributed checkpoints, in a thread while the training continues."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

WRITE_TIMEOUT = timedelta(days=1)
"""How long a worker waits for the others to write their parts. A worker that ends breaks the connection at once."""

NOT_DISTRIBUTED = "torch.distributed is disabled"
"""The beginning of torch's warning that a checkpoint is written by one process, which it gives even if told so."""


@contextmanager
def single_error() -> Iterator[None]:
    """Raise the error of the first failed worker in place of torch's exception, which is not an `Exception`."""
    try:
        yield
    except CheckpointException as error:
        cause, _ = next(iter(error.failures.values()))
        raise cause from error


def is_distributed() -> bool:
    """Return whether this process is in a process group."""
    return distributed.is_available() and distributed.is_initialized()


def write_tensors(
    tensors: Mapping[str, torch.Tensor],
    folder: Path,
    threads: int,
    group: distributed.ProcessGroup | None = None,
) -> None:
    """Write tensors as a distributed checkpoint; all workers take part.

    Args:
        tensors: Sharded tensors, and tensors that all workers have, or of which only this worker writes some.
        folder: The folder, which exists.
        threads: Number of threads, each with a file of its own.
        group: The process group of the workers; by default the group of the training.
    """
    writer = FileSystemWriter(folder, thread_count=threads)
    with single_error():
        save(dict(tensors), storage_writer=writer, process_group=group, no_dist=not is_distributed())


class BackgroundWriter:
    """Writes checkpoints in a thread of each worker. The threads have a process group of their own.

    Collective operations of the training and of the threads must not meet in one group: their order would depend on the
    speed of the disk.
    """

    def __init__(self, threads: int) -> None:
        """Start the process group; all workers must take part.

        Args:
            threads: Number of threads that write the parts of a worker.
        """
        # `warnings.catch_warnings` in a thread would change the filters of all threads.
        warnings.filterwarnings("ignore", NOT_DISTRIBUTED)
        self._threads = threads
        self._group = distributed.new_group(backend="gloo", timeout=WRITE_TIMEOUT) if is_distributed() else None
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")

    def stage(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Copy this worker's part of the tensors to the main memory.

        Returns:
            The worker's shards, and its share of the tensors that all workers have.
        """
        part = tensors
        if self._group is not None:
            part = own_part(tensors, distributed.get_rank(self._group), distributed.get_world_size(self._group))
        return BlockingAsyncStager().stage(dict(part))

    def submit(self, staged: dict[str, torch.Tensor], folder: Path, publish: Callable[[], None]) -> Future[None]:
        """Write staged tensors in the thread.

        Args:
            staged: The result of `stage`; emptied as soon as the tensors are written.
            folder: The folder, which exists.
            publish: Called in the thread after all workers have written their parts.
        """

        def write() -> None:
            try:
                write_tensors(staged, folder, self._threads, self._group)
            finally:
                staged.clear()
            publish()

        return self._executor.submit(write)

    def close(self) -> None:
        """Wait for the thread and end the process group of this worker."""
        self._executor.shutdown(wait=True)
        if self._group is not None:
            distributed.destroy_process_group(self._group)
            self._group = None


def own_part(tensors: Mapping[str, torch.Tensor], worker: int, num_workers: int) -> dict[str, torch.Tensor]:
    """Return what a worker writes: its shards, and its share of the tensors that all workers have."""
    names = [name for name, tensor in tensors.items() if not isinstance(tensor, DTensor)]
    owners = dict(zip(names, assign_owners([tensors[name].nbytes for name in names], num_workers), strict=True))
    return {name: tensor for name, tensor in tensors.items() if owners.get(name, worker) == worker}


def assign_owners(sizes: Sequence[int], num_workers: int) -> list[int]:
    """Assign each tensor to the worker with the fewest bytes so far.

    Returns:
        The worker of each tensor. No worker has more than an equal part of all bytes and one tensor.
    """
    loads, owners = [0] * num_workers, []
    for size in sizes:
        owner = min(range(num_workers), key=loads.__getitem__)
        loads[owner] += size
        owners.append(owner)
    return owners
