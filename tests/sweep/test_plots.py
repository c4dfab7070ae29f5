"""The plots of a sweep are self-contained pages, whatever parameters the trials have."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.sweep.plots import _study, write_plots
from runner.trial_factory import ScoredTrial as Point

FETCHES = ('src="http', "https://cdn.plot.ly/plotly")


def test_plots_name_the_parameters_and_load_nothing(tmp_path):
    points = [
        Point({"optimizer.groups.head.lr": 10.0**-each, "model.size": "ab"[each % 2]}, 1 / each)
        for each in (1, 2, 3, 4)
    ]
    written = write_plots(points, "validation/loss", "min", tmp_path)
    assert [path.name for path in written] == ["parallel_coordinates.html", "importances.html"]
    for path in written:
        page = path.read_text()
        assert '"lr"' in page and '"size"' in page
        assert not any(fetch in page for fetch in FETCHES)


@pytest.mark.parametrize(
    ("points", "names"),
    [
        ([Point({}, 1.0)], []),
        ([Point({"a": 1.0}, 1.0)], ["parallel_coordinates.html"]),
        ([Point({"a": 1.0, "b": 2}, 1.0), Point({"a": 2.0, "b": 1}, 1.0)], ["parallel_coordinates.html"]),
        ([Point({"a": 1, "b": 1}, 1.0), Point({"a": 2}, 2.0)], ["parallel_coordinates.html"]),
    ],
    ids=["arms alone", "one trial", "no value differs", "conditions"],
)
def test_importances_are_plotted_only_if_they_can_be_estimated(tmp_path, points, names):
    assert [path.name for path in write_plots(points, "m", "max", tmp_path)] == names


VALUES = st.floats(1e-9, 1e3) | st.integers(-5, 5) | st.booleans() | st.text(max_size=3) | st.none()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from("abc"), VALUES), min_size=1, max_size=5))
def test_a_study_can_hold_any_parameters(parameters):
    study = _study([Point(each, float(number)) for number, each in enumerate(parameters)], "min")
    assert [set(trial.params) for trial in study.trials] == [set(each) for each in parameters]
