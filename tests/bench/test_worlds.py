"""The worlds of bench/worlds.py: what tells why a context helps, and a small version of its measurement (slow)."""

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
from worlds import CONTRASTS, WORLDS, Gain, find_cause, measure_world

from plugins.data.data_options import SyntheticOptions
from plugins.data.synthetic import SyntheticData
from runner import api

CONFIDENCE = 0.99
"""Level of the intervals: at 95 %, a world without an effect would show one too often."""
SEED = 31
"""A seed of the table in docs/mre.md."""

ends = st.floats(-1, 1)
gains = st.builds(lambda low, width, seed_low: Gain(low + width / 2, low, low + width, seed_low, 1.0), ends, ends, ends)
all_gains = st.fixed_dictionaries(dict.fromkeys(CONTRASTS, gains))
SHOWN, NOT_SHOWN = Gain(0.3, 0.2, 0.4, 0.1, 0.5), Gain(0.3, 0.2, 0.4, -0.1, 0.7)


@pytest.mark.parametrize(
    ("over_neutral", "over_shuffled", "over_mixed", "cause"),
    [
        (SHOWN, SHOWN, NOT_SHOWN, "content"),
        (SHOWN, SHOWN, SHOWN, "content and format"),
        (SHOWN, NOT_SHOWN, NOT_SHOWN, "neither"),
        (NOT_SHOWN, SHOWN, NOT_SHOWN, "neither"),
        (NOT_SHOWN, NOT_SHOWN, SHOWN, "format"),
        (NOT_SHOWN, SHOWN, SHOWN, "format"),
    ],
)
def test_the_cause_follows_from_three_gains(over_neutral, over_shuffled, over_mixed, cause):
    by_pair = dict.fromkeys(CONTRASTS, NOT_SHOWN) | {
        ("gold", "neutral"): over_neutral,
        ("gold", "shuffled"): over_shuffled,
        ("neutral", "mixed"): over_mixed,
    }
    assert find_cause(by_pair) == cause


@given(all_gains)
def test_nothing_helps_if_no_gain_is_above_zero(by_pair):
    below = {pair: Gain(gain.value, -1.0, gain.high, gain.seed_low, gain.seed_high) for pair, gain in by_pair.items()}
    assert find_cause(below) == "neither"


@given(all_gains)
def test_the_cause_does_not_depend_on_other_gains(by_pair):
    other = by_pair | {("shuffled", "neutral"): SHOWN, ("mixed", "alone"): SHOWN}
    assert find_cause(by_pair) == find_cause(other)


@given(gains)
def test_a_gain_needs_both_intervals_above_zero(gain):
    assert gain.is_shown == (min(gain.low, gain.seed_low) > 0)


class Silent:
    """A reporter that prints nothing."""

    def progress(self, done, total, **shown):
        """Ignore progress."""


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """The samples of each world by split."""
    found = {}
    for world, changes in WORLDS.items():
        path = tmp_path_factory.mktemp(world)
        spec = api.load_spec(
            Path(__file__).parents[2] / "specs" / "mre_worlds.yaml",
            *(f"{key}={value}" for key, value in changes.items()),
            f"data.path={path}",
        ).spec
        assert isinstance(spec.data.options, SyntheticOptions)
        data = SyntheticData(spec.data.options)
        data.prepare(Silent())
        found[world] = {split: data.load(split) for split in ("train", "test")}
    return found


def test_in_the_world_content_only_the_summary_tells_the_shown_entity(worlds):
    """Every text names all entities, and each summary belongs to one of them."""
    entity_of = {}
    for split, samples in worlds["content"].items():
        for sample in samples:
            [segment] = sample.segments
            assert len({entity.text for entity in sample.entities}) == 4
            assert entity_of.setdefault(sample.summary, segment.entity) == segment.entity
            assert (f"Summary of the image: {sample.summary}" in sample.text) == (split == "test")
    assert len(entity_of) == len(set(entity_of.values())) == 4


@pytest.mark.parametrize("world", ["format", "neither"])
def test_in_the_other_worlds_the_text_tells_the_shown_entity_and_the_summary_nothing(worlds, world):
    summaries = {}
    for split, samples in worlds[world].items():
        for sample in samples:
            [segment] = sample.segments
            assert segment.entity == min((entity.text for entity in sample.entities), key=sample.text.index)
            assert ("Summary of the image:" in sample.text) == (split == "test" and world == "format")
            summaries.setdefault(segment.entity, set()).add(sample.summary)
    # A position says nothing about the entity: each entity is at each of the nine positions.
    assert [len(each) for each in summaries.values()] == [9] * 4


@pytest.fixture
def one_thread():
    """Use one thread, as the spec does for workers but not for a launch in this process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("world", ["content", "format"])
def test_the_arms_tell_what_helps(tmp_path, one_thread, world):
    """Uses one seed, and the worlds with an effect; the benchmark uses several seeds and all worlds."""
    measured = measure_world(
        world, [SEED], tmp_path / "runs", f"data.path={tmp_path / 'data'}", confidence=CONFIDENCE, local=True
    )
    assert measured["answer"] == world, measured
