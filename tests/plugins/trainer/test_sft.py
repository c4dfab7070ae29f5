import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from plugins.optimizer.adamw import AdamWOptimizer
from plugins.optimizer.muon import MuonOptimizer
from plugins.optimizer.optimizer_options import AdamWOptions, MuonOptions
from plugins.trainer.accelerator_and_sharding import make_accelerator
from plugins.trainer.encoded_samples import DIGEST, digest_of
from plugins.trainer.loss import AnswerLoss
from plugins.trainer.sft import SftTrainer
from plugins.trainer.sft_options import SftOptions
from plugins.trainer.train_step import TrainStep
from plugins.trainer.validation_split_and_batches import num_validation
from runner.errors import DivergedError, SpecError, StepError
from runner.preflight.sample_checker import SampleChecker
from runner.stages import StopRequestedError, TrainingRun

GROUPS = {"vision": {"match": "*visual*", "lr": 2e-3}, "language": {"match": "*", "lr": 4e-3}}
MUON_GROUPS = {
    "patches": {"match": "*patch_embed*", "lr": 3e-3},
    "words": {"match": "*embed_tokens*", "lr": 3e-3},
    "norms": {"match": "*norm*", "lr": 3e-3},
    "merger_norm": {"match": "*ln_q*", "lr": 3e-3},
    "biases": {"match": "*.bias", "lr": 3e-3},
    "matrices": {"match": "*", "lr": 2e-2, "algorithm": "muon"},
}


def _adamw():
    return AdamWOptimizer(AdamWOptions(groups=GROUPS))


def _muon():
    return MuonOptimizer(MuonOptions(groups=MUON_GROUPS))


@pytest.fixture
def train(build_smoke, colour_samples, tmp_path):
    """A function that trains the smoke-sized model; calls with the same folder continue one another."""

    def start(reporter, folder="run", optimizer=None, groups=None, model=None, **options):
        options = {"epochs": 2, "global_batch_size": 5, "precision": "fp32", **options}
        run = TrainingRun(tmp_path / folder, 11, reporter)
        keys = groups or [sample.id for sample in colour_samples]
        model = model or build_smoke()
        return SftTrainer(SftOptions(**options)).train(model, optimizer or _adamw(), colour_samples, keys, run)

    return start


def _weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.module.parameters()])


def test_loss_equals_that_of_transformers(build_smoke, colour_samples):
    model = build_smoke()
    batch = model.collate([model.encode(sample) for sample in colour_samples[:6]], "right")
    num_labels = int((batch["labels"] != -100).sum())
    ours = AnswerLoss(model.module)(**batch)
    torch.testing.assert_close(ours, model.module(**batch).loss * num_labels, rtol=1e-5, atol=1e-5)


def test_gradient_does_not_depend_on_micro_batches(build_smoke, colour_samples):
    gradients = []
    for size in (None, 1, 2):
        model = build_smoke()
        options = SftOptions(precision="fp32", micro_batch_size=size, max_grad_norm=1e9)
        train_step = TrainStep(make_accelerator("fp32"), model, _adamw().build(model.module, 1), options)
        told = train_step.compute_gradient([model.encode(sample) for sample in colour_samples])
        gradients.append((told, torch.cat([p.grad.flatten() for p in model.module.parameters() if p.grad is not None])))
    (whole, reference), *others = gradients
    assert whole.norm == pytest.approx(float(reference.norm()), rel=1e-5)
    for told, gradient in others:
        assert told.loss == pytest.approx(whole.loss, rel=1e-6)
        assert told.num_tokens == whole.num_tokens
        torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-6)


def test_gradients_are_clipped_by_their_norm_over_all_parameters(build_smoke, colour_samples):
    model = build_smoke()
    options = SftOptions(precision="fp32", max_grad_norm=0.01)
    train_step = TrainStep(make_accelerator("fp32"), model, _adamw().build(model.module, 1), options)
    told = train_step.compute_gradient([model.encode(sample) for sample in colour_samples])
    norm = torch.cat([p.grad.flatten() for p in model.module.parameters() if p.grad is not None]).norm()
    assert told.norm > 0.1
    assert float(norm) == pytest.approx(0.01, rel=1e-3)


