"""Your own samples: valid lines, and errors with file and line."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from plugins.source.json_lines import JsonLinesSource
from plugins.source.source_options import JsonLinesOptions
from runner.errors import DataError
from runner.records import Entity
from runner.stages import SkippedEntry, SourceTweet

GOOD = {
    "id": "s1",
    "text": "Ada in Rome",
    "image": "1.jpg",
    "entities": [{"label": "person", "text": "Ada"}, {"label": "location", "text": "Rome"}],
    "segments": [{"entity": "Rome", "box": [1, 2, 30, 40]}, {"entity": "Ada", "box": [-3.4, 0, 10.6, 12]}],
}


def written(path, *lines, **options):
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return list(JsonLinesSource(JsonLinesOptions(path=path, **options)).read())


def test_a_line(tmp_path):
    (entry,) = written(tmp_path / "mine.jsonl", GOOD | {"summary": "A view.", "size": [80, 60]})
    assert isinstance(entry, SourceTweet)
    assert (entry.split, entry.size) == ("mine", (80, 60))
    sample = entry.sample
    assert (sample.id, sample.text, sample.image) == ("s1", "Ada in Rome", tmp_path / "1.jpg")
    assert sample.summary == "A view."
    assert sample.entities == (Entity("person", "Ada"), Entity("location", "Rome"))
    assert [(each.letter, each.entity, each.box) for each in sample.segments] == [
        ("a", "Rome", (1, 2, 30, 40)),
        ("b", "Ada", (-3, 0, 11, 12)),
    ]


def test_a_folder_of_splits_with_images_elsewhere(tmp_path):
    (tmp_path / "lines").mkdir()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "lines" / "train.jsonl").write_text("\ufeff" + json.dumps(GOOD) + "\n\n", encoding="utf-8")
    (tmp_path / "lines" / "test.jsonl").write_text(json.dumps(GOOD | {"id": "s2", "image": "sub/2.png"}))
    options = JsonLinesOptions(path=tmp_path / "lines", images=tmp_path / "pictures")
    entries = list(JsonLinesSource(options).read())
    assert [(each.split, each.sample.id) for each in entries] == [("test", "s2"), ("train", "s1")]
    assert entries[0].sample.image == tmp_path / "pictures" / "sub" / "2.png"


def test_other_labels(tmp_path):
    line = GOOD | {"entities": [{"label": "dish", "text": "Ada"}]}
    source = JsonLinesOptions(path=tmp_path / "mine.jsonl", labels=["dish", "drink"])
    entries = written(tmp_path / "mine.jsonl", line, labels=["dish", "drink"])
    assert JsonLinesSource(source).labels == ("dish", "drink")
    assert entries[0] == SkippedEntry("s1", "box of something that is not an entity of the text: Rome")
    assert entries[1].sample.entities == (Entity("dish", "Ada"),)


@pytest.mark.parametrize("labels", [[], ["a", "a"], ["a;b"], ["a:b"], [" a"], [""]])
def test_labels_that_do_not_fit_the_answer_format_are_refused(tmp_path, labels):
    with pytest.raises(ValueError, match="labels"):
        JsonLinesOptions(path=tmp_path, labels=labels)


def test_skipped_entries_and_reasons(tmp_path):
    other = GOOD | {"id": "s2", "segments": [{"entity": "Bob", "box": [0, 0, 9, 9]}]}
    entries = written(tmp_path / "mine.jsonl", other, GOOD | {"id": "s3", "segments": []})
    assert entries[0] == SkippedEntry("s2", "box of something that is not an entity of the text: Bob")
    assert [(entry.sample.id, entry.sample.segments) for entry in entries[1:]] == [("s2", ()), ("s3", ())]


def without(key):
    return {name: value for name, value in GOOD.items() if name != key}


BAD = {
    "no JSON": ('{"id": "s2"', "is not JSON"),
    "no object": ('["s2"]', "is not a JSON object"),
    "no text": (without("text"), "text: is missing"),
    "no boxes": (without("segments"), "segments: is missing"),
    "a misspelt key": (GOOD | {"sumary": "x"}, "sumary: unknown key 'sumary'; did you mean 'summary'?"),
    "a box of three": (GOOD | {"segments": [{"entity": "Ada", "box": [0, 0, 4]}]}, "segments.0.box: list should have"),
    "a box of text": (GOOD | {"segments": [{"entity": "Ada", "box": "0 0"}]}, "segments.0.box: must be a list"),
    "a side without end": (
        '{"id": "x", "text": "t", "image": "i", "entities": [], "segments": [{"entity": "A", "box": [0, 0, NaN, 1]}]}',
        "segments.0.box.2: input should be a finite number",
    ),
    "an unknown label": (
        GOOD | {"entities": [{"label": "pet", "text": "Ada"}]},
        "entities.0.label: 'pet' is not one of",
    ),
    "an empty entity": (GOOD | {"entities": [{"label": "person", "text": ""}]}, "entities.0.text: string should have"),
    "an id that is a path": (GOOD | {"id": "../s"}, "id: '../s' cannot be used in file names"),
    "an id that is a number": (GOOD | {"id": 7}, "id: input should be a valid string, not 7"),
    "a picture outside": (GOOD | {"image": "../1.jpg"}, "image: '../1.jpg' is outside"),
    "a picture anywhere": (GOOD | {"image": "/etc/passwd"}, "image: '/etc/passwd' is outside"),
    "half a character": (GOOD | {"text": "\ud800"}, "text: "),
    "no size": (GOOD | {"size": [0, 60]}, "size.0: input should be greater than 0"),
    "a double id": (GOOD, "the id 's1' is already used at"),
    "a picture of the same name": (GOOD | {"id": "s2", "image": "other/1.png"}, "'other/1.png' would be stored as '1'"),
}


@pytest.mark.parametrize(("line", "message"), BAD.values(), ids=BAD)
def test_an_error_names_the_invalid_line(tmp_path, line, message):
    path = tmp_path / "mine.jsonl"
    with pytest.raises(DataError) as raised:
        written(path, GOOD, "", line)
    assert str(raised.value).startswith(f"{path}:3: ")
    assert message in str(raised.value)


def test_all_invalid_lines_are_reported_together_the_first_ten_in_full(tmp_path):
    path = tmp_path / "mine.jsonl"
    with pytest.raises(DataError) as raised:
        written(path, *(GOOD | {"id": str(number), "text": number} for number in range(12)))
    lines = str(raised.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"{path}:{number}" for number in range(1, 11)] + ["and 2 more"]


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_missing_files(tmp_path, make):
    make(tmp_path / "lines")
    with pytest.raises(DataError, match=r"no such file or folder; source\.path|contains no <split>\.jsonl"):
        list(JsonLinesSource(JsonLinesOptions(path=tmp_path / "lines")).read())


@pytest.mark.parametrize("name", ["left_out", "annotations"])
def test_a_file_name_that_cannot_be_a_split(tmp_path, name):
    with pytest.raises(DataError, match=f"'{name}' cannot be the name of a split"):
        written(tmp_path / f"{name}.jsonl", GOOD)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.integers(),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=8), inside, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from([*GOOD, "summary", "size"]), json_values, max_size=7), json_values)
def test_any_json_is_read_or_reported_with_its_line(tmp_path_factory, changes, other):
    path = tmp_path_factory.mktemp("lines") / "mine.jsonl"
    for line in (GOOD | changes, other):
        try:
            entries = written(path, line)
        except DataError as error:
            assert str(error).startswith(f"{path}:1: ")
        else:
            assert all(isinstance(each, SourceTweet | SkippedEntry) for each in entries)


@pytest.mark.parametrize("blank", [" ", "\n\t", "\u3000", "\u200b"])
@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("text", lambda blank: {"text": blank}),
        ("summary", lambda blank: {"summary": blank}),
        ("entities.0.text", lambda blank: {"entities": [{"label": "person", "text": blank}]}),
        ("segments.0.entity", lambda blank: {"segments": [{"entity": blank, "box": [1, 2, 3, 4]}]}),
    ],
)
def test_text_of_white_space_is_an_error_with_its_line(tmp_path, path, change, blank):
    with pytest.raises(DataError, match=rf"mine\.jsonl:2: {path}: holds only white space; write a text") as raised:
        written(tmp_path / "mine.jsonl", GOOD, GOOD | {"id": "s2"} | change(blank))
    assert len(str(raised.value).splitlines()) == 1


def test_suffixes_in_capitals_and_other_formats(tmp_path):
    (tmp_path / "train.JSONL").write_text(json.dumps(GOOD))
    [entry] = JsonLinesSource(JsonLinesOptions(path=tmp_path)).read()
    assert entry.split == "train"
    (tmp_path / "train.JSONL").write_text(json.dumps([GOOD, GOOD], indent=1))
    with pytest.raises(DataError, match=r"train\.JSONL:1: is a JSON array\. Expected: JSON lines.*jq"):
        list(JsonLinesSource(JsonLinesOptions(path=tmp_path)).read())
    (tmp_path / "train.JSONL").rename(tmp_path / "train.json")
    with pytest.raises(DataError, match=r"contains no <split>\.jsonl.*; the folder contains train\.json"):
        list(JsonLinesSource(JsonLinesOptions(path=tmp_path)).read())


def test_boxes_that_do_not_fit_their_format_are_reported_with_line_and_id(tmp_path):
    path = tmp_path / "mine.jsonl"
    shares = GOOD | {"segments": [{"entity": "Ada", "box": [0.1, 0.2, 0.5, 0.9]}]}
    inverted = GOOD | {"id": "s2", "segments": [GOOD["segments"][0], {"entity": "Ada", "box": [30, 2, 10, 40]}]}
    with pytest.raises(DataError) as raised:
        written(path, shares, inverted)
    first, second = str(raised.value).splitlines()
    assert first.startswith(f"{path}:1: segments.0.box: the box [0.1, 0.2, 0.5, 0.9] is smaller than one pixel; ")
    assert first.endswith("source.box_unit: fraction (sample s1)")
    assert second.startswith(f"{path}:2: segments.1.box: the box [30, 2, 10, 40] is inverted: ")
    assert second.endswith("(sample s2)")
    assert [each.box for each in written(path, inverted, box_format="xywh")[0].sample.segments] == [
        (1, 2, 31, 42),
        (30, 2, 40, 42),
    ]
    [entry] = written(path, shares | {"size": [200, 100]}, box_unit="fraction")
    assert entry.sample.segments[0].box == (20, 20, 100, 90)
    Image.new("RGB", (400, 200)).save(tmp_path / "1.jpg")
    [entry] = written(path, shares, box_unit="fraction")
    assert entry.sample.segments[0].box == (40, 40, 200, 180)
    assert entry.location == f"{path}:1"


def test_images_of_several_folders(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "two" / "1.JPG").write_bytes(b"x")
    [entry] = written(tmp_path / "mine.jsonl", GOOD, images=[tmp_path / "one", tmp_path / "two"])
    assert entry.sample.image == tmp_path / "two" / "1.JPG"
    (tmp_path / "one" / "1.jpg").write_bytes(b"y")
    with pytest.raises(DataError, match=r"mine\.jsonl:1: image: the image '1\.jpg' exists twice .* \(sample s1\)"):
        written(tmp_path / "mine.jsonl", GOOD, images=[tmp_path / "one", tmp_path / "two"])
    with pytest.raises(DataError, match=r"three: no such folder; source\.images"):
        written(tmp_path / "mine.jsonl", GOOD, images=tmp_path / "three")
