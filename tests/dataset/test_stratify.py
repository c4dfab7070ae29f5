"""Stratified splits: never less balanced than without, complete, and with groups kept together."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.dataset.leaks import find_leaks
from runner.dataset.split import imbalance, rebalance, sample_strata, split_samples
from runner.records import Entity, Sample, Segment

FEATURES = ("segments", "labels")
LABELS = ("person", "location", "organization", "other")


def sample(name, num_segments, labels, text=None):
    segments = tuple(Segment(letter, None, "x", (0, 0, 1, 1)) for letter in "abcdefgh"[:num_segments])
    return Sample(name, text or f"text {name}", None, None, tuple(Entity(each, "x") for each in labels), segments)


@st.composite
def datasets(draw):
    """Draw groups of samples that share a text, with some segments and labels."""
    sizes = draw(st.lists(st.sampled_from([1, 1, 1, 2, 3]), min_size=12, max_size=40))
    return [
        sample(
            f"{group}-{member}",
            draw(st.sampled_from([1, 1, 1, 2, 2, 3, 5])),
            draw(st.lists(st.sampled_from(LABELS), max_size=3)),
            f"text {group}",
        )
        for group, size in enumerate(sizes)
        for member in range(size)
    ]


def imbalance_of_splits(divided, ratios, features=FEATURES):
    counts = {
        split: Counter(each for member in members for each in sample_strata(member, features))
        for split, members in divided.items()
    }
    totals = sum(counts.values(), Counter())
    return sum(
        (counts[split][stratum] - ratio / sum(ratios.values()) * total) ** 2 / total
        for stratum, total in totals.items()
        for split, ratio in ratios.items()
    )


ratios = st.sampled_from([{"train": 0.7, "test": 0.3}, {"train": 6, "dev": 2, "test": 2}])


@settings(max_examples=30)
@given(datasets(), ratios, st.integers(0, 100), st.randoms(use_true_random=False))
def test_stratified(samples, ratios, seed, rng):
    plain = split_samples(samples, ratios, seed)
    divided = split_samples(samples, ratios, seed, stratify=FEATURES)
    assert sorted(each.id for split in divided.values() for each in split) == sorted(each.id for each in samples)
    assert find_leaks(divided) == []
    assert imbalance_of_splits(divided, ratios) <= imbalance_of_splits(plain, ratios) + 1e-6
    rng.shuffle(samples)
    assert split_samples(samples, ratios, seed, stratify=FEATURES) == divided


counters = st.lists(
    st.dictionaries(st.tuples(st.just("label"), st.sampled_from("abc")), st.integers(1, 4), min_size=1).map(Counter),
    min_size=1,
    max_size=12,
)


def objective(groups, assignment, fractions):
    totals = sum(groups, Counter())
    return sum(
        each**2 / totals[stratum] for stratum, row in imbalance(groups, assignment, fractions).items() for each in row
    )


@given(counters, st.sampled_from([(0.5, 0.5), (0.7, 0.3), (0.6, 0.2, 0.2)]), st.data())
def test_no_single_move_improves_the_balance(groups, fractions, data):
    assignment = data.draw(st.lists(st.integers(0, len(fractions) - 1), min_size=len(groups), max_size=len(groups)))
    balanced = rebalance(groups, assignment, fractions)
    before, least = objective(groups, assignment, fractions), objective(groups, balanced, fractions)
    assert least <= before + 1e-6
    for index in range(len(groups)):
        for target_split in range(len(fractions)):
            moved = [*balanced[:index], target_split, *balanced[index + 1 :]]
            assert objective(groups, moved, fractions) >= least - 1e-6


@pytest.mark.parametrize("feature", FEATURES)
def test_each_split_has_the_same_distribution(feature):
    """With 400 samples in strata of very different sizes, each stratum is split 7 to 3 to within one sample."""
    kinds = [(1, "person")] * 300 + [(2, "location")] * 60 + [(3, "organization")] * 30 + [(4, "other")] * 10
    samples = [sample(str(number), count, [label]) for number, (count, label) in enumerate(kinds)]
    for seed in range(5):
        divided = split_samples(samples, {"train": 0.7, "test": 0.3}, seed, stratify=(feature,))
        num_samples = Counter(len(each.segments) for each in divided["test"])
        for number, expected in {1: 90, 2: 18, 3: 9, 4: 3}.items():
            assert abs(num_samples[number] - expected) <= 1
    first, second = (
        split_samples(samples, {"train": 7, "test": 3}, seed, stratify=(feature,))["test"] for seed in (1, 2)
    )
    assert {each.id for each in first} != {each.id for each in second}
