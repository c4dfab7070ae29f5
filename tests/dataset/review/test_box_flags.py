"""Boxes that reviewers flag as wrong: stored at once, told to others, and tied to the box."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.dataset.review.box_flags import WRONG_BOX, BoxFlagLog, count_wrong_boxes
from runner.dataset.review.queue import open_review
from runner.dataset.review.session import ANY_FLAG, CONFLICT_MESSAGE, Session
from runner.errors import DataError
from runner.records import Segment

SEGMENT = Segment("a", None, "Ada", (6, 10, 36, 30))


@pytest.fixture
def review(six_samples):
    return open_review(six_samples.dataset)


def test_a_flag_is_stored_and_the_sample_stays(review, six_samples):
    session = Session(review, "ann")
    assert session.toggle_box("a") is None
    assert session.current.sample.id == "1"
    [line] = six_samples.work.box_flags.read_text().splitlines()
    row = json.loads(line)
    assert row.pop("when").endswith("+00:00")
    assert row == {"sample": "1", "letter": "a", "box": [6, 10, 36, 30], "wrong": True, "who": "ann"}
    assert count_wrong_boxes(six_samples.work) == 1
    document = open_review(six_samples.dataset).as_json()
    [listed] = document["wrong_boxes"]
    assert (listed["sample"], listed["letter"], listed["entity"], listed["who"]) == ("1", "a", "Ada", "ann")
    assert document["flags"][WRONG_BOX] == 1
    assert document["decisions"]["undecided"] == 6


def test_a_second_click_takes_the_flag_back(review, six_samples):
    session = Session(review, "ann")
    session.toggle_box("a")
    session.toggle_box("a")
    assert WRONG_BOX not in review.flags
    assert len(six_samples.work.box_flags.read_text().splitlines()) == 2
    assert count_wrong_boxes(six_samples.work) == 0
    assert session.toggle_box("z") == "There is no such box."


def test_flagged_samples_can_be_filtered(review):
    session = Session(review, "ann", state_filter="all")
    session.toggle_box("a")
    filtered = Session(review, "ann", state_filter="all", flag_filter=WRONG_BOX)
    assert filtered.current.sample.id == "1"
    assert not filtered.forward()
    assert Session(review, "ann", state_filter="all", flag_filter=ANY_FLAG).current.sample.id == "1"


def test_a_flag_changes_the_version_of_the_page_and_reaches_other_processes(review, six_samples):
    session, other = Session(review, "ann"), open_review(six_samples.dataset)
    before, num_lines = session.version, other.num_lines
    session.toggle_box("a")
    assert session.version != before
    other.catch_up()
    assert other.num_lines == num_lines + 1
    assert other.item_flags(other.review_items[0]) == (WRONG_BOX,)


def test_two_reviewers_do_not_undo_each_other_unseen(review, six_samples, monkeypatch):
    other = open_review(six_samples.dataset)
    assert Session(other, "bob").toggle_box("a") is None
    monkeypatch.setattr(review.boxes, "revision", lambda sample: 0 if review.boxes.num_lines == 0 else 1)
    assert Session(review, "ann").toggle_box("a") == CONFLICT_MESSAGE
    assert WRONG_BOX in review.flags


def test_a_flag_belongs_to_the_box_and_not_to_its_letter(review, six_samples):
    Session(review, "ann").toggle_box("a")
    six_samples.rows[0]["segments"][0]["box"] = [0, 0, 5, 5]
    six_samples.write()
    assert open_review(six_samples.dataset).as_json()["wrong_boxes"] == []


def test_a_line_cut_off_by_a_kill_is_told_and_another_invalid_line_is_an_error(tmp_path):
    file = tmp_path / "box_flags.jsonl"
    file.write_text('{"sample": "1", "lett\n')
    log = BoxFlagLog(file)
    assert log.torn_lines == [1]
    log.toggle("1", SEGMENT, "ann", "now", expected_revision=0)
    assert log.flag_of("1", SEGMENT).who == "ann"
    for row in ({"sample": "1"}, {**json.loads(file.read_text().splitlines()[1]), "wrong": "yes"}):
        file.write_text(json.dumps(row) + "\n")
        with pytest.raises(DataError, match=r"box_flags\.jsonl:1: is not a flag of a box"):
            BoxFlagLog(file)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.sampled_from("12"), st.sampled_from("ab")), max_size=8))
def test_a_box_is_wrong_after_an_odd_number_of_clicks(tmp_path_factory, clicks):
    log = BoxFlagLog(tmp_path_factory.mktemp("flags") / "box_flags.jsonl")
    for sample, letter in clicks:
        segment = Segment(letter, None, "Ada", (0, 0, 1, 1))
        log.toggle(sample, segment, "ann", "now", expected_revision=log.revision(sample))
    again = BoxFlagLog(log.path)
    for sample in "12":
        for letter in "ab":
            segment = Segment(letter, None, "Ada", (0, 0, 1, 1))
            is_wrong = clicks.count((sample, letter)) % 2 == 1
            assert (
                (log.flag_of(sample, segment) is not None) == (again.flag_of(sample, segment) is not None) == is_wrong
            )


def test_a_build_tells_the_flagged_boxes_also_without_an_annotator(corpus, build, reporter, tmp_path):
    for split in ("train", "test"):
        corpus.good(f"{split}1", split)
    build()
    assert not any("wrong box" in message for message in reporter.messages)
    session = Session(open_review(tmp_path / "made"), "ann", state_filter="all")
    session.toggle_box("a")
    build()
    [message] = [message for message in reporter.messages if "wrong box" in message]
    assert message.startswith("flagged by reviewers: 1 × wrong box; these boxes are published, unless")
