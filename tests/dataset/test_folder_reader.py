"""Reading a data-set folder: valid folders are read, and invalid lines are reported with their number."""

import json
import shutil
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from runner.dataset.folder_reader import DatasetFolder
from runner.dataset.folder_writer import dataset_card, publish_atomically
from runner.errors import DataError
from runner.records import Entity, Sample, Segment


def fingerprint(path):
    folder = DatasetFolder(path)
    return folder.info(folder.load_splits()).fingerprint


def edit_line(path, change, number=2):
    """Change a training sample, in place or to the value that `change` returns."""
    file = path / "train.jsonl"
    lines = file.read_text().splitlines()
    row = json.loads(lines[number - 1])
    row = change(row) or row
    lines[number - 1] = row if isinstance(row, str) else json.dumps(row)
    file.write_text("\n".join(lines) + "\n")


def without(row, *keys):
    return {key: value for key, value in row.items() if key not in keys}


def edit_description(path, **changes):
    file = path / "dataset.json"
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_valid_folder_is_read(folder):
    read = DatasetFolder(folder)
    first = read.load("train")[0]
    assert first.id == "s1"
    assert first.image == folder / "images" / "1.png"
    assert first.summary is None
    assert first.entities == (Entity("person", "Ada"), Entity("location", "Rome"))
    assert first.segments == (Segment("a", folder / "segments" / "1-a.png", "Ada", (0, 0, 4, 3)),)
    info = read.info(read.load_splits())
    assert (info.name, info.labels, info.num_samples) == ("tiny", ("person", "location"), {"train": 3, "test": 1})
    assert info.fingerprint == read.description["fingerprint"]


def test_optional_values_may_be_missing(folder):
    edit_line(folder, lambda row: without(row, "image", "summary") | {"segments": []})
    sample = DatasetFolder(folder).load("train")[1]
    assert (sample.image, sample.summary, sample.segments) == (None, None, ())


INVALID = {
    "unknown label": (
        lambda row: row["entities"][0].update(label="pet"),
        "'pet' is unknown. Known labels: person, location",
    ),
    "a path that leads out": (lambda row: row.update(image="../outside.png"), "'../outside.png' is outside"),
    "an absolute path": (lambda row: row.update(image="/etc/passwd"), "'/etc/passwd' is outside"),
    "a segment that leads out": (
        lambda row: row["segments"][0].update(image="segments/../../x.png"),
        "is outside the data set",
    ),
    "a missing image": (lambda row: row.update(image="images/9.png"), "'images/9.png' is missing"),
    "a path that is no text": (lambda row: row.update(image=5), "5 should be text"),
    "a double id": (lambda row: row.update(id="s1"), "'s1' occurs in an earlier line"),
    "a letter out of order": (lambda row: row["segments"][0].update(letter="b"), "segment 'b' should be 'a'"),
    "a box inside out": (
        lambda row: row["segments"][0].update(box=[4, 0, 0, 3]),
        r"should be \[left, top, right, bottom\]",
    ),
    "a box beyond the edge": (
        lambda row: row["segments"][0].update(box=[-1, 0, 4, 3]),
        r"should be \[left, top, right, bottom\]",
    ),
    "a box of three": (lambda row: row["segments"][0].update(box=[0, 0, 4]), r"\[0, 0, 4\] should be \[left"),
    "a box of text": (lambda row: row["segments"][0].update(box="0 0 4 3"), r"should be \[left, top, right, bottom\]"),
    "a box of fractions": (lambda row: row["segments"][0].update(box=[0, 0, 4.5, 3]), "in pixels"),
    "no text": (lambda row: without(row, "text"), "the key 'text' is missing"),
    "no entities": (lambda row: without(row, "entities"), "the key 'entities' is missing"),
    "a segment without box": (
        lambda row: row | {"segments": [without(row["segments"][0], "box")]},
        "the key 'box' is missing",
    ),
    "text that is a number": (lambda row: row.update(text=7), "7 should be text"),
    "half a character": (lambda row: row.update(text="\ud800"), "surrogates not allowed"),
    "a box of true": (
        lambda row: row["segments"][0].update(box=[0, 0, 4, True]),
        r"\[0, 0, 4, True\] should be \[left",
    ),
    "an entity of white space": (
        lambda row: row["entities"][0].update(text="\u3000 "),
        "an entity is empty or holds only",
    ),
    "an empty entity": (lambda row: row["entities"][0].update(text=""), "an entity is empty or holds only white space"),
    "an invisible entity": (
        lambda row: row["entities"][0].update(text="\u200b\ufeff"),
        "an entity is empty or holds only",
    ),
    "a segment of white space": (lambda row: row["segments"][0].update(entity=" "), "the entity of a segment is empty"),
    "a text of white space": (lambda row: row.update(text="\t"), 'write "" if there is no text'),
    "a summary of white space": (lambda row: row.update(summary="\n"), "write null if there is no summary"),
    "no JSON": (lambda row: '{"id": "s2"', "is not JSON"),
    "no object": (lambda row: '["s2"]', "is not a JSON object"),
    "entities in a text": (lambda row: row.update(entities="Ada"), "'entities' is 'Ada'; a list of objects"),
    "entities of text": (lambda row: row.update(entities=["Ada"]), r"'entities' is \['Ada'\]; a list of objects"),
    "segments in an object": (lambda row: row.update(segments={"a": {}}), "a list of objects is expected"),
    "a long path": (lambda row: row.update(image="images/" + "a" * 300), "File name too long"),
    "a path of a number": (lambda row: row.update(image=5), "5 should be text"),
}


