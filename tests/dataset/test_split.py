"""Splitting samples and finding leaks between splits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.dataset.leaks import find_leaks, leak_message
from runner.dataset.split import split_samples
from runner.errors import DataError
from runner.records import Sample


def sample(name, text, image=None):
    return Sample(str(name), text, image, None, (), ())


ratios = st.sampled_from([{"train": 0.7, "test": 0.3}, {"train": 7, "test": 3}, {"test": 0.5, "train": 0.5}])
groups = st.lists(st.integers(1, 5), min_size=8, max_size=40)
"""Sizes of groups whose samples share a text."""


def grouped(sizes):
    """Create groups of samples; texts of a group differ only in case and spacing."""
    return [
        sample(f"{group}-{member}", f"text {group}" if member % 2 else f" TEXT   {group}")
        for group, size in enumerate(sizes)
        for member in range(size)
    ]


@given(groups, ratios, st.integers(0, 1000), st.randoms(use_true_random=False))
def test_split_samples(sizes, ratios, seed, rng):
    samples = grouped(sizes)
    divided = split_samples(samples, ratios, seed)
    assert list(divided) == list(ratios)
    # Every sample occurs once.
    assert sorted(each.id for split in divided.values() for each in split) == sorted(each.id for each in samples)
    # Groups stay together.
    assert find_leaks(divided) == []
    # Sizes are off by at most half a group.
    share = ratios["train"] / sum(ratios.values())
    assert abs(len(divided["train"]) - share * len(samples)) <= max(sizes) / 2 + 1e-6
    # The order of the samples does not matter.
    shuffled = list(samples)
    rng.shuffle(shuffled)
    assert split_samples(shuffled, ratios, seed) == divided


@given(st.integers(10, 60), st.integers(0, 100))
def test_without_groups_sizes_are_exact_and_texts_may_be_shared(number, seed):
    samples = [sample(each, "the same text") for each in range(number)]
    divided = split_samples(samples, {"train": 0.5, "dev": 0.25, "test": 0.25}, seed, keep_together=False)
    for split, share in (("train", 0.5), ("dev", 0.25), ("test", 0.25)):
        assert abs(len(divided[split]) - share * number) <= 1
    assert find_leaks(divided)


def test_another_seed_gives_another_split():
    samples = grouped([1] * 40)
    divisions = {
        tuple(each.id for each in split_samples(samples, {"train": 7, "test": 3}, seed)["test"]) for seed in range(10)
    }
    assert len(divisions) == 10


def test_a_chain_of_shared_texts_and_images_stays_together(tmp_path):
    first, same, other = (tmp_path / name for name in ("1.png", "2.png", "3.png"))
    for path, content in ((first, b"one"), (same, b"one"), (other, b"other")):
        path.write_bytes(content)
    chain = [sample("a", "x", first), sample("b", "y", same), sample("c", "y", other), sample("d", "z", other)]
    rest = [sample(f"r{number}", f"r{number}") for number in range(12)]
    for seed in range(20):
        for members in split_samples([*chain, *rest], {"train": 1, "test": 1}, seed).values():
            inside = {each.id for each in members} & {"a", "b", "c", "d"}
            assert inside in (set(), {"a", "b", "c", "d"})


def test_empty_split_is_rejected():
    with pytest.raises(DataError, match=r"too few samples \(3\) for the split test"):
        split_samples(grouped([1, 1, 1]), {"train": 0.999, "test": 0.001}, 0)


def test_duplicate_id_is_rejected():
    with pytest.raises(DataError, match=r"1 id\(s\) occur more than once, for example 'a'"):
        split_samples([sample("a", "x"), sample("a", "y"), sample("b", "z")], {"train": 1, "test": 1}, 0)


def test_leaks_are_found_by_id_text_and_image(tmp_path):
    one, two, three = (tmp_path / name for name in ("1.png", "2.png", "3.png"))
    for path, content in ((one, b"same"), (two, b"same"), (three, b"other")):
        path.write_bytes(content)
    splits = {
        "train": [sample("1", "Hello  World", one), sample("2", "only here", three), sample("2b", "only here")],
        "test": [sample("3", "hello world"), sample("4", "new", two), sample("1", "else")],
    }
    leaks = find_leaks(splits)
    assert [str(leak) for leak in leaks] == [
        "the same id: train/1 and test/1",
        "the same text: train/1 and test/3",
        "the same image: train/1 and test/4",
    ]


@pytest.mark.parametrize("other", ["CAFE\u0301 ﬁne…", "\uff43afé  fine...", "Café\u00a0fine\u2026"])
def test_equivalent_unicode_texts_are_equal(other):
    splits = {"train": [sample("1", "café fine...")], "test": [sample("2", other)]}
    assert [leak.kind for leak in find_leaks(splits)] == ["text"]


def test_message_lists_three_leaks_and_counts_the_rest():
    splits = {split: [sample(number, f"t{number}") for number in range(3)] for split in ("train", "test")}
    message = leak_message(find_leaks(splits))
    assert message.startswith("6 leak(s) between splits: the same id: train/0 and test/0; ")
    assert message.endswith("; and 3 more")


def test_missing_image_has_no_key():
    assert find_leaks({"train": [sample("1", "x")], "test": [sample("2", "y")]}) == []
