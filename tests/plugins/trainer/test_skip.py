"""Samples beyond the length limit are skipped."""

import pytest
import torch

from plugins.optimizer.adamw import AdamWOptimizer
from plugins.optimizer.optimizer_options import AdamWOptions
from plugins.trainer.encoded_samples import is_skipped
from plugins.trainer.sft import SftTrainer
from plugins.trainer.sft_options import SftOptions
from plugins.trainer.validation_split_and_batches import EpochSampler
from runner.stages import StopRequestedError, TrainingRun

GROUPS = {"vision": {"match": "*visual*", "lr": 2e-3}, "language": {"match": "*", "lr": 4e-3}}
LIMIT = 40
"""Tokens that five of the twelve samples have more than."""


@pytest.fixture
def lengths(build_smoke, colour_samples):
    model = build_smoke()
    return [len(model.encode(sample)["input_ids"]) for sample in colour_samples]


@pytest.fixture
def begin(build_smoke, colour_samples, tmp_path):
    def begin(reporter, folder="run", **options):
        model = build_smoke()
        reporter.weights, progress = {0: _weights(model)}, reporter.progress

        def weigh(done, total, **shown):
            progress(done, total, **shown)
            reporter.weights[done] = _weights(model)

        reporter.progress = weigh
        optimizer = AdamWOptimizer(AdamWOptions(groups=GROUPS, warmup_ratio=0.2))
        run = TrainingRun(tmp_path / folder, 11, reporter)
        options = {
            "epochs": 2,
            "global_batch_size": 3,
            "precision": "fp32",
            "max_length": LIMIT,
            "on_overlength": "skip",
            **options,
        }
        ids = [sample.id for sample in colour_samples]
        return SftTrainer(SftOptions(**options)).train(model, optimizer, colour_samples, ids, run)

    return begin


def _weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.module.parameters()])


def test_batch_with_skipped_samples_equals_batch_without_them(begin, recorder, lengths, monkeypatch):
    skipping, without = recorder(), recorder()
    skipped = _weights(begin(skipping))
    batches = EpochSampler.batches

    def short_ones(self, first, end):
        yield from (
            (step, [place for place in batch if lengths[place] <= LIMIT]) for step, batch in batches(self, first, end)
        )

    monkeypatch.setattr(EpochSampler, "batches", short_ones)
    assert _weights(begin(without, "without", on_overlength="refuse")).equal(skipped)
    assert skipping.series("train/loss") == without.series("train/loss")
    assert not without.series("train/samples_skipped")


@pytest.mark.filterwarnings("error:Detected call")
def test_fully_skipped_step_changes_no_weight_but_advances_the_schedule(begin, recorder, lengths):
    reporter, all_of_them = recorder(), recorder()
    begin(reporter, global_batch_size=1, epochs=1)
    begin(all_of_them, "all", global_batch_size=1, epochs=1, on_overlength="refuse", max_length=None)
    passed, rates = set(), dict(all_of_them.recorded)
    for step, values in reporter.recorded:
        if "train/loss" not in values:
            passed.add(step)
            assert values.keys() == {"train/samples_skipped"}
            assert reporter.weights[step].equal(reporter.weights[step - 1])
        else:
            assert values["train/lr/language"] == rates[step]["train/lr/language"]
            # The first step has a warm-up's rate of zero.
            assert step == 1 or not reporter.weights[step].equal(reporter.weights[step - 1])
    assert len(passed) == sum(length > LIMIT for length in lengths)
    assert not reporter.warnings


def test_skip_count_continues_after_an_interruption(begin, recorder, lengths):
    whole, first, second = recorder(), recorder(stop_after=5), recorder()
    expected = _weights(begin(whole, "whole"))
    with pytest.raises(StopRequestedError):
        begin(first)
    assert _weights(begin(second)).equal(expected)
    counts = first.series("train/samples_skipped") + second.series("train/samples_skipped")
    assert counts == whole.series("train/samples_skipped")
    assert counts == sorted(counts)
    assert counts[-1] == 2 * sum(length > LIMIT for length in lengths)


def test_validation_split_of_skipped_samples_has_no_loss(begin, recorder, monkeypatch, lengths):
    reporter = recorder()
    longest = [lengths.index(max(lengths))]
    monkeypatch.setattr(
        "plugins.trainer.sft.split_validation",
        lambda *_: type("Division", (), {"training": tuple(range(12)), "validation": tuple(longest)})(),
    )
    begin(reporter, validation_ratio=0.1, load_best_model_at_end=True, max_length=max(lengths) - 1)
    assert not reporter.series("validation/loss")
    assert any("validation/loss is nan, so it is not used" in warning for warning in reporter.warnings)
    assert "validation/loss was never measured, so the last weights are the result" in reporter.warnings


def test_skipped_sample_has_no_tokens(build_smoke, colour_samples, lengths):
    model, trainer = build_smoke(), SftTrainer(SftOptions(on_overlength="skip", max_length=LIMIT))
    for sample, length in zip(colour_samples, lengths, strict=True):
        features = trainer.encode(model, sample)
        assert is_skipped(features) == (length > LIMIT)
        if length > LIMIT:
            assert features.keys() == {"input_ids", "labels"}
        else:
            assert len(features["input_ids"]) == length
