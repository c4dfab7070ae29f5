"""Early stopping, best checkpoints, and warnings of a training."""

import shutil
from collections import namedtuple
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from plugins.optimizer.adamw import AdamWOptimizer
from plugins.optimizer.optimizer_options import AdamWOptions
from plugins.trainer.sft import SftTrainer
from plugins.trainer.sft_options import SftOptions
from plugins.trainer.train_step import TrainStep
from runner.errors import StepError
from runner.stages import StopRequestedError, TrainingRun

GROUPS = {"vision": {"match": "*visual*", "lr": 2e-3}, "language": {"match": "*", "lr": 4e-3}}
DECIDING = {"validation_ratio": 0.25, "eval_steps": 1}


@pytest.fixture
def begin(build_smoke, colour_samples, tmp_path):
    """A function that trains the smoke-sized model for six steps; again, it goes on."""

    def begin(reporter, groups=GROUPS, encoded_bytes=None, **options):
        options = {"epochs": 2, "global_batch_size": 3, "precision": "fp32", **options}
        model, ids = build_smoke(), [sample.id for sample in colour_samples]
        reporter.weights, progress = {}, reporter.progress

        def weigh(done, total, **shown):
            progress(done, total, **shown)
            reporter.weights[done] = _weights(model)

        reporter.progress = weigh
        optimizer = AdamWOptimizer(AdamWOptions(groups=groups, warmup_ratio=0.2))
        run = TrainingRun(tmp_path / "checkpoints", 11, reporter)
        if encoded_bytes is not None:
            run = replace(run, encoded=tmp_path / "encoded" / "key", encoded_bytes=encoded_bytes)
        return SftTrainer(SftOptions(**options)).train(model, optimizer, colour_samples, ids, run)

    return begin


@pytest.fixture
def validate_as(monkeypatch):
    """Lets validation losses be what they are said to be, by the number of evaluations before."""

    def validate_as(*losses):
        left = list(losses)
        monkeypatch.setattr(TrainStep, "validation_loss", lambda self, batches: left.pop(0))

    return validate_as


def _weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.module.parameters()])


def _kept(folder):
    return sorted(int(each.name.removeprefix("step-")) for each in (folder / "checkpoints").iterdir())


def test_early_stopping_ends_training(begin, validate_as, recorder):
    validate_as(3.0, 2.0, 2.5, 2.0)
    reporter = recorder()
    model = begin(reporter, early_stopping_patience=2, **DECIDING)
    assert len(reporter.series("train/loss")) == 4
    assert reporter.series("validation/loss") == [3.0, 2.0, 2.5, 2.0]
    assert reporter.warnings == [
        "stopped early after step 4 of 6: validation/loss was best after step 2, "
        "and 2 evaluation(s) since then were no better"
    ]
    assert _weights(model).equal(reporter.weights[4])


@pytest.mark.parametrize("losses", [(3.0, 1.0, 2.0, 2.0, 2.0, 2.0), (3.0, 2.0, 2.0, 2.0, 2.0, 1.0), (1, 2, 2, 2, 2, 2)])
def test_best_weights_are_loaded_at_the_end(begin, validate_as, recorder, losses):
    validate_as(*losses)
    reporter = recorder()
    model = begin(reporter, load_best_model_at_end=True, **DECIDING)
    assert _weights(model).equal(reporter.weights[1 + losses.index(min(losses))])


def test_best_checkpoint_survives_newer_ones_and_an_interruption(begin, validate_as, recorder, tmp_path):
    options = {"load_best_model_at_end": True, "early_stopping_patience": 3, "save_steps": 1, **DECIDING}
    validate_as(2.0, 1.0, 1.5, 1.5)
    first, second = recorder(stop_after=4), recorder()
    with pytest.raises(StopRequestedError):
        begin(first, **options)
    assert _kept(tmp_path) == [2, 3, 4]
    validate_as(1.5)
    model = begin(second, **options)
    assert [step for step, _ in second.recorded] == [5, 5]  # a step and its evaluation, the third that is no better
    assert _weights(model).equal(first.weights[2])
    assert _kept(tmp_path) == [2, 4, 5]


