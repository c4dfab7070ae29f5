"""The HTML of a sample: complete, escaped, and with boxes at the right positions."""

import json
import os
import re
from dataclasses import replace

import pytest

from runner.dataset.review.components import render_empty, render_progress, render_sample
from runner.dataset.review.queue import open_review
from runner.dataset.review.session import Session


def url(candidate, name):
    return f"/{candidate.sample.id}/{name}"


@pytest.fixture
def session(six_samples):
    return Session(open_review(six_samples.dataset), "ann")


def test_sample_is_rendered_completely(session):
    sample_html = render_sample(session, url)
    assert 'src="/1/main"' in sample_html.image
    assert "--ratio: 1.50000" in sample_html.image
    [box] = re.findall(r'class="box tint-0" data-box="a" title="Ada[^"]*" style="([^"]*)"><b>a<', sample_html.image)
    assert box == "left: 10.000%; top: 25.000%; width: 50.000%; height: 50.000%; z-index: 1"
    assert "Picture 1 shows a red square." in sample_html.summary
    assert "undecided" in sample_html.summary
    assert "6 words" in sample_html.summary
    assert re.search(r'"label">person</span> Ada', sample_html.details)
    assert 'src="/1/a"' in sample_html.details


def test_near_duplicates_are_shown_with_both_images(six_samples):
    folder = six_samples.work.near_duplicates.parent
    folder.mkdir(parents=True, exist_ok=True)
    groups = ["1", *(f"{number}" for number in range(3, 7)), "gone"]
    rows = [{"sample": name, "near": [other for other in groups if other != name]} for name in groups]
    six_samples.work.near_duplicates.write_text("".join(json.dumps(row) + "\n" for row in rows))
    session = Session(open_review(six_samples.dataset), "ann", start="3")
    details = render_sample(session, url).details
    assert "Nearly the same image: a group of 5 samples" in details
    near = details[details.index("Nearly") :]
    assert re.findall(r'src="/(\w+)/main"', near) == ["3", "1", "4", "5", "6"]
    assert "<b>this sample</b>" in near and "<b>1</b>" in near
    assert "Nearly" not in render_sample(Session(session._review, "ann", start="2"), url).details


def test_a_wrong_box_is_marked_on_the_image_and_at_its_segment(session):
    assert 'aria-pressed="false"' in render_sample(session, url).details
    session.toggle_box("a")
    html = render_sample(session, url)
    assert 'class="box tint-0 wrong"' in html.image
    assert '<figure class="tint-0 wrong">' in html.details
    assert 'data-box="a" aria-pressed="true"' in html.details
    assert "wrong box</span>" in html.summary


def test_a_smaller_box_is_above_a_larger_one(session):
    sample = session.current.sample
    inner = replace(sample.segments[0], letter="b", box=(8, 12, 12, 16))
    both = replace(sample, segments=(inner, sample.segments[0]))
    session._review.review_items[0] = replace(session.current, sample=both)
    ranks = re.findall(r'data-box="(.)".*z-index: (\d)', render_sample(session, url).image)
    assert ranks == [("b", "2"), ("a", "1")]


def test_untrusted_text_is_escaped(session):
    session.edit("<img src=x onerror=alert(1)>")
    session.backward()
    sample_html = render_sample(Session(session._review, "<i>ann", start="1"), url)
    for part in (sample_html.image, sample_html.summary, sample_html.details):
        assert not re.search(r"<(script|i>|img src=x)", part)
    assert "&lt;script&gt;" in sample_html.details
    assert "&lt;img src=x" in sample_html.summary


def test_next_images_are_preloaded(session):
    hidden = render_sample(session, url).image.partition("<div hidden>")[2]
    assert re.findall(r'src="([^"]*)"', hidden) == ["/2/main", "/2/a", "/3/main", "/3/a"]


def test_decision_flags_and_original_summary_are_rendered(session):
    session.forward()
    session.edit("A dog.")
    again = Session(session._review, "bob", start="2")
    html = render_sample(again, url).summary
    assert re.search(r"edited by ann, \d{4}-\d\d-\d\d \d\d:\d\d UTC", html)
    assert "refused" in html
    assert "Original summary:</b> Picture 2 shows" in html


def test_sample_without_summary_or_readable_image_is_rendered(six_samples):
    (six_samples.work.image_root / "images" / "6.png").write_bytes(b"no picture")
    sample_html = render_sample(Session(open_review(six_samples.dataset), "ann", start="6"), url)
    assert "There is no summary." in sample_html.summary
    assert "no readable image" in sample_html.image
    assert 'class="box' not in sample_html.image


def test_messages_for_no_match_and_for_a_finished_review(session):
    review = session._review
    session.set_filters("rejected", "refused")
    html = render_empty(session, review.count_states(), "then this")
    assert "No sample matches the filters (state: rejected; flag: refused)." in html
    assert "6 of 6 samples are undecided" in html
    session.set_filters("undecided", "")
    while session.current:
        session.reject()
    assert "then this" in render_empty(session, review.count_states(), "then this")


def test_progress(session):
    session.accept()
    html = render_progress(session, session._review.count_states())
    assert "1 of 6 decided" in html
    assert "sample 2, id 2" in html
    assert 'class="accepted" style="width: 16.6' in html


def test_a_pipe_in_place_of_a_picture_does_not_hold_up_the_page(session):
    picture = session.current.sample.image
    picture.unlink()
    os.mkfifo(picture)
    assert "<img" not in render_sample(session, url).image.partition("<div hidden>")[0]
