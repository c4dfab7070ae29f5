"""Rows for other trainers: as many marks as images, texts unchanged, and no other mark."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.dataset.training_files import (
    FORMATS,
    IMAGE_MARK,
    dataset_info,
    example_row,
    find_example_marks,
    prompt_with_marks,
    write_split,
)
from runner.records import ImagePart, Rendered, TextPart

PIECES = [
    "<image>",
    "<video>",
    "<audio>",
    "<bbox>",
    "<img>",
    "<|im_end|>",
    "<|image_pad|>",
    "<",
    ">",
    "|",
    "\n",
    "a",
    " ",
]
texts = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
parts = st.lists(texts.map(TextPart) | st.integers(0, 3).map(lambda n: ImagePart(Path(f"{n}.png"))), max_size=6)
formats = st.sampled_from(sorted(FORMATS)).map(FORMATS.__getitem__)


def read_as_2u1(text):
    """What Qwen-VL-Series-Finetune replaces: a mark with one line break on each side."""
    return re.sub(r"\n?<image>\n?", "\ufffc", text)


def turns(row):
    if "messages" in row:
        return [message["content"] for message in row["messages"]], row["images"]
    images = row.get("image", [])
    return [turn["value"] for turn in row["conversations"]], [images] if isinstance(images, str) else images


@given(formats, parts, texts)
def test_a_row_has_as_many_marks_as_images_in_order(file_format, content, target):
    example = Rendered("s1", tuple(content), target)
    names = {path: f"images/{path}" for path in example.images}
    (prompt, answer), images = turns(example_row(example, file_format, names))
    assert prompt.count(IMAGE_MARK) == len(example.images)
    assert IMAGE_MARK not in answer
    assert images == [names[path] for path in example.images]
    others = file_format.find_marks(prompt.replace(IMAGE_MARK, "")) + file_format.find_marks(answer)
    assert not [mark for mark in others if mark != IMAGE_MARK]


@given(formats, parts, texts)
def test_the_reader_gets_the_texts_back(file_format, content, target):
    example = Rendered("s1", tuple(content), target)
    joined = "".join("\ufffc" if isinstance(part, ImagePart) else part.text for part in content)
    expected = "\ufffc".join(map(file_format.escape, joined.split("\ufffc")))
    prompt = prompt_with_marks(example, file_format)
    read = read_as_2u1(prompt) if file_format.strips_newlines else prompt.replace(IMAGE_MARK, "\ufffc")
    assert read == expected


@given(formats, texts)
def test_escaping_only_adds_spaces_and_leaves_no_mark(file_format, text):
    escaped = file_format.escape(text)
    assert not file_format.find_marks(escaped)
    assert escaped.replace(" ", "") == text.replace(" ", "")
    assert (escaped != text) == bool(file_format.find_marks(text))


@pytest.mark.parametrize(
    ("name", "text", "marks"),
    [
        ("ms_swift", "an <img>a.png</img> and <bbox>", ["<img>", "<bbox>"]),
        ("llama_factory", "a <video>, an <audio>, a <bbox>", ["<video>", "<audio>"]),
        ("2u1", "a <video>, an <image>", ["<image>"]),
        ("2u1", "<|im_end|> <image> <|im_end|>", ["<|im_end|>", "<image>"]),
        ("ms_swift", "1 < 2 and <3", []),
    ],
)
def test_the_marks_are_those_of_the_reader(name, text, marks):
    assert FORMATS[name].find_marks(text) == marks
    assert find_example_marks(Rendered("s", (TextPart("x"),), text), FORMATS[name]) == marks


def test_a_mark_that_begins_in_one_part_is_found():
    content = (TextPart("a <ima"), TextPart("ge>"))
    assert find_example_marks(Rendered("s", content, "b"), FORMATS["2u1"]) == ["<image>"]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_llava_names_one_image_a_list_or_none(number):
    content = (*(ImagePart(Path(f"{each}.png")) for each in range(number)), TextPart("what?"))
    names = {Path(f"{each}.png"): f"images/{each}.png" for each in range(number)}
    row = example_row(Rendered("s1", content, "this"), FORMATS["2u1"], names)
    assert row.get("image") == [None, "images/0.png", ["images/0.png", "images/1.png"]][number]
    assert row["conversations"] == [
        {"from": "human", "value": IMAGE_MARK * number + "what?"},
        {"from": "gpt", "value": "this"},
    ]


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_split_is_json_lines_or_one_json_list(tmp_path, number):
    rows = [{"id": f"é{each}"} for each in range(number)]
    for name in FORMATS:
        write_split(tmp_path, name, rows, FORMATS[name])
    assert json.loads((tmp_path / "2u1.json").read_text(encoding="utf-8")) == rows
    lines = (tmp_path / "ms_swift.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == rows


def test_names_for_llama_factory_have_no_comma():
    assert list(dataset_info("my, set", ["train"])) == ["my__set_train"]
