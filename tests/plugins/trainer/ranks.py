"""Runs a function in two or more worker processes, forked from one that has imported the heavy packages."""

import faulthandler

from torch import multiprocessing

LOADED = ["plugins.model.qwen_vl", "plugins.optimizer.adamw", "plugins.trainer.sft", "torch.distributed.tensor"]


def together(work, *arguments, num_workers=2):
    """Run a function of a rank and arguments in several processes; an error in one of them is raised."""
    multiprocessing.set_forkserver_preload(LOADED)
    multiprocessing.start_processes(
        _with_traces, args=(work, *arguments), nprocs=num_workers, start_method="forkserver"
    )


def _with_traces(rank, work, *arguments):
    """Run the function of a rank; if the process crashes, the stacks of its threads go to standard error."""
    faulthandler.enable()
    work(rank, *arguments)
