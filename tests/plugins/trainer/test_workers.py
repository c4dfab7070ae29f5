"""Two workers give the results of one, with DDP and FSDP, and resume each other's checkpoints."""

from __future__ import annotations

import os
import shutil
import socket
import time
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
import torch
from ranks import together
from torch import distributed
from torch.distributed.tensor import DTensor

from plugins.model.family_options import Qwen25VLOptions
from plugins.model.qwen_vl import Qwen25VLModel
from plugins.optimizer.adamw import AdamWOptimizer
from plugins.optimizer.optimizer_options import AdamWOptions
from plugins.trainer.accelerator_and_sharding import LOOPBACK, make_accelerator
from plugins.trainer.sft import SftTrainer
from plugins.trainer.sft_options import SftOptions
from runner.errors import LostConnectionError, RequirementError, SpecError, StepError
from runner.stages import StopRequestedError, TrainingRun

SEED = 11
"""With which the sample of text alone stands once in a batch of its own and once among others."""

GROUPS = {"vision": {"match": "*visual*", "lr": 1e-3}, "language": {"match": "*", "lr": 1e-3}}
PARTLY = {
    "vision": {"match": "*visual*", "frozen": True},
    "embeddings": {"match": "*embed*", "lr": 1e-3},
    "language": {"match": "*", "lr": 1e-3, "lora": {"rank": 2}},
}
OWN = {"train/tokens_per_second", "train/memory_gb"}
"""Figures that differ from run to run."""


class Recorder:
    """As in conftest.py, which another process cannot import."""

    def __init__(self, stop_after=None):
        self.recorded, self.encoded, self.stop_after, self.done = [], [], stop_after, 0

    def metrics(self, step, values):
        self.recorded.append((step, dict(values)))

    def progress(self, done, total, **shown):
        self.done = done

    def warn(self, message):
        raise AssertionError(message)

    def stop_requested(self):
        return self.done == self.stop_after


class Spied(AdamWOptimizer):
    """Notes whether weights were divided when the optimizer was checked, and can be spoilt before it is."""

    divided, spoilt = None, False

    def check(self, module, optimizers):
        self.divided = all(isinstance(each, DTensor) for each in module.parameters())
        if self.spoilt:
            optimizers[0].param_groups[0]["params"].pop()
        super().check(module, optimizers)


def _train(samples, folder: Path, reporter, groups=GROUPS, spoilt=False, eps=1e-2, **options):
    """Twelve samples, three aside, in batches of 4, 4 and 1; the longest one is text alone."""
    torch.set_num_threads(1)
    texts = [text for sample in samples for text in (sample.prompt, sample.target)]
    model = Qwen25VLModel(Qwen25VLOptions(size="smoke")).build(texts, 0)
    encode = model.encode

    def note(rendered, target_suffix, *, pixels):
        if pixels:
            reporter.encoded.append(rendered.id)
        return encode(rendered, target_suffix, pixels=pixels)

    model.encode = note
    # Adam's first steps divide by gradients near zero; a large epsilon keeps rounding from being blown up.
    optimizer = Spied(AdamWOptions(groups=groups, eps=eps, warmup_ratio=0))
    optimizer.spoilt = spoilt
    optimizer.prepare(model.module, 0)
    options = {"epochs": 2, "precision": "fp32", "validation_ratio": 0.25, "micro_batch_size": 1, **options}
    keys = [sample.id for sample in samples]
    trainer = SftTrainer(SftOptions(**options))
    # The workers share what they encode.
    run = TrainingRun(folder, SEED, reporter, encoded=folder.parent / "encoded" / folder.name)
    trained = trainer.train(model, optimizer, samples, keys, run)
    assert optimizer.divided == (options.get("strategy") == "fsdp" and distributed.is_initialized())
    if trained is not None:
        optimizer.finish(trained.module)
    return trained


def _weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.module.parameters()])


def _stop(samples, folder: Path, reporter, **options):
    with pytest.raises(StopRequestedError):
        _train(samples, folder, reporter, **options)


