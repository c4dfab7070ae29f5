"""What one page is at: it goes through what its filter wants, decides what is shown, and takes back its own."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.dataset.review.queue import SHOWS, open_review
from runner.dataset.review.session import ANY_FLAG, OVERTAKEN, Session


@pytest.fixture
def review(six):
    return open_review(six.dataset)


def shown(session):
    return session.current and session.current.sample.id


def test_a_decision_shows_the_next_and_the_last_one_comes_back_to_what_was_passed_by(review):
    session = Session(review, "ann")
    assert session.forward()
    assert session.accept() is None
    assert shown(session) == "3"
    for _ in "345":
        session.reject()
    assert shown(session) == "6"
    assert "no summary to accept" in session.accept()
    assert session.edit("A  red\nsquare.") is None
    assert shown(session) == "1"
    session.accept()
    assert session.current is None
    assert session.accept() == "there is nothing to decide here"
    assert review.states() == {"undecided": 0, "accepted": 2, "edited": 1, "rejected": 3, "all": 6}


def test_an_edit_stands_in_one_line_and_one_that_changes_nothing_accepts(review):
    session = Session(review, "ann")
    session.edit("  A dog\non a\tsofa. ")
    session.edit("Picture 2 shows a red square.")
    assert review.states()["edited"] == review.states()["accepted"] == 1
    session.filter("edited", "")
    assert (shown(session), session.summary, session.state) == ("1", "A dog on a sofa.", "edited")
    assert session.edit(" \n ").startswith("a summary needs a word")


def test_accepting_an_edited_summary_keeps_the_edit(review):
    Session(review, "ann").edit("A dog on a sofa.")
    second = Session(review, "bob", start="1")
    second.accept()
    assert Session(review, "ann", start="1").summary == "A dog on a sofa."
    assert Session(review, "ann", start="1").decision.who == "bob"


def test_half_a_surrogate_pair_is_written_as_a_mark_of_what_is_missing(review):
    Session(review, "ann").edit("a dog \ud83d")
    assert Session(review, "ann", start="1").summary == "a dog \ufffd"


def test_undo_shows_what_it_took_back(review):
    session = Session(review, "ann")
    session.accept()
    session.reject()
    assert session.undo() is None
    assert (shown(session), session.state) == ("2", "undecided")
    session.undo()
    assert shown(session) == "1"
    assert session.undo() == "there is nothing of ann to undo"


def test_filters_by_decision_and_flag(review):
    session = Session(review, "ann")
    session.filter("all", ANY_FLAG)
    seen = [shown(session)]
    while session.forward():
        seen.append(shown(session))
    assert seen == ["2", "4", "6"]
    assert session.backward()
    assert shown(session) == "4"
    session.filter("undecided", "refused")
    assert shown(session) == "2"
    session.filter("rejected", "refused")
    assert session.current is None
    assert not session.forward()
    assert not session.backward()
    assert session.mark == ""


def test_an_address_that_no_longer_fits_begins_with_what_is_undecided(review):
    session = Session(review, "ann", show="everything", flag="unknown", start="99")
    assert (session.show, session.flag, shown(session)) == ("undecided", "", "1")


def test_two_pages_do_not_decide_over_each_other(six):
    ann, bob = (Session(open_review(six.dataset), who) for who in ("ann", "bob"))
    ann.accept()
    assert bob.reject() == OVERTAKEN
    assert (shown(bob), bob.state, bob.decision.who) == ("1", "accepted", "ann")
    assert bob.reject() is None


def test_a_mark_changes_with_sample_and_decision(review):
    session = Session(review, "ann", show="all")
    marks = [session.mark]
    session.accept()
    marks.append(session.mark)
    session.backward()
    marks.append(session.mark)
    assert len(set(marks)) == 3


actions = st.lists(
    st.sampled_from(["accept", "reject", "undo", "forward", "backward", *SHOWS, ANY_FLAG, "refused", "edit"]),
    max_size=25,
)


@settings(
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
@given(actions)
def test_whatever_is_done_a_page_shows_what_its_filter_wants_or_what_was_just_touched(six, taken):
    six.work.decisions.unlink(missing_ok=True)
    review = open_review(six.dataset)
    session = Session(review, "ann")
    for action in taken:
        if action in SHOWS:
            session.filter(action, session.flag)
            assert session.current is None or session.show in ("all", session.state)
        elif action in (ANY_FLAG, "refused"):
            session.filter(session.show, action)
            assert session.current is None or session.current.flags
        elif action == "edit":
            session.edit("Something else.")
        else:
            getattr(session, action)()
        states = review.states()
        assert sum(states[show] for show in SHOWS if show != "all") == states["all"] == 6
    again = open_review(six.dataset)
    assert again.states() == review.states()
    assert again.log.last_of("ann") == review.log.last_of("ann")
