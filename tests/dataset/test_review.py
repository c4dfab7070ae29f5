"""Decisions of reviewers: each is there at once, stands until it is undone, and is about one summary."""

import fcntl
import json
import threading
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.dataset.build.publish_stage import review_progress
from runner.dataset.build.work_folder import WorkFolder
from runner.dataset.review.decisions import Decision, decide, now, read_decisions, reviewed
from runner.errors import DataError
from runner.files import write_rows_whole


def made(sample="s", decision="accept", annotation="1", summary=None):
    return Decision(sample, decision, annotation, "Mine." if decision == "edit" else summary, "Ada", now())


@settings(max_examples=30)  # each line of each example waits for the disk
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["accept", "edit", "reject", "undo"])), max_size=20))
def test_what_stands_is_what_was_decided_less_what_was_undone(tmp_path_factory, told):
    file = tmp_path_factory.mktemp("review") / "decisions.jsonl"
    expected = {"a": [], "b": []}
    for sample, verdict in told:
        decide(file, made(sample, verdict))
        if verdict != "undo":
            expected[sample].append(verdict)
        elif expected[sample]:
            expected[sample].pop()
    found = read_decisions(file)
    assert {sample: [each.decision for each in stack] for sample, stack in found.items()} == {
        sample: stack for sample, stack in expected.items() if stack
    }


def test_a_torn_line_swallows_none_after_it(tmp_path):
    file = tmp_path / "review" / "decisions.jsonl"
    decide(file, made("a"))
    with file.open("ab") as torn:
        torn.write(b'{"sample": "b", "deci')
    assert set(read_decisions(file)) == {"a"}
    decide(file, made("c"))
    assert set(read_decisions(file)) == {"a", "c"}


def test_half_a_line_that_another_is_writing_is_not_taken_for_a_torn_one(tmp_path):
    file = tmp_path / "decisions.jsonl"
    line = json.dumps(asdict(made("a"))).encode()
    waiting = threading.Thread(target=decide, args=(file, made("b")))
    with file.open("ab", buffering=0) as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(line[:20])
        waiting.start()
        waiting.join(0.5)
        other.write(line[20:] + b"\n")
    waiting.join()
    first, second, end = file.read_bytes().split(b"\n")
    assert (first, json.loads(second)["sample"], end) == (line, "b", b"")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decision": "maybe"}, "'maybe' is none of accept, edit, reject, undo"),
        ({"decision": "edit", "summary": " "}, "an edit has a summary that is not empty"),
        ({"summary": "Mine."}, "no other decision has one"),
        ({"more": 1}, "is no decision"),
    ],
)
def test_what_is_no_decision_is_told_with_its_line(tmp_path, change, message):
    file = tmp_path / "decisions.jsonl"
    decide(file, made())
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps({**asdict(made()), **change}) + "\n")
    with pytest.raises(DataError, match=r"decisions\.jsonl:2: is no decision") as raised:
        read_decisions(file)
    assert message in str(raised.value)


def test_samples_are_shown_with_what_stands_of_their_own_summary(tmp_path):
    work = WorkFolder.of(tmp_path / "made")
    rows = [{"id": name, "summary": f"Of {name}.", "annotation": name, "flags": []} for name in "abcd"]
    write_rows_whole(work.annotated, rows)
    for sample, verdict, annotation in (
        ("a", "accept", "a"),
        ("b", "reject", "b"),
        ("b", "edit", "b"),
        ("c", "reject", "of another summary"),
        ("d", "reject", "d"),
    ):
        decide(work.decisions, made(sample, verdict, annotation))
    found = {each.row["id"]: each for each in reviewed(work)}
    assert {name: each.summary for name, each in found.items()} == {
        "a": "Of a.",
        "b": "Mine.",
        "c": "Of c.",
        "d": "Of d.",
    }
    assert [name for name, each in found.items() if each.is_rejected] == ["d"]
    assert found["c"].decision is None
    counts = review_progress(work)
    assert (counts.accepted, counts.edited, counts.rejected, counts.undecided) == (1, 1, 1, 1)


def test_before_a_build_there_is_nothing_to_review(tmp_path):
    with pytest.raises(DataError, match="no annotated samples here; `runner build DATASET_SPEC` makes them"):
        list(reviewed(WorkFolder.of(tmp_path / "made")))
