"""Runs a function in two worker processes, forked from one that has imported the heavy packages."""

from torch import multiprocessing

LOADED = ["plugins.model.qwen_vl", "plugins.optimizer.adamw", "plugins.trainer.sft", "torch.distributed.tensor"]


def together(work, *arguments):
    """Run a function of a rank and arguments in two processes; an error in one of them is raised."""
    multiprocessing.set_forkserver_preload(LOADED)
    multiprocessing.start_processes(work, args=arguments, nprocs=2, start_method="forkserver")
