from hypothesis import given
from hypothesis import strategies as st

from plugins.trainer.validation_split_and_batches import EpochSampler, group_by_length, num_validation, split_validation

groups_of_samples = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=40)
shares = st.floats(0, 0.9)


@given(groups_of_samples, shares, st.integers(0, 3))
def test_validation_split_keeps_groups_together_and_does_not_exceed_its_ratio(groups, share, seed):
    division = split_validation(groups, share, seed)
    assert sorted(division.training + division.validation) == list(range(len(groups)))
    assert not {groups[place] for place in division.training} & {groups[place] for place in division.validation}
    assert len(division.validation) <= num_validation(len(groups), share) < len(groups)


@given(st.integers(1, 60), shares)
def test_validation_split_of_single_samples_has_the_requested_size(num_samples, share):
    division = split_validation([str(place) for place in range(num_samples)], share, 0)
    assert len(division.validation) == num_validation(num_samples, share)


def test_validation_split_depends_on_the_seed():
    groups = [str(place) for place in range(100)]
    assert split_validation(groups, 0.2, 1) == split_validation(groups, 0.2, 1) != split_validation(groups, 0.2, 2)
    assert split_validation(groups, 0.2, 1).validation != tuple(range(20))


@given(st.integers(1, 50), st.integers(1, 9), st.integers(0, 3))
def test_epoch_contains_every_sample_once(num_samples, batch_size, epoch):
    order = EpochSampler(tuple(range(100, 100 + num_samples)), num_samples, batch_size, seed=7)
    first = epoch * order.steps_per_epoch
    batches = [batch for _, batch in order.batches(first, first + order.steps_per_epoch)]
    assert sorted(place for batch in batches for place in batch) == list(order.training)
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert 0 < len(batches[-1]) <= batch_size


def test_epochs_and_seeds_have_different_orders():
    order, other = (EpochSampler(tuple(range(50)), 50, 50, seed) for seed in (1, 2))
    (_, one), (_, two) = order.batches(0, 2)
    assert one != two
    assert one not in [batch for _, batch in other.batches(0, 2)]


@given(st.integers(1, 30), st.integers(1, 9), st.integers(0, 20), st.integers(0, 20))
def test_samples_of_a_step_do_not_depend_on_the_first_step(num_samples, batch_size, first, length):
    order = EpochSampler(tuple(range(num_samples)), num_samples, batch_size, seed=7)
    whole = list(order.batches(0, first + length))
    assert list(order.batches(first, first + length)) == whole[first:]
    assert [step for step, _ in whole] == list(range(first + length))


@given(st.lists(st.integers(1, 20_000), max_size=40), st.one_of(st.none(), st.integers(1, 8)), st.booleans())
def test_micro_batches_contain_every_sample_once_sorted_by_length(lengths, size, packed):
    batches = group_by_length(lengths, size, 8192, packed=packed)
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    flat = [lengths[place] for batch in batches for place in batch]
    assert flat == sorted(flat)
    for batch in batches:
        if size:
            assert len(batch) <= size
        else:
            own = [lengths[place] for place in batch]
            assert len(batch) == 1 or (sum(own) if packed else len(own) * max(own)) <= 8192
