"""What is shown of a sample: everything a reviewer needs, escaped, with boxes where they are on the picture."""

import re

import pytest

from runner.dataset.review.components import empty_component, progress_component, sample_components
from runner.dataset.review.queue import open_review
from runner.dataset.review.session import Session


def url(candidate, name):
    return f"/{candidate.sample.id}/{name}"


@pytest.fixture
def session(six):
    return Session(open_review(six.dataset), "ann")


def test_a_sample_is_shown_whole(session):
    pieces = sample_components(session, url)
    assert 'src="/1/main"' in pieces.picture
    assert "--ratio: 1.50000" in pieces.picture
    [box] = re.findall(r'class="box [^"]*" style="([^"]*)"><b>a<', pieces.picture)
    assert box == "left: 10.000%; top: 25.000%; width: 50.000%; height: 50.000%"
    assert "Picture 1 shows a red square." in pieces.summary
    assert "undecided" in pieces.summary
    assert "6 words" in pieces.summary
    assert re.search(r'"label">person</span> Ada', pieces.details)
    assert 'src="/1/a"' in pieces.details


def test_what_strangers_wrote_is_escaped(session):
    session.edit("<img src=x onerror=alert(1)>")
    session.backward()
    pieces = sample_components(Session(session._review, "<i>ann", start="1"), url)
    for piece in (pieces.picture, pieces.summary, pieces.details):
        assert not re.search(r"<(script|i>|img src=x)", piece)
    assert "&lt;script&gt;" in pieces.details
    assert "&lt;img src=x" in pieces.summary


def test_the_next_pictures_are_loaded_beforehand(session):
    hidden = sample_components(session, url).picture.partition("<div hidden>")[2]
    assert re.findall(r'src="([^"]*)"', hidden) == ["/2/main", "/2/a", "/3/main", "/3/a"]


def test_decisions_flags_and_the_text_before_an_edit_are_shown(session):
    session.forward()
    session.edit("A dog.")
    again = Session(session._review, "bob", start="2")
    told = sample_components(again, url).summary
    assert re.search(r"edited by ann, \d{4}-\d\d-\d\d \d\d:\d\d UTC", told)
    assert "refused" in told
    assert "Before the edit:</b> Picture 2 shows" in told


def test_a_sample_without_a_summary_or_a_readable_picture_is_shown_all_the_same(six):
    (six.work.pictures / "images" / "6.png").write_bytes(b"no picture")
    pieces = sample_components(Session(open_review(six.dataset), "ann", start="6"), url)
    assert "No summary was written." in pieces.summary
    assert "no picture that can be read" in pieces.picture
    assert 'class="box' not in pieces.picture


def test_an_empty_filter_and_a_finished_review_say_what_to_do(session):
    review = session._review
    session.filter("rejected", "refused")
    told = empty_component(session, review.states(), "then this")
    assert "No sample is rejected and flagged: refused." in told
    assert "6 of 6 are undecided" in told
    session.filter("undecided", "")
    while session.current:
        session.reject()
    assert "then this" in empty_component(session, review.states(), "then this")


def test_progress(session):
    session.accept()
    told = progress_component(session, session._review.states())
    assert "1 of 6 decided" in told
    assert "sample 2, id 2" in told
    assert 'class="accepted" style="width: 16.6' in told