def test_training_reduces_the_loss_and_reports_metrics(train, recorder):
    reporter = recorder()
    train(reporter, epochs=12)
    losses = reporter.series("train/loss")
    assert [step for step, _ in reporter.recorded] == list(range(1, 37))  # 12 samples in 3 steps an epoch
    assert losses[-1] < losses[0] / 2
    assert max(reporter.series("train/lr/vision")) == pytest.approx(2e-3)
    assert max(reporter.series("train/lr/language")) == pytest.approx(4e-3)
    assert reporter.series("train/lr/language")[0] == 0.0
    assert min(reporter.series("train/grad_norm")) > 0
    assert min(reporter.series("train/tokens_per_second")) > 0
    done, total, shown = reporter.shown[-1]
    assert (done, total) == (36, 36)
    assert shown["loss"] == losses[-1]
    assert shown["samples_per_second"] > 0


def test_the_same_seed_gives_the_same_weights(train, recorder):
    first = _weights(train(recorder(), "one", _muon()))
    torch.rand(3)
    assert first.equal(_weights(train(recorder(), "two", _muon())))


@pytest.mark.parametrize("stops", [[1], [3, 5]])
def test_resumed_training_equals_uninterrupted_training(train, recorder, stops, tmp_path):
    whole, parts = recorder(), recorder()
    expected = _weights(train(whole, "whole", _muon(), epochs=3, validation_ratio=0.2))
    for stop in stops:
        reporter = recorder(stop_after=stop)
        with pytest.raises(StopRequestedError):
            train(reporter, "parts", _muon(), epochs=3, validation_ratio=0.2)
        assert max(folder.name for folder in (tmp_path / "parts").iterdir()) == f"step-{stop:08d}"
    resumed = train(parts, "parts", _muon(), epochs=3, validation_ratio=0.2)
    assert _weights(resumed).equal(expected)
    assert parts.recorded[0][0] == stops[-1] + 1
    assert parts.series("train/loss") == whole.series("train/loss")[stops[-1] :]
    assert parts.series("validation/loss")[-1] == whole.series("validation/loss")[-1]


def test_stop_request_after_the_last_step_is_ignored(train, recorder):
    assert train(recorder(stop_after=6)) is not None


def test_only_the_newest_complete_checkpoints_are_kept(train, recorder, tmp_path):
    abandoned = tmp_path / "run" / ".step-00000001"
    abandoned.mkdir(parents=True)
    (abandoned / "model.safetensors").write_text("half")
    train(recorder(), save_steps=1, save_total_limit=2)
    assert sorted(folder.name for folder in (tmp_path / "run").iterdir()) == [
        "step-00000004",
        "step-00000005",
    ]


def test_non_finite_loss_names_step_and_samples(train, recorder, build_smoke):
    model = build_smoke()
    with torch.no_grad():
        model.module.lm_head.weight[0, 0] = math.nan
    with pytest.raises(
        DivergedError, match=r"step 1: the loss is nan .* samples of the step: s\d+, s\d+, s\d+, s\d+, s"
    ):
        train(recorder(), model=model)


def test_bf16_computes_in_bfloat16_over_float32_weights(train, recorder):
    plain, mixed = recorder(), recorder()
    train(plain, "plain")
    model = train(mixed, "mixed", precision="bf16")
    assert model.module.dtype == torch.float32
    assert mixed.series("train/loss") == pytest.approx(plain.series("train/loss"), rel=0.02)
    assert mixed.series("train/loss") != plain.series("train/loss")
    assert SftTrainer(SftOptions(precision="bf16")).precision() == "bf16"


def test_gradient_checkpointing_does_not_change_results(train, recorder):
    plain, saving = recorder(), recorder()
    kept = _weights(train(plain, "plain"))
    assert _weights(train(saving, "saving", gradient_checkpointing=True)).equal(kept)
    assert saving.series("train/loss") == plain.series("train/loss")


def test_validation_samples_are_evaluated_and_not_trained_on(train, recorder, build_smoke, colour_samples):
    each_epoch, each_second, none = recorder(), recorder(), recorder()
    train(each_epoch, "a", validation_ratio=0.25)  # 3 of 12 samples aside, 9 in 2 steps an epoch
    train(each_second, "b", validation_ratio=0.25, eval_steps=3)
    train(none, "c")
    assert [step for step, values in each_epoch.recorded if "validation/loss" in values] == [2, 4]
    assert [step for step, values in each_second.recorded if "validation/loss" in values] == [3, 4]
    assert none.series("validation/loss") == []
    assert each_epoch.series("validation/loss")[-1] == each_second.series("validation/loss")[-1]
    assert not each_epoch.warnings


def test_small_validation_split_is_reported(train, recorder):
    reporter = recorder()
    train(reporter, validation_ratio=0.25, groups=["same"] * 6 + ["pair"] * 2 + ["fours"] * 4)
    assert len(reporter.series("train/loss")) == 4  # as planned from the number of samples alone
    assert "2 samples instead of 3" in reporter.warnings[0]


