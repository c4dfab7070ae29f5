"""Texts are normalized to NFC, unless they have rows of combining marks that no writing has."""

from unicodedata import combining, normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.dataset.leaks import text_key
from runner.records import MAX_COMBINING_MARKS, can_be_normalized, nfc

MARKS = "\u0301\u0315\u05ae\u0344\u0f73\uff9e"
TEXT = st.text(st.sampled_from("aé中가ｶ" + MARKS), max_size=3 * MAX_COMBINING_MARKS) | st.text()


@given(TEXT)
def test_no_normal_form_of_a_text_has_a_long_row_of_marks(text):
    if can_be_normalized(text):
        assert nfc(text) == normalize("NFC", text)
        for form in ("NFD", "NFKD"):
            marks = "".join("m" if combining(char) else " " for char in normalize(form, text))
            assert max(map(len, marks.split()), default=0) <= 4 * (MAX_COMBINING_MARKS + 1)
    else:
        assert nfc(text) == text
    assert nfc(nfc(text)) == nfc(text)


@pytest.mark.parametrize("mark", MARKS)
def test_only_rows_above_the_limit_stay_as_they_are(mark):
    writing, other = "e\u0301" + "a" + mark * MAX_COMBINING_MARKS, "e\u0301" + "a" + mark * (MAX_COMBINING_MARKS + 2)
    assert nfc(writing) == normalize("NFC", writing) != writing
    assert nfc(other) == other
    assert text_key(other.upper()) == text_key(f" {other} ")


def test_long_texts_without_long_rows_are_normalized():
    assert nfc("e\u0301 \u4e2d" * 1000) == "é \u4e2d" * 1000
