"""Decisions in a build: they apply at once, until they are undone, and to one summary only."""

import fcntl
import json
import threading
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.dataset.build.split_and_publish_stage import count_decisions
from runner.dataset.build.work_folder import WorkFolder
from runner.dataset.review.decisions import Decision, append_decision, read_decisions, reviewed_samples, utc_now
from runner.errors import DataError
from runner.files import stream_jsonl


def decision_about(sample="s", decision="accept", annotation="1", summary=None):
    return Decision(sample, decision, annotation, "Mine." if decision == "edit" else summary, "Ada", utc_now())


@settings(max_examples=30)  # each line of each example waits for the disk
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["accept", "edit", "reject", "undo"])), max_size=20))
def test_undone_decisions_are_not_read(tmp_path_factory, verdicts):
    file = tmp_path_factory.mktemp("review") / "decisions.jsonl"
    expected = {"a": [], "b": []}
    for sample, verdict in verdicts:
        append_decision(file, decision_about(sample, verdict))
        if verdict != "undo":
            expected[sample].append(verdict)
        elif expected[sample]:
            expected[sample].pop()
    current = read_decisions(file)
    assert {sample: [each.decision for each in stack] for sample, stack in current.items()} == {
        sample: stack for sample, stack in expected.items() if stack
    }


def test_torn_line_does_not_absorb_the_next_one(tmp_path):
    file = tmp_path / "review" / "decisions.jsonl"
    append_decision(file, decision_about("a"))
    with file.open("ab") as torn:
        torn.write(b'{"sample": "b", "deci')
    assert set(read_decisions(file)) == {"a"}
    append_decision(file, decision_about("c"))
    assert set(read_decisions(file)) == {"a", "c"}


def test_line_being_written_is_not_mistaken_for_a_torn_one(tmp_path):
    file = tmp_path / "decisions.jsonl"
    line = json.dumps(asdict(decision_about("a"))).encode()
    waiting = threading.Thread(target=append_decision, args=(file, decision_about("b")))
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
        ({"decision": "maybe"}, "'maybe' is unknown. Known: accept, edit, reject, undo"),
        ({"decision": "edit", "summary": " "}, "an edit needs a non-empty summary"),
        ({"decision": "edit", "summary": "\u200b\u3000"}, "an edit needs a non-empty summary"),
        ({"summary": "Mine."}, "no other decision has one"),
        ({"more": 1}, "is not a decision"),
    ],
)
def test_invalid_decision_is_reported_with_its_line(tmp_path, change, message):
    file = tmp_path / "decisions.jsonl"
    append_decision(file, decision_about())
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps({**asdict(decision_about()), **change}) + "\n")
    with pytest.raises(DataError, match=r"decisions\.jsonl:2: is not a decision") as raised:
        read_decisions(file)
    assert message in str(raised.value)


@pytest.mark.parametrize("line", ["[" * 5000, "5", "[]", '{"sample": []}'])
def test_line_of_any_json_is_reported_or_counts_as_torn(tmp_path, line):
    file = tmp_path / "decisions.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(DataError, match=r"decisions\.jsonl:1: is not a decision"):
        read_decisions(file)


def test_samples_have_the_decision_about_their_summary(tmp_path):
    work = WorkFolder.for_dataset(tmp_path / "made")
    rows = [{"id": name, "summary": f"Of {name}.", "annotation": name, "flags": []} for name in "abcd"]
    stream_jsonl(work.annotated_samples, rows)
    for sample, verdict, annotation in (
        ("a", "accept", "a"),
        ("b", "reject", "b"),
        ("b", "edit", "b"),
        ("c", "reject", "of another summary"),
        ("d", "reject", "d"),
    ):
        append_decision(work.decisions, decision_about(sample, verdict, annotation))
    current = {each.row["id"]: each for each in reviewed_samples(work)}
    assert {name: each.summary for name, each in current.items()} == {
        "a": "Of a.",
        "b": "Mine.",
        "c": "Of c.",
        "d": "Of d.",
    }
    assert [name for name, each in current.items() if each.is_rejected] == ["d"]
    assert current["c"].decision is None
    counts = count_decisions(work)
    assert (counts.accepted, counts.edited, counts.rejected, counts.undecided) == (1, 1, 1, 1)


def test_missing_annotated_samples_are_reported(tmp_path):
    with pytest.raises(DataError, match=r"no annotated samples here. `runner build DATASET_SPEC` creates them"):
        list(reviewed_samples(WorkFolder.for_dataset(tmp_path / "made")))
