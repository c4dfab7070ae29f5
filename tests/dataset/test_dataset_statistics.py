"""Statistics of samples."""

from statistics import fmean, median

from hypothesis import given
from hypothesis import strategies as st

from runner.dataset.dataset_statistics import (
    STATISTIC_NAMES,
    compute_statistics,
    count_entities_by_label,
    describe_values,
    measure_samples,
)
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
    assert compute_statistics(SAMPLES) == {
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


def test_statistics_of_an_empty_data_set():
    statistics_of_values = compute_statistics([])
    assert (
        statistics_of_values["summary"],
        statistics_of_values["text"],
        statistics_of_values["segments_per_sample"],
    ) == (None, None, None)
    assert (statistics_of_values["entities"], statistics_of_values["segments"]) == ({}, 0)


def test_one_value_per_sample_and_summary():
    values = measure_samples(SAMPLES)
    assert values["summary_words"] == [2, 5]
    assert values["segments"] == [1, 4, 0]
    assert count_entities_by_label(SAMPLES) == {"other": 1, "person": 2}


@given(st.lists(st.integers(0, 10_000), min_size=1))
def test_distribution_statistics(values):
    statistics_of_values = describe_values(values)
    assert list(statistics_of_values) == list(STATISTIC_NAMES)
    assert statistics_of_values["min"] <= statistics_of_values["median"] <= statistics_of_values["max"]
    assert abs(statistics_of_values["mean"] - fmean(values)) <= 0.01
    assert statistics_of_values["median"] == median(values)
