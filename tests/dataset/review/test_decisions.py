"""The log of decisions: nothing is lost, whoever writes and whatever is killed."""

import json
import multiprocessing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.dataset.review.decisions import Decision, OvertakenError, ReviewLog, decide, read_decisions
from runner.errors import DataError

WHO = ("ann", "bob")


def decision(sample="1", verdict="accept", *, summary=None, who="ann", annotation=None):
    return Decision(sample, verdict, annotation or f"annotation of {sample}", summary, who, "2026-01-01T00:00:00+00:00")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "review" / "decisions.jsonl"


def test_a_decision_is_read_back_by_another_log(file):
    ReviewLog(file).add(decision("1", "edit", summary="A dog."), seen=0)
    found = ReviewLog(file).standing("1", "annotation of 1")
    assert (found.decision, found.summary, found.who) == ("edit", "A dog.", "ann")


def test_a_decision_about_another_summary_does_not_hold(file):
    log = ReviewLog(file)
    log.add(decision(), seen=0)
    assert log.standing("1", "another annotation") is None


def test_a_log_sees_what_another_process_writes(file):
    log = ReviewLog(file)
    decide(file, decision())
    assert log.standing("1", "annotation of 1") is None
    log.catch_up()
    assert log.standing("1", "annotation of 1") == decision()


def test_who_was_too_late_overwrites_nothing(file):
    first, second = ReviewLog(file), ReviewLog(file)
    first.add(decision(who="ann"), seen=0)
    with pytest.raises(OvertakenError):
        second.add(decision(verdict="reject", who="bob"), seen=0)
    assert second.standing("1", "annotation of 1").who == "ann"
    assert len(file.read_bytes().splitlines()) == 1


def test_undo_goes_back_level_by_level_and_only_ones_own(file):
    log = ReviewLog(file)
    for place, name in enumerate("123"):
        log.add(decision(name), seen=0)
        assert log.revision(name) == 1, place
    log.add(decision("1", "reject"), seen=1)
    log.add(decision("2", "reject", who="bob"), seen=1)
    # Bob has replaced the decision about 2, so that ann's next level is 3, and then her first one about 1.
    assert [log.undo("ann").sample for _ in range(3)] == ["1", "3", "1"]
    assert log.undo("ann") is None
    assert log.standing("2", "annotation of 2").who == "bob"
    assert log.undo("bob").sample == "2"
    assert log.standing("2", "annotation of 2").who == "ann"


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_a_torn_line_is_told_and_spoils_nothing_else(file, cut):
    log = ReviewLog(file)
    log.add(decision("1"), seen=0)
    log.add(decision("2"), seen=0)
    whole = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(whole[0] + whole[1][:-1][:cut])
    again = ReviewLog(file)
    assert again.ends_torn
    again.add(decision("3", "reject"), seen=0)
    assert not again.ends_torn
    for log in (again, ReviewLog(file)):
        assert log.torn == [2]
        assert log.standing("1", "annotation of 1")
        assert log.standing("2", "annotation of 2") is None
        assert log.standing("3", "annotation of 3").decision == "reject"


@pytest.mark.parametrize(
    "line",
    [
        "5",
        "{}",
        json.dumps({"sample": "1", "decision": "maybe", "annotation": "", "summary": None, "who": "", "when": ""}),
    ],
)
def test_a_whole_line_that_is_no_decision_is_named(file, line):
    ReviewLog(file).add(decision(), seen=0)
    file.write_bytes(file.read_bytes() + line.encode() + b"\n")
    with pytest.raises(DataError, match=rf"{file}:2: is no decision"):
        ReviewLog(file)


def test_what_cannot_be_written_is_an_error_that_says_so(tmp_path):
    (tmp_path / "review").write_text("a file where a folder should be")
    log = ReviewLog(tmp_path / "review" / "decisions.jsonl")
    with pytest.raises(DataError, match="cannot be written"):
        log.add(decision(), seen=0)


def _write_many(file, who):
    log = ReviewLog(file)
    for number in range(50):
        log.add(decision(f"{who}{number}", who=who), seen=0)


def test_two_processes_at_once_lose_nothing(file):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(file, who)) for who in WHO]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    log = ReviewLog(file)
    assert (log.num_lines, log.torn) == (100, [])
    assert all(log.standing(f"{who}{n}", f"annotation of {who}{n}") for who in WHO for n in range(50))


steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from("123"), st.sampled_from(["accept", "reject"]), st.sampled_from(WHO)),
        st.sampled_from(WHO),
    ),
    max_size=30,
)


@settings(max_examples=40)
@given(steps)
def test_a_log_and_a_build_agree_on_what_stands(tmp_path_factory, taken):
    file = tmp_path_factory.mktemp("log") / "decisions.jsonl"
    log = ReviewLog(file)
    for step in taken:
        if isinstance(step, str):
            log.undo(step)
        else:
            name, verdict, who = step
            log.add(decision(name, verdict, who=who), seen=log.revision(name))
    standing = read_decisions(file)
    for name in "123":
        last = standing[name][-1] if name in standing else None
        assert log.standing(name, f"annotation of {name}") == last
        assert ReviewLog(file).standing(name, f"annotation of {name}") == last