def _work(rank: int, samples, folder: Path) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT="0")
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    with pytest.raises(SpecError, match="3 samples cannot be divided among 2 workers"):
        _train(samples, folder / "odd", Recorder(), global_batch_size=3)
    with pytest.raises(StepError, match=r"does not train .* as the group 'vision' says"):
        _train(samples, folder / "spoilt", Recorder(), spoilt=True, strategy="fsdp")
    for strategy in ("ddp", "fsdp"):
        # Only the first worker hears of the stop; both must heed it.
        reporter = Recorder(stop_after=2 if rank == 0 else None)
        _stop(samples, folder / strategy, reporter, strategy=strategy)
        # Half of two batches, and of the third, whose only sample both need, as it may be encoded ahead; and one
        # with an image to keep dummy_sample.
        assert 4 <= len(reporter.encoded) <= 5 + (strategy == "fsdp")
    distributed.barrier()
    if rank == 0:
        shutil.copytree(folder / "ddp", folder / "ddp-for-one")
        shutil.copytree(folder / "fsdp", folder / "fsdp-for-one")
        shutil.copytree(folder / "ddp", folder / "ddp-to-fsdp")
    distributed.barrier()
    results = {}
    for begun, strategy in (("ddp", "ddp"), ("fsdp", "fsdp"), ("ddp-to-fsdp", "fsdp"), ("one", "fsdp")):
        reporter = Recorder()
        model = _train(samples, folder / begun, reporter, strategy=strategy)
        assert (model is None) == (rank == 1)
        assert bool(reporter.recorded) == (rank == 0)
        results[begun] = (model and _weights(model), reporter.recorded)
    for strategy, precision in (("fsdp", "fp32"), ("fsdp", "bf16"), ("ddp", "fp32")):
        reporter, name = Recorder(), f"partly-{strategy}-{precision}"
        model = _train(samples, folder / name, reporter, PARTLY, strategy=strategy, precision=precision)
        results[name] = (model and _weights(model), reporter.recorded)
    if rank == 0:
        torch.save(results, folder / "results.pt")
    distributed.destroy_process_group()


def _losses(recorded):
    return [values["train/loss"] for _, values in recorded if "train/loss" in values]


def _assert_same(ours, theirs):
    """The weights, and all figures of the steps that ours took."""
    (weights, recorded), (expected, whole) = ours, theirs
    torch.testing.assert_close(weights, expected, rtol=1e-5, atol=1e-5)
    tail = whole[len(whole) - len(recorded) :]
    assert [step for step, _ in recorded] == [step for step, _ in tail]
    for (_, here), (_, there) in zip(recorded, tail, strict=True):
        assert here.keys() == there.keys()
        for name in here.keys() - OWN:
            assert here[name] == pytest.approx(there[name], rel=1e-5), name


def test_two_workers_train_like_one_and_share_checkpoints(colour_samples, tmp_path):
    threads = torch.get_num_threads()
    _stop(colour_samples, tmp_path / "one", Recorder(stop_after=2))
    together(_work, colour_samples, tmp_path)
    results = torch.load(tmp_path / "results.pt")

    def alone(folder, groups=GROUPS):
        reporter = Recorder()
        return _weights(_train(colour_samples, tmp_path / folder, reporter, groups)), reporter.recorded

    expected = alone("alone")
    for begun in ("ddp", "fsdp", "ddp-to-fsdp", "one"):
        _assert_same(results[begun], expected)
        assert min(step for step, _ in results[begun][1]) == 3
    for begun in ("ddp-for-one", "fsdp-for-one"):
        _assert_same(alone(begun), expected)
    partly = alone("partly", PARTLY)
    _assert_same(results["partly-fsdp-fp32"], partly)
    _assert_same(results["partly-ddp-fp32"], partly)
    weights, recorded = results["partly-fsdp-bf16"]
    assert weights.dtype == torch.float32
    assert _losses(recorded) == pytest.approx(_losses(partly[1]), rel=0.02)
    assert _losses(recorded) != _losses(partly[1])
    torch.set_num_threads(threads)


