"""The decision log: concurrent writers and kills lose nothing else."""

import json
import multiprocessing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.dataset.review.decisions import Decision, DecisionConflictError, ReviewLog, append_decision, read_decisions
from runner.errors import DataError

WHO = ("ann", "bob")


def decision(sample="1", verdict="accept", *, summary=None, who="ann", annotation=None):
    return Decision(sample, verdict, annotation or f"annotation of {sample}", summary, who, "2026-01-01T00:00:00+00:00")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "review" / "decisions.jsonl"


def test_decision_is_read_by_another_log(file):
    ReviewLog(file).add(decision("1", "edit", summary="A dog."), expected_revision=0)
    current = ReviewLog(file).current_decision("1", "annotation of 1")
    assert (current.decision, current.summary, current.who) == ("edit", "A dog.", "ann")


def test_decision_does_not_apply_to_another_summary(file):
    log = ReviewLog(file)
    log.add(decision(), expected_revision=0)
    assert log.current_decision("1", "another annotation") is None


def test_log_reads_decisions_of_other_processes(file):
    log = ReviewLog(file)
    append_decision(file, decision())
    assert log.current_decision("1", "annotation of 1") is None
    log.catch_up()
    assert log.current_decision("1", "annotation of 1") == decision()


def test_conflicting_decision_is_not_written(file):
    first, second = ReviewLog(file), ReviewLog(file)
    first.add(decision(who="ann"), expected_revision=0)
    with pytest.raises(DecisionConflictError):
        second.add(decision(verdict="reject", who="bob"), expected_revision=0)
    assert second.current_decision("1", "annotation of 1").who == "ann"
    assert len(file.read_bytes().splitlines()) == 1


def test_undo_revokes_own_decisions_one_by_one(file):
    log = ReviewLog(file)
    for place, name in enumerate("123"):
        log.add(decision(name), expected_revision=0)
        assert log.revision(name) == 1, place
    log.add(decision("1", "reject"), expected_revision=1)
    log.add(decision("2", "reject", who="bob"), expected_revision=1)
    # Bob has replaced the decision about 2, so ann's next decisions to undo are that about 3 and her first about 1.
    assert [log.undo("ann").sample for _ in range(3)] == ["1", "3", "1"]
    assert log.undo("ann") is None
    assert log.current_decision("2", "annotation of 2").who == "bob"
    assert log.undo("bob").sample == "2"
    assert log.current_decision("2", "annotation of 2").who == "ann"


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_torn_line_is_reported_and_other_lines_stay_valid(file, cut):
    log = ReviewLog(file)
    log.add(decision("1"), expected_revision=0)
    log.add(decision("2"), expected_revision=0)
    whole = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(whole[0] + whole[1][:-1][:cut])
    again = ReviewLog(file)
    assert again.ends_with_partial_line
    again.add(decision("3", "reject"), expected_revision=0)
    assert not again.ends_with_partial_line
    for log in (again, ReviewLog(file)):
        assert log.torn_lines == [2]
        assert log.current_decision("1", "annotation of 1")
        assert log.current_decision("2", "annotation of 2") is None
        assert log.current_decision("3", "annotation of 3").decision == "reject"


@pytest.mark.parametrize(
    "line",
    [
        "5",
        "{}",
        json.dumps({"sample": "1", "decision": "maybe", "annotation": "", "summary": None, "who": "", "when": ""}),
    ],
)
def test_complete_invalid_line_is_reported(file, line):
    ReviewLog(file).add(decision(), expected_revision=0)
    file.write_bytes(file.read_bytes() + line.encode() + b"\n")
    with pytest.raises(DataError, match=rf"{file}:2: is not a decision"):
        ReviewLog(file)


def test_failed_write_is_reported(tmp_path):
    (tmp_path / "review").write_text("a file where a folder should be")
    log = ReviewLog(tmp_path / "review" / "decisions.jsonl")
    with pytest.raises(DataError, match="cannot be written"):
        log.add(decision(), expected_revision=0)


def _write_many(file, who):
    log = ReviewLog(file)
    for number in range(50):
        log.add(decision(f"{who}{number}", who=who), expected_revision=0)


def test_concurrent_processes_lose_nothing(file):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(file, who)) for who in WHO]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    log = ReviewLog(file)
    assert (log.num_lines, log.torn_lines) == (100, [])
    assert all(log.current_decision(f"{who}{n}", f"annotation of {who}{n}") for who in WHO for n in range(50))


steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from("123"), st.sampled_from(["accept", "reject"]), st.sampled_from(WHO)),
        st.sampled_from(WHO),
    ),
    max_size=30,
)


@settings(max_examples=40)
@given(steps)
def test_log_and_build_agree_on_current_decisions(tmp_path_factory, actions):
    file = tmp_path_factory.mktemp("log") / "decisions.jsonl"
    log = ReviewLog(file)
    for step in actions:
        if isinstance(step, str):
            log.undo(step)
        else:
            name, verdict, who = step
            log.add(decision(name, verdict, who=who), expected_revision=log.revision(name))
    standing = read_decisions(file)
    for name in "123":
        last = standing[name][-1] if name in standing else None
        assert log.current_decision(name, f"annotation of {name}") == last
        assert ReviewLog(file).current_decision(name, f"annotation of {name}") == last
