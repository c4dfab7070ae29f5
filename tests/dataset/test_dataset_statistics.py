"""Samples in figures."""

from statistics import fmean, median

from hypothesis import given
from hypothesis import strategies as st

from runner.dataset.dataset_statistics import SPREAD, entities_by_label, spread, statistics, values_of
from runner.records import Entity, Sample, Segment

SEGMENT = Segment("a", None, "Ada", (0, 0, 1, 1))


def sample(name, summary=None, segments=(), entities=(), text="a text"):
    return Sample(name, text, None, summary, tuple(entities), tuple(segments))


SAMPLES = [
    sample("1", "one two", [SEGMENT], [Entity("person", "Ada"), Entity("other", "x")]),
    sample("2", "a b  c d e", [SEGMENT] * 4, [Entity("person", "Ada")], "three words here"),
    sample("3"),
]


def test_statistics():
    assert statistics(SAMPLES) == {
        "summary": {
            "characters": {"max": 10, "min": 7, "median": 8.5, "mean": 8.5},
            "words": {"max": 5, "min": 2, "median": 3.5, "mean": 3.5},
        },
        "text": {
            "characters": {"max": 16, "min": 6, "median": 6, "mean": 9.33},
            "words": {"max": 3, "min": 2, "median": 2, "mean": 2.33},
        },
        "entities": {"other": 1, "person": 2},
        "entities_per_sample": {"max": 2, "min": 0, "median": 1, "mean": 1},
        "segments": 5,
        "segments_per_sample": {"max": 4, "min": 0, "median": 1, "mean": 1.67},
    }


def test_statistics_of_nothing():
    told = statistics([])
    assert (told["summary"], told["text"], told["segments_per_sample"]) == (None, None, None)
    assert (told["entities"], told["segments"]) == ({}, 0)


def test_a_value_a_sample_and_a_summary():
    values = values_of(SAMPLES)
    assert values["summary_words"] == [2, 5]
    assert values["segments"] == [1, 4, 0]
    assert entities_by_label(SAMPLES) == {"other": 1, "person": 2}


@given(st.lists(st.integers(0, 10_000), min_size=1))
def test_a_spread_is_in_order(values):
    told = spread(values)
    assert list(told) == list(SPREAD)
    assert told["min"] <= told["median"] <= told["max"]
    assert abs(told["mean"] - fmean(values)) <= 0.01
    assert told["median"] == median(values)
