"""The session of one page: filters, decisions and undo."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.dataset.review.queue import STATE_FILTERS, open_review
from runner.dataset.review.session import ANY_FLAG, CONFLICT_MESSAGE, Session


@pytest.fixture
def review(six_samples):
    return open_review(six_samples.dataset)


def current_id(session):
    return session.current and session.current.sample.id


def test_decision_advances_and_skipped_samples_come_last(review):
    session = Session(review, "ann")
    assert session.forward()
    assert session.accept() is None
    assert current_id(session) == "3"
    for _ in "345":
        session.reject()
    assert current_id(session) == "6"
    assert "no summary to accept" in session.accept()
    assert session.edit("A  red\nsquare.") is None
    assert current_id(session) == "1"
    session.accept()
    assert session.current is None
    assert session.accept() == "There is no sample to decide about."
    assert review.count_states() == {"undecided": 0, "accepted": 2, "edited": 1, "rejected": 3, "all": 6}


def test_edit_is_joined_into_one_line_and_an_unchanged_text_accepts(review):
    session = Session(review, "ann")
    session.edit("  A dog\non a\tsofa. ")
    session.edit("Picture 2 shows a red square.")
    assert review.count_states()["edited"] == review.count_states()["accepted"] == 1
    session.set_filters("edited", "")
    assert (current_id(session), session.summary, session.state) == ("1", "A dog on a sofa.", "edited")
    assert session.edit(" \n ").startswith("A summary needs at least one word")
    assert session.edit("\u200b \u3000").startswith("A summary needs at least one word")


def test_accepting_an_edited_summary_keeps_the_edit(review):
    Session(review, "ann").edit("A dog on a sofa.")
    second = Session(review, "bob", start="1")
    second.accept()
    assert Session(review, "ann", start="1").summary == "A dog on a sofa."
    assert Session(review, "ann", start="1").decision.who == "bob"


def test_lone_surrogate_is_replaced(review):
    Session(review, "ann").edit("a dog \ud83d")
    assert Session(review, "ann", start="1").summary == "a dog \ufffd"


def test_undo_shows_the_sample_of_the_revoked_decision(review):
    session = Session(review, "ann")
    session.accept()
    session.reject()
    assert session.undo() is None
    assert (current_id(session), session.state) == ("2", "undecided")
    session.undo()
    assert current_id(session) == "1"
    assert session.undo() == "ann has no decision to undo."


def test_filters_by_decision_and_flag(review):
    session = Session(review, "ann")
    session.set_filters("all", ANY_FLAG)
    seen = [current_id(session)]
    while session.forward():
        seen.append(current_id(session))
    assert seen == ["2", "4", "6"]
    assert session.backward()
    assert current_id(session) == "4"
    session.set_filters("undecided", "refused")
    assert current_id(session) == "2"
    session.set_filters("rejected", "refused")
    assert session.current is None
    assert not session.forward()
    assert not session.backward()
    assert session.version == ""


def test_outdated_address_falls_back_to_defaults(review):
    session = Session(review, "ann", state_filter="everything", flag_filter="unknown", start="99")
    assert (session.state_filter, session.flag_filter, current_id(session)) == ("undecided", "", "1")


def test_conflicting_decisions_are_rejected(six_samples):
    ann, bob = (Session(open_review(six_samples.dataset), who) for who in ("ann", "bob"))
    ann.accept()
    assert bob.reject() == CONFLICT_MESSAGE
    assert (current_id(bob), bob.state, bob.decision.who) == ("1", "accepted", "ann")
    assert bob.reject() is None


def test_version_changes_with_sample_and_decision(review):
    session = Session(review, "ann", state_filter="all")
    versions = [session.version]
    session.accept()
    versions.append(session.version)
    session.backward()
    versions.append(session.version)
    assert len(set(versions)) == 3


actions = st.lists(
    st.sampled_from(["accept", "reject", "undo", "forward", "backward", *STATE_FILTERS, ANY_FLAG, "refused", "edit"]),
    max_size=25,
)


@settings(
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
@given(actions)
def test_current_sample_is_consistent_after_any_actions(six_samples, actions_taken):
    six_samples.work.decisions.unlink(missing_ok=True)
    review = open_review(six_samples.dataset)
    session = Session(review, "ann")
    for action in actions_taken:
        if action in STATE_FILTERS:
            session.set_filters(action, session.flag_filter)
            assert session.current is None or session.state_filter in ("all", session.state)
        elif action in (ANY_FLAG, "refused"):
            session.set_filters(session.state_filter, action)
            assert session.current is None or session.current.flags
        elif action == "edit":
            session.edit("Something else.")
        else:
            getattr(session, action)()
        states = review.count_states()
        assert sum(states[show] for show in STATE_FILTERS if show != "all") == states["all"] == 6
    again = open_review(six_samples.dataset)
    assert again.count_states() == review.count_states()
    assert again.log.last_decision_by("ann") == review.log.last_decision_by("ann")
