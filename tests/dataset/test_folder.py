"""Reading a data-set folder: what is right is read, what is broken is named with its line."""

import json
import shutil

import pytest
from PIL import Image

from runner.dataset.folder import DatasetFolder
from runner.errors import DataError
from runner.records import Entity, Segment


def fingerprint(path):
    folder = DatasetFolder(path)
    return folder.info(folder.splits()).fingerprint


def edit_line(path, change, number=2):
    """Change a training sample, in place or for what `change` returns."""
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
    told = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in told.items() if value is not None}))


def test_a_good_folder_is_read(folder):
    read = DatasetFolder(folder)
    first = read.load("train")[0]
    assert first.id == "s1"
    assert first.image == folder / "images" / "1.png"
    assert first.summary is None
    assert first.entities == (Entity("person", "Ada"), Entity("location", "Rome"))
    assert first.segments == (Segment("a", folder / "segments" / "1-a.png", "Ada", (0, 0, 4, 3)),)
    info = read.info(read.splits())
    assert (info.name, info.labels, info.num_samples) == ("tiny", ("person", "location"), {"train": 3, "test": 1})
    assert info.fingerprint == read.description["fingerprint"]


def test_what_need_not_be_there_may_be_missing(folder):
    edit_line(folder, lambda row: without(row, "image", "summary") | {"segments": []})
    sample = DatasetFolder(folder).load("train")[1]
    assert (sample.image, sample.summary, sample.segments) == (None, None, ())


BROKEN = {
    "unknown label": (lambda row: row["entities"][0].update(label="pet"), "'pet' is none of person, location"),
    "a path that leads out": (lambda row: row.update(image="../outside.png"), "'../outside.png' leads out"),
    "an absolute path": (lambda row: row.update(image="/etc/passwd"), "'/etc/passwd' leads out"),
    "a segment that leads out": (lambda row: row["segments"][0].update(image="segments/../../x.png"), "leads out"),
    "a missing image": (lambda row: row.update(image="images/9.png"), "'images/9.png' is missing"),
    "a path that is no text": (lambda row: row.update(image=5), "5 should be text"),
    "a double id": (lambda row: row.update(id="s1"), "'s1' stands in an earlier line"),
    "a letter out of order": (lambda row: row["segments"][0].update(letter="b"), "'b' stands where 'a' should"),
    "a box inside out": (lambda row: row["segments"][0].update(box=[4, 0, 0, 3]), "left, top, right, bottom"),
    "a box beyond the edge": (lambda row: row["segments"][0].update(box=[-1, 0, 4, 3]), "left, top, right, bottom"),
    "a box of three": (lambda row: row["segments"][0].update(box=[0, 0, 4]), r"\[0, 0, 4\] is not left"),
    "a box of text": (lambda row: row["segments"][0].update(box="0 0 4 3"), "left, top, right, bottom"),
    "a box of fractions": (lambda row: row["segments"][0].update(box=[0, 0, 4.5, 3]), "in pixels"),
    "no text": (lambda row: without(row, "text"), "lacks 'text'"),
    "no entities": (lambda row: without(row, "entities"), "lacks 'entities'"),
    "a segment without box": (lambda row: row | {"segments": [without(row["segments"][0], "box")]}, "lacks 'box'"),
    "text that is a number": (lambda row: row.update(text=7), "7 should be text"),
    "half a character": (lambda row: row.update(text="\ud800"), "surrogates not allowed"),
    "no JSON": (lambda row: '{"id": "s2"', "is not JSON"),
    "no object": (lambda row: '["s2"]', "is no JSON object"),
}


@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_line_is_named(folder, change, message):
    edit_line(folder, change)
    with pytest.raises(DataError, match=message) as raised:
        DatasetFolder(folder).splits()
    assert str(raised.value).startswith(f"{folder / 'train.jsonl'}:2: ")


@pytest.mark.parametrize("link", ["images/2.png", "images"])
def test_a_link_that_leads_out_is_named(folder, tmp_path, link):
    shutil.move(folder / link, tmp_path / "elsewhere")
    (folder / link).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"'images/[12]\.png' leads out of the data set"):
        DatasetFolder(folder).splits()


def test_links_within_are_followed_to_the_pictures_themselves(folder, tmp_path):
    (folder / "images" / "again.png").symlink_to("2.png")
    edit_line(folder, lambda row: row.update(image="images/again.png"))
    (tmp_path / "link").symlink_to(folder)
    assert DatasetFolder(tmp_path / "link").load("train")[1].image == folder / "images" / "2.png"


def test_empty_lines_count_as_lines(folder):
    edit_line(folder, lambda row: "\n" + json.dumps(row | {"id": "s1"}))
    with pytest.raises(DataError, match=r"train\.jsonl:3: the id"):
        DatasetFolder(folder).load("train")


def test_bytes_that_are_no_text_are_named(folder):
    file = folder / "train.jsonl"
    file.write_bytes(file.read_bytes().replace(b"Ada 2", b"Ad\xe9 2"))
    with pytest.raises(DataError, match=r"train\.jsonl:2: is not JSON"):
        DatasetFolder(folder).load("train")


def test_a_line_that_is_lost_is_missed(folder):
    file = folder / "train.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(DataError, match=r"train\.jsonl: holds 2 samples, and dataset\.json says 3"):
        DatasetFolder(folder).splits()


def test_a_split_that_is_lost_is_missed(folder):
    (folder / "test.jsonl").unlink()
    with pytest.raises(DataError, match=r"test\.jsonl: missing"):
        DatasetFolder(folder).splits()


def test_an_unknown_split_is_answered_with_those_there_are(folder):
    with pytest.raises(DataError, match="no split 'dev'; there are: train, test"):
        DatasetFolder(folder).load("dev")


@pytest.mark.parametrize(
    "changes", [{"name": None}, {"labels": None}, {"num_samples": None}, {"labels": "person"}, {"num_samples": [3, 1]}]
)
def test_a_description_says_what_it_needs(folder, changes):
    edit_description(folder, **changes)
    with pytest.raises(DataError, match=rf"dataset\.json: needs '{next(iter(changes))}', such as"):
        DatasetFolder(folder).splits()


@pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ("[]", "needs 'name'"), ("3", "needs 'name'")])
def test_a_description_of_another_kind_is_refused(folder, text, message):
    (folder / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=message):
        DatasetFolder(folder).splits()


def test_a_missing_folder_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(DataError, match="runner build"):
        DatasetFolder(tmp_path / "nowhere").splits()


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
def test_the_fingerprint_changes_with_the_content(folder, change):
    before = fingerprint(folder)
    change(folder)
    assert fingerprint(folder) != before


def test_the_fingerprint_knows_neither_path_nor_name(folder, tmp_path):
    before = fingerprint(folder)
    moved = tmp_path / "elsewhere" / "other"
    shutil.copytree(folder, moved)
    edit_description(moved, name="other", provenance={})
    (moved / "images" / "1.png").rename(moved / "images" / "one.png")
    edit_line(moved, lambda row: row.update(image="images/one.png"), number=1)
    assert fingerprint(moved) == before
