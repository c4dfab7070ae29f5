"""Groups of workers with a copy of the weights each (HSDP), and shards in main memory, on gloo workers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from accelerate.state import PartialState
from pydantic import ValidationError
from ranks import together
from test_workers import GROUPS, Recorder, _assert_same, _stop, _train, _weights
from torch import distributed
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy
from torch.distributed.tensor import DTensor

from plugins.optimizer.adamw import AdamWOptimizer
from plugins.trainer import accelerator_and_sharding as module
from plugins.trainer.accelerator_and_sharding import Sharding, make_accelerator, sharding_plugin
from plugins.trainer.sft import SftTrainer
from plugins.trainer.sft_options import SftOptions
from runner.errors import SpecError
from runner.stages import TrainingRun

NUM_WORKERS = 4
HYBRID = {"strategy": "fsdp", "dp_shard_size": 2, "global_batch_size": 4}


def _begin(rank: int, folder: Path, num_workers: int) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(num_workers))
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT="0")
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=num_workers)


def _note_placements(seen):
    """Note the shape of the mesh and the size of a shard when the optimizer is checked."""
    check = AdamWOptimizer.check

    def noting(self, whole, optimizers):
        weight = whole.get_parameter("model.language_model.layers.0.mlp.up_proj.weight")
        assert isinstance(weight, DTensor)
        seen.append((tuple(weight.device_mesh.shape), weight.numel() // weight.to_local().numel()))
        check(self, whole, optimizers)

    AdamWOptimizer.check = noting


def _work_in_groups(rank: int, samples, folder: Path) -> None:
    _begin(rank, folder, NUM_WORKERS)
    seen = []
    _note_placements(seen)
    with pytest.raises(SpecError, match=r"4 worker\(s\) cannot be divided into groups of 3"):
        _train(samples, folder / "odd", Recorder(), **{**HYBRID, "dp_shard_size": 3})
    _stop(samples, folder / "hybrid", Recorder(stop_after=2), **HYBRID)
    if rank == 0:
        shutil.copytree(folder / "hybrid", folder / "for-one")
    distributed.barrier()
    reporter = Recorder()
    model = _train(samples, folder / "hybrid", reporter, **HYBRID)
    assert seen == [((2, 2), 2)] * 2, "two groups, in each of which a worker has half of a weight"
    if rank == 0:
        torch.save((_weights(model), reporter.recorded), folder / "results.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_groups_with_a_copy_each_train_like_one_worker_and_share_checkpoints(colour_samples, tmp_path):
    threads = torch.get_num_threads()
    together(_work_in_groups, colour_samples, tmp_path, num_workers=NUM_WORKERS)
    alone, resumed = Recorder(), Recorder()
    expected = (_weights(_train(colour_samples, tmp_path / "alone", alone)), alone.recorded)
    _assert_same(torch.load(tmp_path / "results.pt"), expected)
    _assert_same((_weights(_train(colour_samples, tmp_path / "for-one", resumed)), resumed.recorded), expected)
    torch.set_num_threads(threads)


def _work_offloaded(rank: int, samples, folder: Path) -> None:
    _begin(rank, folder, 2)
    policies, shard = [], module.sharding_plugin
    module.sharding_plugin = lambda *arguments: policies.append(shard(*arguments)) or policies[-1]
    results = []
    for name, offload in (("offload", True), ("device", False)):
        reporter = Recorder()
        model = _train(samples, folder / name, reporter, GROUPS, strategy="fsdp", cpu_offload=offload)
        results.append(
            (
                model and _weights(model),
                [values["train/loss"] for _, values in reporter.recorded if "train/loss" in values],
            )
        )
        assert "FSDP_OFFLOAD_PARAMS" not in os.environ
    assert [isinstance(plugin.cpu_offload, CPUOffloadPolicy) for plugin in policies] == [True, False]
    if rank == 0:
        (offloaded, losses), (expected, expected_losses) = results
        assert losses == expected_losses
        assert offloaded.equal(expected)
    distributed.destroy_process_group()


def test_shards_in_main_memory_give_the_same_weights(colour_samples, tmp_path):
    """On a CPU, main memory is where shards are anyway; the copies between the two are made all the same."""
    together(_work_offloaded, colour_samples, tmp_path)


@pytest.mark.parametrize("cpu_offload", [True, False])
def test_gloo_is_added_to_nccl_for_shards_in_main_memory(monkeypatch, cpu_offload):
    """Up to the call with which accelerate would create the group of workers with GPUs."""
    backends = []

    class StopHereError(Exception):
        pass

    def create(backend, **options):
        backends.append(backend)
        raise StopHereError

    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        PartialState, "_prepare_backend", lambda self, *arguments: ("nccl", module.DistributedType.MULTI_GPU)
    )
    monkeypatch.setattr(distributed, "init_process_group", create)
    with pytest.raises(StopHereError):
        make_accelerator("bf16", Sharding(("Layer",), cpu_offload=cpu_offload))
    assert backends == ["cuda:nccl,cpu:gloo" if cpu_offload else "nccl"]
    assert "FSDP_OFFLOAD_PARAMS" not in os.environ


def test_memory_is_pinned_where_there_is_a_gpu(monkeypatch):
    assert not sharding_plugin(Sharding(("Layer",), cpu_offload=True), "fp32").cpu_offload.pin_memory
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert sharding_plugin(Sharding(("Layer",), cpu_offload=True), "fp32").cpu_offload.pin_memory
    assert type(sharding_plugin(Sharding(("Layer",)), "fp32").cpu_offload) is OffloadPolicy


@pytest.mark.parametrize("options", [{"dp_shard_size": 2}, {"cpu_offload": True}])
def test_sharding_options_need_fsdp_and_workers(build_smoke, tmp_path, options):
    [name] = options
    with pytest.raises(ValidationError, match=f"{name} has no effect with strategy: ddp; set strategy: fsdp"):
        SftOptions(**options)
    trainer = SftTrainer(SftOptions(strategy="fsdp", **options))
    with pytest.raises(SpecError, match=r"a single worker shards nothing|1 worker\(s\) cannot be divided") as caught:
        trainer.train(build_smoke(), None, [], [], TrainingRun(tmp_path, 0, Recorder()))
    assert caught.value.problems[0].path == ("trainer", name)
    smoke = SftOptions(strategy="fsdp", **options).smoke()
    assert (smoke["dp_shard_size"], smoke["cpu_offload"]) == (None, False)


def test_a_training_without_memory_shards_over_all_workers():
    options = SftOptions(strategy="fsdp", dp_shard_size=2, micro_batch_size=1, gradient_checkpointing=True)
    assert options.with_less_memory(4) == {"dp_shard_size": None}
    assert options.with_less_memory(2) == {}
