"""What a plugin of the stage `generator` returns is stored only if it can be read again."""

import json
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import StepError
from runner.records import Completion, replace_lone_surrogates
from runner.trial.generate import _row, _stored_answers


@given(st.text(st.characters(codec=None)), st.booleans())
def test_text_with_half_characters_can_be_read_again(output, finished):
    row = _row(Completion("s", output, finished))
    assert json.loads(json.dumps(row, ensure_ascii=False).encode()) == row
    assert row["output"] == replace_lone_surrogates(output)


@pytest.mark.parametrize(("output", "finished"), [(5, True), (None, True), (["Ada"], True), ("Ada", None)])
def test_answer_that_is_not_text_names_the_sample(output, finished):
    with pytest.raises(StepError, match=r"generator: sample s: the plugin returned .* The answer is not stored"):
        _row(Completion("s", output, finished))


@given(st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b""))))
def test_stored_lines_of_any_content_are_read_or_counted(tmp_path_factory, lines):
    file = tmp_path_factory.mktemp("run") / "answers.jsonl"
    good = json.dumps({"id": "s", "output": "Ada", "finished": True}).encode()
    file.write_bytes(b"\n".join([*lines, good, b'{"id": "cut']))
    reporter = Mock()
    assert _stored_answers(file, reporter) == {"s": json.loads(good)}
    assert reporter.warn.called == bool(lines)
