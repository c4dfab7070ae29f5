"""Items of JSON files: the same values as `json.loads`, each with its line."""

import json

from hypothesis import given
from hypothesis import strategies as st

from plugins.source.json_items import read_json_items

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=4), inside, max_size=3),
    max_leaves=6,
)


@given(
    st.lists(values, max_size=5),
    st.dictionaries(st.text(max_size=4), values, max_size=4),
    st.none() | st.integers(0, 3),
)
def test_items_of_any_json(tmp_path_factory, array, document, indent):
    file = tmp_path_factory.mktemp("json") / "x.json"
    for content in (array, document):
        file.write_text(json.dumps(content, indent=indent))
        found = read_json_items(file)
        expected = {"": content} if isinstance(content, list) else content
        assert {key: [item.value for item in items] for key, items in found.items()} == {
            key: value for key, value in expected.items() if isinstance(value, list)
        }


def test_lines(tmp_path):
    file = tmp_path / "x.json"
    file.write_text('{"a": 1,\n "b": [\n  {"x":\n 1}, 2,\n 3], "c": []}')
    found = read_json_items(file)
    assert [(item.location, item.value) for item in found["b"]] == [
        (f"{file}:{line}", value) for line, value in ((3, {"x": 1}), (4, 2), (5, 3))
    ]
    assert found["c"] == []
