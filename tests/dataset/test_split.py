"""Splitting samples and finding leaks between splits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.dataset.leaks import find_leaks, group_by_content, groups_by_kind, leak_message, without_shared_content
from runner.dataset.split import split_samples
from runner.errors import DataError
from runner.prompt_rendering import split_groups
from runner.records import Sample, Segment


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


@pytest.mark.parametrize("empty", ["", " ", "\u3000\n"])
def test_samples_without_text_share_no_text(empty):
    samples = [sample("1", empty), sample("2", empty)]
    assert find_leaks({"train": samples[:1], "test": samples[1:]}) == []
    assert group_by_content(samples) == [0, 1]
    assert without_shared_content(samples[:1], samples[1:]) == samples[:1]


def test_validation_groups_follow_content_and_not_paths(tmp_path):
    """A picture in two files, a repeated text, and samples that only a third one links share a group."""
    for name, content in (("a1", b"a"), ("a2", b"a"), ("b", b"b"), ("c", b"c")):
        (tmp_path / name).write_bytes(content)
    rows = [("0", "A \ufb01ne  day", "a1"), ("1", "other", "b"), ("2", "x", "a2"), ("3", "a FINE day", None)]
    samples = [sample(name, text, path and tmp_path / path) for name, text, path in [*rows, ("4", "y", "c")]]
    assert split_groups(samples, None) == ["0", "1", "0", "0", "4"]


def test_samples_are_grouped_by_image_by_text_and_by_either(tmp_path):
    """Samples without an image or a text share none; a third sample links two that share nothing themselves."""
    for name, content in (("a1", b"a"), ("a2", b"a"), ("b", b"b")):
        (tmp_path / name).write_bytes(content)
    rows = [("0", "A day", "a1"), ("1", " ", None), ("2", "x", "a2"), ("3", "a  DAY", "b"), ("4", "", None)]
    groups = groups_by_kind([sample(name, text, path and tmp_path / path) for name, text, path in rows])
    assert [each["image"] for each in groups] == [0, 1, 0, 3, 4]
    assert [each["text"] for each in groups] == [0, 1, 2, 0, 4]
    assert [each["content"] for each in groups] == [0, 1, 0, 0, 4]


contents = st.lists(st.tuples(st.sampled_from("abcd "), st.sampled_from(["1", "2", "3", None])), max_size=12)


@given(contents, contents)
def test_leaks_groups_and_overlaps_agree(tmp_path_factory, train, test):
    """A sample is left out, or joins a group of the other split, exactly if the leak check names it."""
    folder = tmp_path_factory.getbasetemp() / "same"
    folder.mkdir(exist_ok=True)

    def samples(split, rows):
        for index, (text, content) in enumerate(rows):
            path = folder / f"{split}-{index}-{content}.png"
            if content is not None:
                path.write_text(content)
            yield sample(f"{split}{index}", text if split == "train" else text.upper(), content and path)

    splits = {"train": list(samples("train", train)), "test": list(samples("test", test))}
    leaking = {name for leak in find_leaks(splits) for split, name in leak.occurrences if split == "train"}
    left = without_shared_content(splits["train"], splits["test"])
    assert {each.id for each in splits["train"]} - {each.id for each in left} == leaking
    both = [*splits["train"], *splits["test"]]
    groups = group_by_content(both)
    assert all(group <= index and groups[group] == group for index, group in enumerate(groups))
    linked = set(groups[: len(train)]) & set(groups[len(train) :])
    assert leaking <= {each.id for each, group in zip(both, groups, strict=True) if group in linked}
    assert bool(linked) == bool(leaking)


def test_examples_also_share_no_segment_with_a_question(tmp_path):
    for name, content in (("one.png", b"crop"), ("two.png", b"crop"), ("whole.png", b"whole")):
        (tmp_path / name).write_bytes(content)

    def with_segment(name, crop):
        return Sample(name, name, None, None, (), (Segment("a", tmp_path / crop, "Ann", (0, 0, 1, 1)),))

    candidate, other = with_segment("1", "one.png"), with_segment("2", "whole.png")
    assert without_shared_content([candidate, other], [with_segment("3", "two.png")]) == [other]
    assert without_shared_content([candidate, other], [sample("3", "x", tmp_path / "whole.png")]) == [candidate]
    # Unrelated images can have equal crops of a few pixels: equal crops alone are no leak.
    assert find_leaks({"train": [candidate], "test": [with_segment("3", "two.png")]}) == []


def test_missing_image_has_no_key():
    assert find_leaks({"train": [sample("1", "x")], "test": [sample("2", "y")]}) == []
