"""A ledger finds what was added, whatever tore its last line, and never loses a line that was whole."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.dataset.build.work_folder import JsonlStore
from runner.errors import DataError

ROWS = st.lists(st.tuples(st.sampled_from("abcd"), st.text(max_size=8)), max_size=12)


@given(ROWS)
def test_the_last_row_of_a_key_counts_and_is_there_when_it_is_opened_again(tmp_path_factory, added):
    path = tmp_path_factory.mktemp("ledger") / "rows.jsonl"
    expected = {key: {"key": key, "text": text} for key, text in added}
    with JsonlStore(path, durable=False) as ledger:
        for key, text in added:
            ledger.add(key, {"text": text})
            assert ledger[key]["text"] == text
        assert dict(ledger) == expected
    with JsonlStore(path, durable=True) as ledger:
        assert dict(ledger) == expected
        assert (len(ledger), "z" in ledger, ledger.get("z")) == (len(expected), False, None)


@given(ROWS.filter(bool), st.data())
def test_a_kill_loses_at_most_the_line_that_it_tore(tmp_path_factory, added, data):
    path = tmp_path_factory.mktemp("ledger") / "rows.jsonl"
    with JsonlStore(path, durable=False) as ledger:
        for number, (key, text) in enumerate(added):
            ledger.add(f"{key}{number}", {"text": text})
    written = path.read_bytes()
    cut = data.draw(st.integers(0, len(written)))
    path.write_bytes(written[:cut])
    with JsonlStore(path, durable=False) as ledger:
        assert len(ledger) == written[:cut].count(b"\n")
        ledger.add("new", {"text": "after"})
    with JsonlStore(path, durable=False) as ledger:
        assert ledger["new"]["text"] == "after"
        assert len(ledger) == written[:cut].count(b"\n") + 1
    assert all(json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line)


@pytest.mark.parametrize("damage", [b"{nonsense\n", b'{"no": "key"}\n', b"[]\n"])
def test_damage_in_the_middle_is_told_with_its_line(tmp_path, damage):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"key": "a"}\n' + damage + b'{"key": "b"}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:2: is damaged; remove this line"):
        JsonlStore(path, durable=False)