@pytest.mark.parametrize(("change", "message"), INVALID.values(), ids=INVALID)
def test_invalid_line_is_reported_with_its_number(folder, change, message):
    edit_line(folder, change)
    with pytest.raises(DataError, match=message) as raised:
        DatasetFolder(folder).load_splits()
    assert str(raised.value).startswith(f"{folder / 'train.jsonl'}:2: ")


@pytest.mark.parametrize("link", ["images/2.png", "images"])
def test_link_out_of_the_folder_is_rejected(folder, tmp_path, link):
    shutil.move(folder / link, tmp_path / "elsewhere")
    (folder / link).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"'images/[12]\.png' is outside the data set"):
        DatasetFolder(folder).load_splits()


def test_links_inside_the_folder_are_resolved(folder, tmp_path):
    (folder / "images" / "again.png").symlink_to("2.png")
    edit_line(folder, lambda row: row.update(image="images/again.png"))
    (tmp_path / "link").symlink_to(folder)
    assert DatasetFolder(tmp_path / "link").load("train")[1].image == folder / "images" / "2.png"


def test_empty_lines_count_in_line_numbers(folder):
    edit_line(folder, lambda row: "\n" + json.dumps(row | {"id": "s1"}))
    with pytest.raises(DataError, match=r"train\.jsonl:3: the id"):
        DatasetFolder(folder).load("train")


def test_invalid_utf8_is_reported(folder):
    file = folder / "train.jsonl"
    file.write_bytes(file.read_bytes().replace(b"Ada 2", b"Ad\xe9 2"))
    with pytest.raises(DataError, match=r"train\.jsonl:2: is not UTF-8 text: byte 0xe9; save the file as UTF-8"):
        DatasetFolder(folder).load("train")


def test_missing_line_is_detected(folder):
    file = folder / "train.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(DataError, match=r"train\.jsonl: contains 2 samples, but dataset\.json says 3"):
        DatasetFolder(folder).load_splits()


def test_missing_split_is_detected(folder):
    (folder / "test.jsonl").unlink()
    with pytest.raises(DataError, match=r"test\.jsonl: is missing"):
        DatasetFolder(folder).load_splits()


def test_unknown_split_error_lists_the_splits(folder):
    with pytest.raises(DataError, match=r"no split 'dev'. Available splits: train, test"):
        DatasetFolder(folder).load("dev")


@pytest.mark.parametrize(
    "changes", [{"name": None}, {"labels": None}, {"num_samples": None}, {"labels": "person"}, {"num_samples": [3, 1]}]
)
def test_missing_or_wrong_key_of_the_description_is_reported(folder, changes):
    edit_description(folder, **changes)
    with pytest.raises(
        DataError, match=rf"dataset\.json: the key '{next(iter(changes))}' is missing or has the wrong type"
    ):
        DatasetFolder(folder).load_splits()


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is not JSON"), ("[]", "the key 'name' is missing"), ("3", "the key 'name' is missing")]
)
def test_description_that_is_not_an_object_is_rejected(folder, text, message):
    (folder / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=message):
        DatasetFolder(folder).load_splits()


def test_missing_folder_error_names_the_build_command(tmp_path):
    with pytest.raises(DataError, match="runner build"):
        DatasetFolder(tmp_path / "nowhere").load_splits()


def repaint(path):
    with Image.open(path) as opened:
        changed = opened.copy()
    changed.putpixel((0, 0), (1, 2, 3))
    changed.save(path)


def swap_lines(folder):
    file = folder / "train.jsonl"
    first, second, third = file.read_text().splitlines()
    file.write_text("\n".join([second, first, third]))


