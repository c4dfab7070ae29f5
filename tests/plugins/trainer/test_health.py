from hypothesis import given
from hypothesis import strategies as st

from plugins.trainer.training_history import KNOWN, SPIKES, TrainingMonitor, memory_gb

STEPS = 1000


def figures(loss=1.0, norm=1.0, **rates):
    return {"train/loss": loss, "train/grad_norm": norm, **{f"train/lr/{group}": rate for group, rate in rates.items()}}


def watched(series, num_steps=STEPS):
    health = TrainingMonitor(num_steps)
    return [health.warnings(place + 1, each) for place, each in enumerate(series)]


@given(st.lists(st.floats(0.5, 1.4), min_size=1, max_size=80))
def test_losses_that_differ_as_batches_do_are_no_spikes(losses):
    assert not any(watched([figures(loss, 3 * loss, rest=1e-3) for loss in losses]))


@given(st.floats(0.1, 1e3), st.integers(KNOWN, 60), st.integers(1, 5))
def test_a_spike_is_told_once_however_long_it_lasts_and_again_when_it_comes_back(usual, calm, lasting):
    high = [figures(usual * 1.1 * SPIKES["train/loss"][0], usual)] * lasting
    told = watched([figures(usual, usual)] * calm + high + [figures(usual, usual)] + high)
    assert [place for place, each in enumerate(told) if each] == [calm, calm + lasting + 1]
    assert "train/loss" in told[calm][0]
    assert f"step {calm + 1}:" in told[calm][0]


def test_a_spike_of_the_gradient_is_told():
    [*calm, last] = watched([figures()] * KNOWN + [figures(norm=11.0)])
    assert not any(calm)
    assert last == [f"step {KNOWN + 1}: train/grad_norm is 11, and its median of the last steps is 1"]


def test_a_loss_near_zero_may_be_many_times_its_usual_value():
    assert not any(watched([figures(loss=0.006)] * KNOWN + [figures(loss=0.06)]))


def test_first_steps_have_no_usual_value_to_be_far_from():
    assert not any(watched([figures(), figures(loss=100.0)]))


def test_a_rate_of_zero_is_told_once_but_not_where_a_schedule_begins_or_ends():
    rates = [0.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    told = watched([figures(vision=rate, rest=1.0) for rate in rates], num_steps=6)
    assert [bool(each) for each in told] == [False, False, True, False, False, False]
    assert "step 3 of 6: the learning rate of vision is zero" in told[2][0]


def test_memory_is_in_gigabytes():
    assert 0.05 < memory_gb() < 500