@pytest.mark.parametrize(
    ("groups", "ratio", "message"),
    [
        (["same"] * 12, 0.25, "the smallest group of them has 12 samples; use 0 for no validation"),
        (["a"] * 5 + ["b"] * 7, 0.25, "the smallest group of them has 5 samples; use at least 0.417, or 0"),
        ([*"abcdefghijkl"], 0.01, r"0.01 of 12 training sample\(s\) rounds to no validation sample.*at least 0.083"),
        (["a"], 0.9, r"0.9 of 1 training sample\(s\) rounds to no validation sample.*use more training samples"),
    ],
)
def test_validation_split_without_samples_is_refused(groups, ratio, message):
    trainer = SftTrainer(SftOptions(validation_ratio=ratio))
    with pytest.raises(SpecError, match=message) as caught:
        trainer.training_budget(None, None, groups, 0)
    assert caught.value.problems[0].path == ("trainer", "validation_ratio")


@given(st.integers(1, 3000), st.floats(0.0001, 0.99))
def test_recommended_ratio_is_accepted(num_samples, ratio):
    try:
        SftOptions(validation_ratio=ratio).check_num_samples(num_samples)
    except SpecError as error:
        recommended = re.search(r"at least ([0-9.e-]+),", str(error))
        assert (
            num_samples == 1
            or SftOptions(validation_ratio=float(recommended[1])).check_num_samples(num_samples) is None
        )
    else:
        assert num_validation(num_samples, ratio) > 0


def test_smoke_takes_two_steps():
    options = SftOptions(global_batch_size=64, epochs=9)
    small = SftOptions(**{**options.model_dump(), **options.smoke()})
    assert SftTrainer(small).training_budget(None, None, list("abcdefghijkl"), 0).steps == 2


def test_sample_is_checked_before_it_is_trained_on(build_smoke, colour_samples, tmp_path, recorder):
    reporter, seen = recorder(), []

    def check(rendered, features):
        assert features["input_ids"].tolist() == model.encode(rendered)["input_ids"].tolist()
        seen.append(rendered.id)
        if len(seen) == 7:
            raise StepError(f"sample {rendered.id}: spoilt")

    model = build_smoke()
    run = TrainingRun(tmp_path / "run", 11, reporter, check)
    with pytest.raises(StepError, match="spoilt"):
        SftTrainer(SftOptions(global_batch_size=3, precision="fp32")).train(
            model, _adamw(), colour_samples, [sample.id for sample in colour_samples], run
        )
    assert len(reporter.recorded) <= 2  # three samples a step, so the seventh is of the third


def test_labels_in_a_file_are_checked_before_they_are_trained_on(build_smoke, colour_samples, tmp_path, recorder):
    """Encoded samples are complete files with digests, but another program has written other labels into them."""
    folder, groups = tmp_path / "encoded" / "key", [sample.id for sample in colour_samples]

    def train(name, reporter):
        trainer, model = SftTrainer(SftOptions(global_batch_size=5, precision="fp32", epochs=2)), build_smoke()
        check = SampleChecker.of(model, trainer).check
        run = TrainingRun(tmp_path / name, 11, reporter, check, encoded=folder)
        return _weights(trainer.train(model, _adamw(), colour_samples, groups, run))

    first, second = recorder(), recorder()
    expected = train("first", first)
    files = list(folder.iterdir())
    for file in files:
        features = load_file(file)
        features["labels"] = features["input_ids"].clone()
        save_file(features, file, {DIGEST: digest_of(features)})
    assert train("second", second).equal(expected)
    assert len(second.warnings) == len(files) == len(colour_samples)
    assert "that was checked" in second.warnings[0]


def test_truncated_answers_have_no_end_token(build_smoke, colour_samples):
    model = build_smoke()
    for sample in colour_samples:
        whole = model.encode(sample, "\n")
        count = model.count(sample)
        limit = count.text + count.image + 1
        trainer = SftTrainer(SftOptions(max_length=limit, on_overlength="truncate", target_suffix="\n"))
        cut = trainer.encode(model, sample)
        assert cut.keys() == whole.keys()
        for name in ("input_ids", "labels", "mm_token_type_ids"):
            assert cut[name].equal(whole[name][:limit])
        for name in {"pixel_values", "image_grid_thw"} & whole.keys():
            assert cut[name].equal(whole[name])
        assert int((cut["labels"] != -100).sum()) == 1
        assert not set(cut["labels"].tolist()) & set(model.stop_token_ids)
        assert torch.isfinite(model.module(**model.collate([cut], "right")).loss)
