"""Two CPU workers divide generation among them, with DDP and FSDP, and skip the same samples as one worker."""

import os
from pathlib import Path

import pytest
import torch
from evaluator import LetterEvaluator
from ranks import together
from torch import distributed

from plugins.model.family_options import Qwen25VLOptions
from plugins.model.qwen_vl import Qwen25VLModel
from plugins.optimizer.adamw import AdamWOptimizer
from plugins.optimizer.optimizer_options import AdamWOptions
from plugins.trainer.sft import SftTrainer
from plugins.trainer.sft_options import SftOptions
from runner.stages import StopRequestedError, TrainingRun

SEED = 11
"""With which one batch is wholly left out, of another all that one worker would have, and three samples are aside."""

GROUPS = {"vision": {"match": "*visual*", "lr": 1e-3}, "language": {"match": "*", "lr": 1e-3}}
OPTIONS = {
    "epochs": 2, "precision": "fp32", "micro_batch_size": 1, "on_overlength": "skip", "max_length": 40,
    "validation_ratio": 0.25, "eval_steps": 2, "eval_generate_steps": 2,
}  # fmt: skip


class Recorder:
    """As in conftest.py, which another process cannot import."""

    def __init__(self):
        self.recorded = []

    def metrics(self, step, values):
        self.recorded.append((step, dict(values)))

    def progress(self, done, total, **shown):
        pass

    def warn(self, message):
        raise AssertionError(message)

    def stop_requested(self):
        return False


def _train(samples, folder: Path, stop_at=None, **options):
    """Twelve samples, three aside, in batches of 4, 4 and 1."""
    torch.set_num_threads(1)
    texts = [text for sample in samples for text in (sample.prompt, sample.target)]
    model = Qwen25VLModel(Qwen25VLOptions(size="smoke")).build(texts, 0)
    # Adam's first steps divide by gradients near zero; a large epsilon keeps rounding from being blown up.
    optimizer = AdamWOptimizer(AdamWOptions(groups=GROUPS, eps=1e-2, warmup_ratio=0))
    optimizer.prepare(model.module, 0)
    reporter, evaluator = Recorder(), LetterEvaluator(samples, stop_at)
    run = TrainingRun(folder, SEED, reporter, evaluator=evaluator)
    trained = SftTrainer(SftOptions(**OPTIONS | options)).train(
        model, optimizer, samples, [sample.id for sample in samples], run
    )
    weights = trained and torch.cat([each.detach().flatten() for each in trained.module.parameters()])
    return weights, reporter.recorded, evaluator.asked


def _work(rank: int, samples, folder: Path) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT="0")
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    results = {}
    # One of them hears of a stop, at its second time, after step 4; the other has answered by then.
    with pytest.raises(StopRequestedError):
        _train(samples, folder / "fsdp", stop_at=1 if rank == 1 else None, strategy="fsdp")
    for strategy in ("ddp", "fsdp"):
        weights, recorded, asked = _train(samples, folder / strategy, strategy=strategy)
        assert asked == [[3, 8] if rank == 0 else [4]] * (3 if strategy == "ddp" else 2)
        results[strategy] = weights, recorded
    # One has nothing to answer, and goes on computing with the other.
    few = {"eval_generate_samples": 1, "eval_generate_steps": 1, "max_steps": 2}
    _, recorded, asked = _train(samples, folder / "few", strategy="fsdp", precision="bf16", **few)
    assert asked == [[3] if rank == 0 else []] * 2
    results["few"] = None, recorded
    if rank == 0:
        torch.save(results, folder / "results.pt")
    distributed.destroy_process_group()


def _series(recorded, name):
    return [(step, values[name]) for step, values in recorded if name in values]


@pytest.mark.slow
def test_two_workers_generate_the_same_answers_as_one(colour_samples, tmp_path):
    threads = torch.get_num_threads()
    together(_work, colour_samples, tmp_path)
    results = torch.load(tmp_path / "results.pt")
    weights, recorded, _ = _train(colour_samples, tmp_path / "alone")
    torch.set_num_threads(threads)
    assert _steps(recorded, "validation/letters") == [2, 4, 6]
    assert [count for _, count in _series(recorded, "train/samples_skipped")] == [2, 4, 5, 8, 10, 10]
    for strategy in ("ddp", "fsdp"):
        ours, theirs = results[strategy]
        torch.testing.assert_close(ours, weights, rtol=1e-5, atol=1e-5)
        for name in ("validation/letters", "train/samples_skipped"):
            assert _series(theirs, name) == [
                each for each in _series(recorded, name) if each[0] in _steps(theirs, name)
            ]
        for name in ("train/loss", "validation/loss"):
            expected = dict(_series(recorded, name))
            assert dict(_series(theirs, name)) == pytest.approx(
                {step: expected[step] for step in _steps(theirs, name)}, rel=1e-5
            )
    assert [_steps(results[each][1], "validation/letters") for each in ("ddp", "fsdp")] == [[2, 4, 6], [4, 6]]
    assert _steps(results["fsdp"][1], "train/samples_skipped") == [5, 6]
    assert _steps(results["few"][1], "validation/letters") == [1, 2]
    assert len(_steps(results["few"][1], "train/loss")) == 2


def _steps(recorded, name):
    return [step for step, _ in _series(recorded, name)]
