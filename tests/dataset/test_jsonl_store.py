"""The JSON-lines store: rows are found again, and a torn last line loses no complete line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.dataset.build.work_folder import JsonlStore
from runner.errors import DataError

ROWS = st.lists(st.tuples(st.sampled_from("abcd"), st.text(max_size=8)), max_size=12)


@given(ROWS)
def test_last_row_of_a_key_counts_and_persists(tmp_path_factory, added):
    path = tmp_path_factory.mktemp("ledger") / "rows.jsonl"
    expected = {key: {"key": key, "text": text} for key, text in added}
    with JsonlStore(path, durable=False) as store:
        for key, text in added:
            store.add(key, {"text": text})
            assert store[key]["text"] == text
        assert dict(store) == expected
    with JsonlStore(path, durable=True) as store:
        assert dict(store) == expected
        assert (len(store), "z" in store, store.get("z")) == (len(expected), False, None)


@given(ROWS.filter(bool), st.data())
def test_kill_loses_at_most_the_torn_line(tmp_path_factory, added, data):
    path = tmp_path_factory.mktemp("ledger") / "rows.jsonl"
    with JsonlStore(path, durable=False) as store:
        for number, (key, text) in enumerate(added):
            store.add(f"{key}{number}", {"text": text})
    written = path.read_bytes()
    cut = data.draw(st.integers(0, len(written)))
    path.write_bytes(written[:cut])
    with JsonlStore(path, durable=False) as store:
        assert len(store) == written[:cut].count(b"\n")
        store.add("new", {"text": "after"})
    with JsonlStore(path, durable=False) as store:
        assert store["new"]["text"] == "after"
        assert len(store) == written[:cut].count(b"\n") + 1
    assert all(json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line)


@pytest.mark.parametrize("damage", [b"{nonsense\n", b'{"no": "key"}\n', b"[]\n", b"[" * 5000 + b"\n", b'{"key": []}\n'])
def test_damage_in_the_middle_is_reported_with_its_line(tmp_path, damage):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"key": "a"}\n' + damage + b'{"key": "b"}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:2: is damaged. Remove this line"):
        JsonlStore(path, durable=False)