def test_resumed_training_that_stopped_early_runs_no_step(begin, validate_as, recorder):
    validate_as(1.0, 2.0)
    with pytest.raises(StopRequestedError):
        begin(recorder(stop_after=2), early_stopping_patience=1, **DECIDING)
    again = recorder()
    assert begin(again, early_stopping_patience=1, **DECIDING) is not None
    assert not again.recorded


@pytest.mark.parametrize("deciding", [{"early_stopping_patience": 1}, {"load_best_model_at_end": True}])
def test_selection_needs_a_validation_split(deciding):
    with pytest.raises(ValidationError, match="set validation_ratio"):
        SftOptions(**deciding)


def test_training_goes_on_from_the_checkpoint_before_a_damaged_one(begin, recorder, tmp_path):
    first, resumed, options = recorder(stop_after=4), recorder(), {"save_steps": 2, "save_total_limit": 3}
    with pytest.raises(StopRequestedError):
        begin(first, **options)
    undisturbed = recorder()
    shutil.copytree(tmp_path / "checkpoints", tmp_path / "copy")
    begin(undisturbed, **options)
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "copy").rename(tmp_path / "checkpoints")
    (tmp_path / "checkpoints" / "step-00000004" / ".metadata").unlink()
    begin(resumed, **options)
    assert next(step for step, _ in resumed.recorded) == 3
    assert "step-00000004 is damaged" in resumed.warnings[0]
    assert resumed.weights[8].equal(undisturbed.weights[8])
    assert _kept(tmp_path) == [2, 4, 6]


def test_disk_too_small_for_one_checkpoint_is_an_error_before_training(begin, recorder, monkeypatch):
    _leave_free(monkeypatch, 1000)
    reporter = recorder()
    with pytest.raises(StepError, match=r"takes about .* GB, and .*checkpoints has 1e-06 GB free; set another"):
        begin(reporter)
    assert not reporter.recorded


def test_disk_too_small_for_all_checkpoints_is_a_warning(begin, recorder, monkeypatch, build_smoke):
    num_weights = sum(each.numel() for each in build_smoke().module.parameters())
    _leave_free(monkeypatch, 12 * num_weights * 5)
    reporter = recorder()
    begin(reporter, save_total_limit=5)
    assert len(reporter.warnings) == 1
    assert "but 6 checkpoints need" in reporter.warnings[0]
    enough = recorder()
    begin(enough, save_total_limit=4)
    assert not enough.warnings


def test_the_room_check_counts_encoded_samples_that_are_not_written_yet(begin, recorder, monkeypatch, build_smoke):
    num_weights = sum(each.numel() for each in build_smoke().module.parameters())
    _leave_free(monkeypatch, 12 * num_weights * 5)
    first, enough = recorder(), recorder()
    begin(first, encoded_bytes=13 * num_weights, save_total_limit=3)
    assert len(first.warnings) == 1
    assert "but 4 checkpoints need" in first.warnings[0] and "and the encoded samples about" in first.warnings[0]
    begin(enough, encoded_bytes=11 * num_weights, save_total_limit=3)
    assert not enough.warnings


def _leave_free(monkeypatch, num_bytes):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: namedtuple("Usage", "total free")(num_bytes, num_bytes))


def test_group_with_zero_learning_rate_is_reported_once(begin, recorder):
    reporter = recorder()
    begin(reporter, groups={**GROUPS, "vision": {"match": "*visual*", "lr": 0.0}})
    assert reporter.warnings == ["step 2 of 8: the learning rate of vision is zero, so this group does not learn"]


def test_memory_is_reported(begin, recorder):
    reporter = recorder()
    begin(reporter, max_steps=2)
    assert all(0 < each < 500 for each in reporter.series("train/memory_gb"))
