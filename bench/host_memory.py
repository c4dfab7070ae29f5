"""Measures the main memory of workers while they load a checkpoint, train and save, on the CPU.

    python bench/host_memory.py                               two and four workers, two procedures: about five minutes
    python bench/host_memory.py --workers 2 --shape small     a small model, half a minute

The workers form a process group with gloo and share the weights with FSDP2. The checkpoint has 540 million random
weights in bfloat16. The procedures:

- `mapped`: that of the trainer `sft`. The weights stay mapped from the files until they are sharded; at the end the
  first worker gathers the weights in bfloat16.
- `copies`: each worker loads a copy in float32, which accelerate shards; at the end the optimizer states stay, and the
  first worker gathers the weights in float32.

Prints a JSON document. For each phase it has the peak of the sum over the workers, in gigabytes: `pss_gb`, in which
shared pages count once, and `own_gb`, without pages of files, which the kernel can free. The ratios compare `mapped`
with `copies`. Both procedures save the same weights: the SHA-256 of the files shows it.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from process_memory import Sample, peak_between, read_memory
from random_checkpoint import MEDIUM, SMALL, make_config, write_model
from torch import distributed
from transformers import AutoModelForImageTextToText

from plugins.optimizer.adamw import AdamWOptimizer
from plugins.optimizer.optimizer_options import AdamWOptions
from plugins.trainer.accelerator_and_sharding import (
    Sharding,
    gather_weights,
    layer_classes,
    make_accelerator,
    shard_and_convert,
)
from plugins.trainer.loss import AnswerLoss

MAPPED, COPIES = "mapped", "copies"
PHASES = ("start", "load", "train", "save")
SPECIAL = {
    "image_token_id": 0,
    "video_token_id": 1,
    "vision_start_token_id": 2,
    "vision_end_token_id": 3,
    "bos_token_id": 4,
    "eos_token_id": 4,
}
SECONDS_BETWEEN_SAMPLES = 0.02
RETURN_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
"""With a fixed threshold, the C library returns the memory of a freed tensor to the kernel at once."""


def run_worker(rank: int, num_workers: int, procedure: str, checkpoint: Path, folder: Path) -> None:
    """Load, train one step with gradients of zero, and save, as one worker of a group."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(num_workers), MASTER_PORT="0")
    os.environ["MASTER_ADDR"] = "localhost"
    distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=num_workers)

    def begin(phase: str) -> None:
        distributed.barrier()
        if rank == 0:
            (folder / phase).write_text(str(time.time()))
        distributed.barrier()

    begin("load")
    is_mapped = procedure == MAPPED
    dtype = torch.bfloat16 if is_mapped else torch.float32
    module = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=dtype)
    optimizer = AdamWOptimizer(AdamWOptions(groups={"all": {"match": "*", "lr": 1e-3}}))
    optimizer.prepare(module, 0)
    accelerator, loss = make_accelerator("bf16", Sharding(tuple(layer_classes(module)))), AnswerLoss(module)
    if is_mapped:
        shard_and_convert(accelerator, loss)
        [adamw] = [accelerator.prepare_optimizer(each.optimizer) for each in optimizer.build(module, 2)]
    else:
        loss, adamw = accelerator.prepare(loss, optimizer.build(module, 2)[0].optimizer)
    begin("train")
    for group in adamw.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    adamw.step()
    adamw.zero_grad()
    if is_mapped:
        adamw.optimizer.state.clear()
    begin("save")
    gather_weights(module, keep=rank == 0, dtype=torch.bfloat16 if is_mapped else torch.float32)
    accelerator.wait_for_everyone()
    accelerator.free_memory()
    if is_mapped:
        del adamw, loss
        gc.collect()
    if rank == 0:
        weights = {name: weight.to(torch.bfloat16) for name, weight in module.state_dict().items()}
        module.save_pretrained(folder / "model", state_dict=weights)
    begin("end")
    distributed.destroy_process_group()


def measure(num_workers: int, procedure: str, checkpoint: Path) -> dict[str, Any]:
    """Run a group of workers, and return the peaks of its phases."""
    with tempfile.TemporaryDirectory() as name:
        folder, start = Path(name), time.time()
        command = [sys.executable, __file__, "--procedure", procedure, "--workers", str(num_workers)]
        command += ["--checkpoint", str(checkpoint), "--folder", name]
        environment = {**os.environ, **RETURN_FREED_MEMORY}
        workers = [subprocess.Popen([*command, "--rank", str(rank)], env=environment) for rank in range(num_workers)]
        samples: list[Sample] = []
        while any(worker.poll() is None for worker in workers):
            samples.append(read_memory(worker.pid for worker in workers))
            time.sleep(SECONDS_BETWEEN_SAMPLES)
        if any(worker.returncode for worker in workers):
            sys.exit(f"{procedure}, {num_workers} workers: a worker failed")
        times = [start, *(float((folder / phase).read_text()) for phase in (*PHASES[1:], "end"))]
        digest = hashlib.sha256()
        for file in sorted((folder / "model").glob("*.safetensors")):
            digest.update(file.read_bytes())
    phases = zip(PHASES, times, times[1:], strict=False)
    peaks = {phase: peak_between(samples, begin, end) for phase, begin, end in phases}
    return {**peaks, "sha256": digest.hexdigest()[:12]}


def compare(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the ratio of the peaks of `mapped` to those of `copies`, by phase and kind."""
    return {
        phase: {kind: round(results[MAPPED][phase][kind] / results[COPIES][phase][kind], 2) for kind in kinds}
        for phase, kinds in ((phase, ("pss_gb", "own_gb")) for phase in PHASES[1:])
    }


def measure_all(groups: Sequence[int], shape: str) -> dict[str, Any]:
    """Measure both procedures with each number of workers."""
    with tempfile.TemporaryDirectory() as name:
        config = make_config(shape, 151_936 if shape == MEDIUM else 2_000, SPECIAL)
        config.tie_word_embeddings = False  # accelerate alone would untie the weights, and save both
        num_weights = write_model(Path(name), config, seed=0)
        report: dict[str, Any] = {"num_weights": num_weights, "checkpoint_gb": round(2 * num_weights / 1e9, 2)}
        for num_workers in groups:
            results = {procedure: measure(num_workers, procedure, Path(name)) for procedure in (COPIES, MAPPED)}
            if len({result["sha256"] for result in results.values()}) > 1:
                sys.exit(f"{num_workers} workers: the procedures saved different weights")
            report[f"{num_workers} workers"] = {**results, "ratios": compare(results)}
    return report


def main() -> None:
    """Measure and print; or, with `--rank`, be one worker."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--shape", choices=(MEDIUM, SMALL), default=MEDIUM)
    for internal in ("--rank", "--procedure", "--checkpoint", "--folder"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank is None:
        print(json.dumps(measure_all(arguments.workers, arguments.shape), indent=2))
    else:
        places = Path(arguments.checkpoint), Path(arguments.folder)
        run_worker(int(arguments.rank), arguments.workers[0], arguments.procedure, *places)


if __name__ == "__main__":
    main()
