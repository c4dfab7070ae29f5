"""Two workers give what one gives, as Ray Train or torchrun would start them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from plugins.model.qwen2_5_vl import Qwen25VLModel
from plugins.model.qwen2_5_vl_options import Qwen25VLOptions
from plugins.optimizer.adamw import AdamWOptimizer
from plugins.optimizer.adamw_options import AdamWOptions
from plugins.trainer.sft import SftTrainer
from plugins.trainer.sft_options import SftOptions
from runner.errors import SpecError
from runner.stages import StopRequestedError, TrainingRun

SEED = 11
"""With which the sample of text alone stands once in a batch of its own and once among others."""

GROUPS = {"vision": {"match": "*visual*", "lr": 1e-3}, "language": {"match": "*", "lr": 1e-3}}


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


def _train(samples, folder: Path, reporter, batch_size=4):
    """Twelve samples, three aside, in batches of 4, 4 and 1; the longest one is text alone."""
    torch.set_num_threads(1)
    texts = [text for sample in samples for text in (sample.prompt, sample.target)]
    model = Qwen25VLModel(Qwen25VLOptions(size="smoke")).build(texts, 0)
    encode = model.encode
    model.encode = lambda rendered, trailing: reporter.encoded.append(rendered.id) or encode(rendered, trailing)
    # Adam's first steps divide by gradients near zero; a large epsilon keeps rounding from being blown up.
    optimizer = AdamWOptimizer(AdamWOptions(groups=GROUPS, eps=1e-2, warmup=0))
    options = SftOptions(epochs=2, batch_size=batch_size, precision="fp32", validation=0.25, micro_batch_size=1)
    keys = [sample.id for sample in samples]
    return SftTrainer(options).train(model, optimizer, samples, keys, TrainingRun(folder, SEED, reporter))


def _weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.module.parameters()])


def _work(rank: int, samples, folder: Path) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT="0")
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    with pytest.raises(SpecError, match="3 samples cannot be divided among 2 workers"):
        _train(samples, folder / "odd", Recorder(), batch_size=3)
    # Only the first worker hears of the stop; both must heed it.
    reporter = Recorder(stop_after=2)
    with pytest.raises(StopRequestedError):
        _train(samples, folder / "workers", reporter)
    # Half of two batches, and of the third, whose only sample both need, as it may be encoded ahead.
    assert 4 <= len(reporter.encoded) <= 5
    reporter = Recorder()
    model = _train(samples, folder / "workers", reporter)
    assert (model is None) == (rank == 1)
    assert bool(reporter.recorded) == (rank == 0)
    if model is not None:
        torch.save((_weights(model), reporter.recorded), folder / "result.pt")
    distributed.destroy_process_group()


def test_two_workers_learn_what_one_learns(colour_samples, tmp_path):
    multiprocessing.spawn(_work, args=(colour_samples, tmp_path), nprocs=2)
    weights, recorded = torch.load(tmp_path / "result.pt")
    threads = torch.get_num_threads()
    reporter = Recorder()
    expected = _weights(_train(colour_samples, tmp_path / "alone", reporter))
    torch.set_num_threads(threads)
    torch.testing.assert_close(weights, expected, rtol=1e-5, atol=1e-5)
    alone = [entry for entry in reporter.recorded if entry[0] > 2]
    assert [step for step, _ in recorded] == [step for step, _ in alone]
    for (_, ours), (_, theirs) in zip(recorded, alone, strict=True):
        for name in ours.keys() - {"train/tokens_per_second"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5), name
