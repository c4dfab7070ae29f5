"""Runs a function in two or more worker processes, forked from one that has imported the heavy packages."""

from torch import multiprocessing

LOADED = ["plugins.model.qwen_vl", "plugins.optimizer.adamw", "plugins.trainer.sft", "torch.distributed.tensor"]


def together(work, *arguments, num_workers=2):
    """Run a function of a rank and arguments in several processes; an error in one of them is raised."""
    multiprocessing.set_forkserver_preload(LOADED)
    multiprocessing.start_processes(work, args=arguments, nprocs=num_workers, start_method="forkserver")