LONG = {"epochs": 10, "eps": 1e-8}
"""Thirty steps, with the epsilon that there is by default."""


def _work_long(rank: int, samples, folder: Path, strategy: str) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT="0")
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    _stop(samples, folder / "two", Recorder(stop_after=10), strategy=strategy, **LONG)
    if rank == 0:
        shutil.copytree(folder / "two", folder / "one")
    distributed.barrier()
    reporter = Recorder()
    _train(samples, folder / "two", reporter, strategy=strategy, **LONG)
    if rank == 0:
        torch.save(reporter.recorded, folder / "two.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_losses_of_twenty_steps_agree_on_one_and_two_workers(colour_samples, tmp_path, strategy):
    threads = torch.get_num_threads()
    together(_work_long, colour_samples, tmp_path, strategy)
    alone = Recorder()
    _train(colour_samples, tmp_path / "one", alone, **LONG)
    torch.set_num_threads(threads)
    ours, theirs = _losses(alone.recorded), _losses(torch.load(tmp_path / "two.pt"))
    assert len(ours) == 20
    assert ours == pytest.approx(theirs, abs=1e-4)


def _listen(rank: int, port: int) -> None:
    _set_group(rank, port)
    accelerator = make_accelerator("fp32")
    assert accelerator.num_processes == 2
    connections = psutil.Process().net_connections()
    addresses = {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}
    accelerator.wait_for_everyone()
    distributed.destroy_process_group()
    assert addresses == {LOOPBACK}


def test_workers_of_one_machine_meet_where_no_other_machine_can_connect():
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("", 0))  # as the launch does
        together(_listen, reserved.getsockname()[1])


def _gather_swapped(gathered, tensor, gather=distributed.all_gather):
    gather(gathered[::-1], tensor)


def _scatter_swapped(scattered, tensors, scatter=distributed.reduce_scatter):
    scatter(scattered, tensors[::-1])


def _exchange(rank: int, folder: Path) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT="0")
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    before = torch.get_rng_state()
    make_accelerator("fp32")
    assert torch.equal(torch.get_rng_state(), before)
    for name, swapped in (("all_gather", _gather_swapped), ("reduce_scatter", _scatter_swapped)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(distributed, name, swapped)
            with pytest.raises(RequirementError, match=rf"{name} of tensors with 1 elements gave worker {rank} of 2"):
                make_accelerator("fp32")
    distributed.destroy_process_group()


def test_tensors_that_arrive_in_a_wrong_order_are_noticed_before_training(tmp_path):
    """As with NCCL's error 1906, where shards changed places without an error."""
    together(_exchange, tmp_path)


def _set_group(rank: int, port: int) -> None:
    group = {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": LOOPBACK, "MASTER_PORT": str(port)}
    os.environ.update(group, GLOO_SOCKET_IFNAME="lo")


def _begin_without_the_first(rank: int, port: int) -> None:
    _set_group(rank, port)
    if rank == 1:
        with pytest.raises(LostConnectionError, match=r"within 1 seconds [\s\S]*increase trainer.ddp_timeout"):
            make_accelerator("fp32", timeout=1)


def _begin_after_the_first(rank: int, port: int) -> None:
    _set_group(rank, port)
    if rank == 0:
        time.sleep(2)  # as the checks of the samples take time
    make_accelerator("fp32", timeout=500)
    options = distributed.distributed_c10d._get_default_group()._get_backend(torch.device("cpu")).options
    assert options._timeout == timedelta(seconds=500)
    distributed.destroy_process_group()


@pytest.mark.parametrize("work", [_begin_without_the_first, _begin_after_the_first])
def test_a_worker_waits_for_the_checks_of_the_first_one_as_long_as_the_option_says(work):
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("", 0))
        together(work, reserved.getsockname()[1])
    assert SftOptions().ddp_timeout == 3600