CHANGES = {
    "a pixel": lambda folder: repaint(folder / "images" / "2.png"),
    "a segment's pixel": lambda folder: repaint(folder / "segments" / "4-a.png"),
    "the text": lambda folder: edit_line(folder, lambda row: row.update(text="Ada 2 in Rom")),
    "an id": lambda folder: edit_line(folder, lambda row: row.update(id="s9")),
    "a summary": lambda folder: edit_line(folder, lambda row: row.update(summary="")),
    "a label": lambda folder: edit_line(folder, lambda row: row["entities"][0].update(label="location")),
    "an entity": lambda folder: edit_line(folder, lambda row: row["segments"][0].update(entity="Rome")),
    "a box": lambda folder: edit_line(folder, lambda row: row["segments"][0].update(box=[0, 0, 4, 4])),
    "the order": swap_lines,
    "the order of labels": lambda folder: edit_description(folder, labels=["location", "person"]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_fingerprint_changes_with_the_content(folder, change):
    before = fingerprint(folder)
    change(folder)
    assert fingerprint(folder) != before


def test_fingerprint_ignores_path_and_name(folder, tmp_path):
    before = fingerprint(folder)
    moved = tmp_path / "elsewhere" / "other"
    shutil.copytree(folder, moved)
    edit_description(moved, name="other", provenance={})
    (moved / "images" / "1.png").rename(moved / "images" / "one.png")
    edit_line(moved, lambda row: row.update(image="images/one.png"), number=1)
    assert fingerprint(moved) == before


@pytest.mark.parametrize("number", [True, 1.0, "1", None])
def test_number_of_samples_that_is_no_number_is_reported(folder, number):
    description = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(description | {"num_samples": {"train": 3, "test": number}}))
    with pytest.raises(DataError, match=r"dataset\.json: num_samples: test: .* is not a number"):
        DatasetFolder(folder).load_splits()


def test_blank_texts_are_not_published(tmp_path):
    blank = Sample("s1", "Ada", None, None, (Entity("person", "\u2003"),), ())
    with (
        publish_atomically(tmp_path / "set") as unfinished,
        pytest.raises(DataError, match="sample 's1': an entity is"),
    ):
        unfinished.write_dataset("mine", ["person"], {"train": [blank]}, {})


@pytest.mark.parametrize("depth", [60, 900, 5000])
def test_deep_json_is_an_error_with_its_file(folder, depth):
    edit_line(folder, lambda row: "[" * depth)
    with pytest.raises(DataError, match=r"train\.jsonl:2: is (not JSON|nested too deeply)"):
        DatasetFolder(folder).load("train")
    file = folder / "dataset.json"
    content = json.loads(file.read_text()) | {"provenance": {}}
    file.write_text(
        json.dumps(content).replace('"provenance": {}', f'"provenance": {{"a": {"[" * depth}{"]" * depth}}}')
    )
    with pytest.raises(DataError, match=r"dataset\.json: is (nested more than 50 levels deep|nested too deeply)"):
        _ = DatasetFolder(folder).description


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=5,
)
FIXTURE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


@FIXTURE
@given(st.sampled_from(["id", "text", "image", "summary", "entities", "segments"]), JSON)
def test_any_value_in_a_line_is_read_or_reported(folder, key, value):
    before = (folder / "train.jsonl").read_text()
    try:
        edit_line(folder, lambda row: json.dumps({**row, key: value}))
        with suppress(DataError):
            DatasetFolder(folder).load_splits()
    finally:
        (folder / "train.jsonl").write_text(before)


@FIXTURE
@given(
    st.sampled_from(["name", "labels", "num_samples", "provenance", "statistics", "license", "fingerprint"]),
    JSON | st.dictionaries(st.sampled_from(["summary", "entities"]), JSON | st.just({"characters": {"max": "x"}})),
)
def test_any_value_in_the_description_is_read_or_reported(folder, key, value):
    file = folder / "dataset.json"
    before = file.read_text()
    try:
        file.write_text(json.dumps({**json.loads(before), key: value}))
        with suppress(DataError):
            dataset = DatasetFolder(folder)
            dataset.load_splits()
            dataset_card(dataset.description)
    finally:
        file.write_text(before)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps, r"is a JSON array\. Expected: JSON lines.*jq -c '\.\[\]'"),
        (lambda rows: json.dumps(rows, indent=1), "is a JSON array"),
        (lambda rows: json.dumps(rows[0], indent=1), r"is one JSON object over several lines.*jq -c '\.' FILE"),
        (lambda rows: "PAR1…", "is a Parquet file"),
    ],
)
def test_a_file_of_another_format_is_named(folder, content, message):
    file = folder / "train.jsonl"
    file.write_text(content([json.loads(line) for line in file.read_text().splitlines()]))
    with pytest.raises(DataError, match=rf"train\.jsonl:1: {message}"):
        DatasetFolder(folder).load("train")


def test_a_file_with_another_suffix_is_named(folder):
    (folder / "train.jsonl").rename(folder / "train.JSONL")
    with pytest.raises(DataError, match=r"train\.jsonl: is missing.*and there is train\.JSONL\. Rename"):
        DatasetFolder(folder).load("train")
