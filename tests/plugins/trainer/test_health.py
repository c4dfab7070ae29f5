import torch
from hypothesis import given
from hypothesis import strategies as st

from plugins.trainer.training_history_and_warnings import (
    MIN_STEPS,
    SPIKE_THRESHOLDS,
    TrainingMonitor,
    peak_memory_metrics,
)

STEPS = 1000


def figures(loss=1.0, norm=1.0, **rates):
    return {"train/loss": loss, "train/grad_norm": norm, **{f"train/lr/{group}": rate for group, rate in rates.items()}}


def watched(series, num_steps=STEPS):
    health = TrainingMonitor(num_steps)
    return [health.warnings(place + 1, each) for place, each in enumerate(series)]


@given(st.lists(st.floats(0.5, 1.4), min_size=1, max_size=80))
def test_usual_variation_of_losses_is_not_a_spike(losses):
    assert not any(watched([figures(loss, 3 * loss, rest=1e-3) for loss in losses]))


@given(st.floats(0.1, 1e3), st.integers(MIN_STEPS, 60), st.integers(1, 5))
def test_spike_is_reported_once_and_again_when_it_returns(usual, calm, lasting):
    high = [figures(usual * 1.1 * SPIKE_THRESHOLDS["train/loss"][0], usual)] * lasting
    told = watched([figures(usual, usual)] * calm + high + [figures(usual, usual)] + high)
    assert [place for place, each in enumerate(told) if each] == [calm, calm + lasting + 1]
    assert "train/loss" in told[calm][0]
    assert f"step {calm + 1}:" in told[calm][0]


def test_gradient_spike_is_reported():
    [*calm, last] = watched([figures()] * MIN_STEPS + [figures(norm=11.0)])
    assert not any(calm)
    assert last == [f"step {MIN_STEPS + 1}: train/grad_norm is 11, and its median of the last steps is 1"]


def test_loss_near_zero_may_be_many_times_its_median():
    assert not any(watched([figures(loss=0.006)] * MIN_STEPS + [figures(loss=0.06)]))


def test_first_steps_have_no_median():
    assert not any(watched([figures(), figures(loss=100.0)]))


def test_zero_learning_rate_is_reported_once_except_at_first_and_last_step():
    rates = [0.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    told = watched([figures(vision=rate, rest=1.0) for rate in rates], num_steps=6)
    assert [bool(each) for each in told] == [False, False, True, False, False, False]
    assert "step 3 of 6: the learning rate of vision is zero" in told[2][0]


def test_memory_is_in_gigabytes(monkeypatch):
    assert list(peak_memory_metrics()) == ["train/memory_gb"]
    assert 0.05 < peak_memory_metrics()["train/memory_gb"] < 500
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 30e9)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 34e9)
    assert peak_memory_metrics() == {"train/memory_gb": 30, "train/memory_reserved_gb": 34}
