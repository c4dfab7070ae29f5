"""Bodies of responses of any form are read, or refused with what they contain; reasoning is removed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.servers.answers import THINKING_TAG, AnswerNotes, final_answer, read_reply, remove_thinking

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
TEXT = st.text(st.characters(exclude_characters="<[", codec="utf-8"), max_size=20)


def body(content="Ada", usage=None, finish_reason="stop", **message):
    choice = {"message": {"content": content, **message}, "finish_reason": finish_reason}
    return json.dumps({"id": "c", "model": "m", "choices": [choice], "usage": usage}).encode()


@given(JSON, JSON, JSON, JSON)
def test_a_completion_of_any_content_is_refused_or_can_be_stored(content, usage, finish_reason, refusal):
    try:
        reply = read_reply("s", body(content, usage, finish_reason, refusal=refusal))
    except ValueError as error:
        assert not (content is None or isinstance(content, str))
        assert str(error).isprintable()
        return
    stored = (reply.text, reply.finish_reason, reply.refusal or "", reply.model, reply.response_id)
    assert json.loads(json.dumps(stored, ensure_ascii=False).encode()) == list(stored)
    for count in (reply.input_tokens, reply.output_tokens):
        assert count is None or (type(count) is int and count >= 0)


@given(JSON)
def test_any_other_body_is_refused_or_read(document):
    for value in (document, {"choices": document}, {"choices": [document]}, {"choices": [{"message": document}]}):
        try:
            read_reply("s", json.dumps(value).encode())
        except ValueError as error:
            assert str(error).isprintable()


@pytest.mark.parametrize("content", [b"", b"<html>", b"\xff\xfe", b"[" * 3000, b"1" * 5000])
def test_body_that_is_not_json_is_shown_in_the_error(content):
    with pytest.raises(ValueError, match=r"it is not JSON \(.*begins with b'"):
        read_reply("s", content)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "A"}, {"type": "text", "text": "da"}], "Ada"),
        (["A", {"type": "output_text", "text": "da"}], "Ada"),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "Ada"}],
         "<think>hm</think>Ada"),
        ([], ""),
        ("A\ud83d!", "A�!"),
        ("\ud83d\ude00", "😀"),
    ],
)  # fmt: skip
def test_parts_are_joined_and_halves_are_replaced(content, text):
    assert read_reply("s", body(content)).text == text


def test_unusual_parts_are_told():
    reply = read_reply("s", body([{"type": "text", "text": "A"}, {"type": "audio", "audio": "…"}]))
    assert (reply.text, [*reply.notes]) == (
        "A",
        ["have parts without text, such as of the type 'audio', which were left out"],
    )
    assert read_reply("s", body([{"type": "refusal", "refusal": "no"}])).refusal == "no"


@pytest.mark.parametrize("usage", [5, "x", [], {"prompt_tokens": -5}, {"completion_tokens": 10**400}])
def test_usage_that_cannot_be_right_counts_as_not_reported(usage):
    reply = read_reply("s", body(usage=usage))
    assert (reply.input_tokens, reply.output_tokens) == (None, None)
    assert reply.notes == ("report a number of tokens that cannot be right; it counts as not reported",)


@given(
    st.lists(TEXT, max_size=2), TEXT, st.sampled_from(["<think>{}</think>", " <thinking>{}</thinking>\n", "{}</think>"])
)
def test_reasoning_before_an_answer_is_removed(thoughts, answer, form):
    text = "".join(form.format(thought) for thought in thoughts) + answer
    assert remove_thinking(text) == (answer.lstrip() if thoughts else None)


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("<think>too long", ""),
        ("[THINK]a[/THINK] b", "b"),
        ("The sign reads <think>twice</think>.", None),
        ("Ada < Alan", None),
        ("", None),
    ],
)
def test_only_reasoning_at_the_beginning_is_removed(text, rest):
    assert remove_thinking(text) == rest


@pytest.mark.parametrize("block", ["<think></think>", "[THINK]a[/THINK] ", "</think>"])
def test_reasoning_in_many_blocks_takes_linear_time(block, monkeypatch):
    """Each block is searched once: the searched stretches together are about as long as the text."""
    searched = []

    class CountingPattern:
        def search(self, text, start):
            found = THINKING_TAG.search(text, start)
            searched.append((found.end() if found else len(text)) - start)
            return found

    monkeypatch.setattr("plugins.servers.answers.THINKING_TAG", CountingPattern())
    assert remove_thinking(block * 1000 + "Ada") == "Ada"
    assert sum(searched) <= 2 * len(block * 1000 + "Ada")


def test_content_filter_is_told_if_it_cut_an_answer():
    assert final_answer(" ", "content_filter", "cut") == (" ", [])
    assert final_answer("Ada an", "content_filter", "cut")[1] == ["were cut off by the content filter of the server"]


def test_many_types_of_parts_are_one_note():
    [note] = read_reply("s", body([{"type": f"t{number}"} for number in range(50)])).notes
    assert "such as of the type 't0'" in note


def test_error_in_place_of_a_completion_is_shown():
    with pytest.raises(ValueError, match=r"has no `choices`: .'error': 'quota exceeded'.; a list"):
        read_reply("s", b'{"error": "quota exceeded"}')


def test_final_answer_follows_the_option_and_empty_answers_are_told(recorder):
    assert final_answer("<think>a</think> b", "stop", "cut") == ("b", [])
    text, notes = final_answer("<think>a</think> b", "stop", "flag")
    assert (text, len(notes)) == ("<think>a</think> b", 1)
    counts, reporter = AnswerNotes("http://host/v1"), recorder()
    for sample, finish in (("s0", "stop"), ("s1", "length"), ("s2", "length"), ("s3", "content_filter")):
        counts.add(sample, final_answer("Ada" if finish == "stop" else " ", finish, "cut")[1])
    counts.warn(reporter)
    [warning] = reporter.warnings
    assert warning.startswith("http://host/v1: 2 of 4 answers have no text (finish reason 'length')")
    assert warning.endswith("raise max_new_tokens. Example: sample s1")


def test_a_server_with_many_kinds_of_unusual_answers_causes_few_warnings(recorder):
    counts, reporter = AnswerNotes("server"), recorder()
    for number in range(50):
        counts.add(f"s{number}", final_answer("", f"reason {number}", "cut")[1])
    counts.warn(reporter)
    assert len(reporter.warnings) == 11
    assert reporter.warnings[-1] == "server: there are 40 more kinds of unusual answers"
