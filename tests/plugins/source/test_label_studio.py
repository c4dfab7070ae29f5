"""Label Studio's export in the format JSON: joined regions, percent, rotation, offsets, and invalid files."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from plugins.source.label_studio import LabelStudioSource
from plugins.source.source_options import LabelStudioOptions
from runner.errors import DataError
from runner.records import Entity
from runner.stages import SkippedEntry, SourceTweet

TEXT = "Ada meets Bo in Rome"


def rectangle(name, label, percent, rotation=0, size=(200, 100)):
    sides = dict(zip(("x", "y", "width", "height"), percent, strict=True))
    value = {**sides, "rotation": rotation, "rectanglelabels": [label]}
    return {
        "id": name,
        "type": "rectanglelabels",
        "from_name": "box",
        "to_name": "image",
        "original_width": size[0],
        "original_height": size[1],
        "image_rotation": 0,
        "origin": "manual",
        "value": value,
    }


def span(name, label, word, text=TEXT, start=None):
    start = text.index(word) if start is None else start
    value = {"start": start, "end": start + len(word), "text": word, "labels": [label]}
    return {"id": name, "type": "labels", "from_name": "span", "to_name": "text", "origin": "manual", "value": value}


def relation(one, other):
    return {"type": "relation", "from_id": one, "to_id": other, "direction": "right", "labels": ["shows"]}


RESULT = [
    rectangle("r1", "location", (50, 0, 25, 50)),
    span("s1", "location", "Rome"),
    span("s2", "person", "Ada"),
    rectangle("r2", "person", (0, 10, 10, 20)),
    span("s3", "person", "Bo"),
    relation("r1", "s1"),
    relation("s2", "r2"),
]


def task(number=7, result=RESULT, text=TEXT, **data):
    return {
        "id": number,
        "annotations": [{"id": 70 + number, "result": deepcopy(result), "was_cancelled": False, "ground_truth": False}],
        "drafts": [],
        "predictions": [],
        "data": {"image": f"/data/upload/1/0a1b2c3d-{number}.jpg", "text": text, **data},
        "project": 1,
    }


def read(path, *tasks, **options):
    file = path / "train.json"
    file.write_text(json.dumps(tasks, indent=1))
    return list(LabelStudioSource(LabelStudioOptions(path=file, **options)).read())


def test_regions_joined_by_relations(tmp_path):
    (tmp_path / "7.JPG").touch()
    [tweet] = read(tmp_path, task(summary="A view."))
    sample = tweet.sample
    assert (sample.id, sample.text, sample.summary, sample.image) == ("7", TEXT, "A view.", tmp_path / "7.JPG")
    assert sample.entities == (Entity("person", "Ada"), Entity("person", "Bo"), Entity("location", "Rome"))
    assert [(each.letter, each.entity, each.box) for each in sample.segments] == [
        ("a", "Rome", (100, 0, 150, 50)),
        ("b", "Ada", (0, 10, 20, 30)),
    ]
    assert (tweet.split, tweet.size, tweet.location) == ("train", (200, 100), f"{tmp_path / 'train.json'}:2")


def test_regions_joined_by_label_and_order(tmp_path):
    result = [each for each in RESULT if each["type"] != "relation"] + [rectangle("r3", "person", (5, 5, 10, 10))]
    result += [rectangle("r4", "location", (5, 5, 10, 10))]
    skipped, tweet = read(tmp_path, task(result=result), join="label_and_order")
    assert skipped == SkippedEntry("7", "rectangle without a span: region r4")
    assert [each.entity for each in tweet.sample.segments] == ["Rome", "Ada", "Bo"]
    assert [type(each) for each in read(tmp_path, task(result=result))] == [SkippedEntry] * 4 + [SourceTweet]


@pytest.mark.parametrize(
    ("address", "file"),
    [
        ("/data/upload/1/0a1b2c3d-7.jpg", "7.jpg"),
        ("/data/upload/1/0a1b2c3d-7.jpg", "0a1b2c3d-7.jpg"),
        ("/data/local-files/?d=pictures/7%20a.png", "7 a.png"),
        ("s3://bucket/folder/7.jpeg?signed=1", "7.jpeg"),
        ("7.jpg", "7.JPG"),
    ],
)
def test_image_addresses(tmp_path, address, file):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / file).touch()
    [tweet] = read(tmp_path, task(image=address), images=[tmp_path / "pictures"])
    assert tweet.sample.image == tmp_path / "pictures" / file


def test_an_image_whose_address_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"train\.json:\d+: .*'http://\[a/7\.jpg' cannot be read: Invalid IPv6 URL"):
        read(tmp_path, task(image="http://[a/7.jpg"))


def test_splits_ids_and_keys(tmp_path):
    made = task(split="test", id="mine", words=TEXT, picture="x.png")
    [tweet] = read(tmp_path, made, text_key="words", image_key="picture")
    assert (tweet.split, tweet.sample.id, tweet.sample.image) == ("test", "mine", tmp_path / "x.png")


def test_offsets_of_a_browser_count_an_emoji_twice(tmp_path):
    text = "😀 Ada"
    for start in (2, 3):
        [tweet] = read(tmp_path, task(result=[span("s", "person", "Ada", text, start=start)], text=text))
        assert tweet.sample.entities == (Entity("person", "Ada"),)
    with pytest.raises(
        DataError, match=r"train\.json:2: task 7: region s: characters 4 to 7 of the text are 'a', not 'Ada'"
    ):
        read(tmp_path, task(result=[span("s", "person", "Ada", text, start=4)], text=text))


@given(st.integers(0, 359), st.integers(5, 40), st.integers(5, 30))
def test_the_bound_of_a_turned_rectangle_is_that_of_its_corners(tmp_path_factory, angle, width, height):
    """Label Studio turns clockwise about the top left corner, in pixels: checked with Pillow's rotation of a mask."""
    path = tmp_path_factory.mktemp("turned")
    size = (400, 200)
    result = [rectangle("r", "person", (50, 50, width / 4, height / 2), angle, size), span("s", "person", "Ada")]
    turned = task(result=[*result, relation("r", "s")])
    [tweet] = read(path, turned, rotation="bound")
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).rectangle((200, 100, 200 + width - 1, 100 + height - 1), fill=255)
    expected = mask.rotate(-angle, center=(200, 100), resample=Image.Resampling.NEAREST).getbbox()
    assert all(abs(one - other) <= 2 for one, other in zip(tweet.sample.segments[0].box, expected, strict=True))
    if angle:
        with pytest.raises(DataError, match=rf"region r: is turned by {angle} degrees; source\.rotation: bound"):
            read(path, turned)


def without(value, key):
    return {name: each for name, each in value.items() if name != key}


BAD = {
    "JSON-MIN": (
        {"id": 7, "text": TEXT, "span": []},
        "task 7: has no annotations; .* JSON, not JSON-MIN",
    ),
    "no annotation": (task() | {"annotations": []}, "task 7: annotations: List should have at least 1 item"),
    "no result": (task() | {"annotations": [{"id": 1}]}, r"task 7: annotations\.0\.result: Field required"),
    "no object": ("x", "Input should be a valid dictionary"),
    "an unknown label": (task(result=[span("s", "dog", "Ada")]), "region s: the label 'dog' is not one of person"),
    "no text": (task(text=" "), r"data\.text is not a text; the keys are image, text\. source\.text_key"),
    "no size": (
        task(result=[without(RESULT[0], "original_width")]),
        "region r1: x, y, width, height, original_width or original_height is missing",
    ),
    "pixels": (
        task(result=[rectangle("r", "person", (0, 300, 20, 20))]),
        r"\[0, 300, 20, 20\] are not percentages",
    ),
    "a wrong offset": (
        task(result=[span("s", "person", "Ada", start=1)]),
        "region s: characters 1 to 4 .* 'da ', not",
    ),
    "an id that is a path": (task(id="../x"), r"'\.\./x' cannot be used in file names"),
    "no id": (without(task(), "id"), "'' cannot be used in file names"),
    "an id twice": (task(1), "the id '1' is already used at "),
    "two annotations": (
        task() | {"annotations": task()["annotations"] * 2},
        r"has the annotations 77, 77; source\.several_annotations: last",
    ),
    "two spans": (task(result=[*RESULT, relation("r1", "s2")]), "region r1: has relations to several spans"),
    "cancelled": (
        task() | {"annotations": [task()["annotations"][0] | {"was_cancelled": True}]},
        "task 7: was skipped: every annotation is cancelled",
    ),
}


@pytest.mark.parametrize(("value", "message"), BAD.values(), ids=BAD)
def test_an_error_names_file_line_and_task(tmp_path, value, message):
    with pytest.raises(DataError, match=message) as raised:
        read(tmp_path, task(1), value)
    # The first task ends in the line before.
    line = 2 + len(json.dumps(task(1), indent=1).splitlines())
    assert str(raised.value).startswith(f"{tmp_path / 'train.json'}:{line}: ")


def test_all_problems_of_all_files_are_reported_together(tmp_path):
    (tmp_path / "broken.json").write_text('[\n{"id": 1,}]')
    (tmp_path / "other.json").write_text('{"images": []}')
    (tmp_path / "test.json").write_text(json.dumps([task(1, text="x"), task(2, text="")]))
    with pytest.raises(DataError) as raised:
        list(LabelStudioSource(LabelStudioOptions(path=tmp_path)).read())
    lines = str(raised.value).splitlines()
    assert lines[0].startswith(f"{tmp_path / 'broken.json'}:2: ")
    assert lines[1] == f"{tmp_path / 'other.json'}:1: is not an array of tasks; export the project in the format JSON"
    assert len(lines) > 4
    assert all(line.startswith(f"{tmp_path / 'test.json'}:1: task ") for line in lines[2:])


def test_the_last_of_several_annotations(tmp_path):
    several = task()
    several["annotations"].append(several["annotations"][0] | {"id": 8, "result": RESULT[1:2]})
    [tweet] = read(tmp_path, several, several_annotations="last")
    assert tweet.sample.entities == (Entity("location", "Rome"),)


EXPORT = Path(__file__).parent / "label_studio_export"


def test_an_export_that_label_studio_sdk_made():
    """As `make_export.py` in the folder made it. Its COCO export has the same boxes, but for the turned one."""
    options = LabelStudioOptions(path=EXPORT / "export.json", rotation="bound")
    tweets = list(LabelStudioSource(options).read())
    assert [tweet.sample.image.name for tweet in tweets] == ["1.jpg", "2.jpg", "3.jpg"]
    assert [tweet.sample.entities for tweet in tweets] == [
        (Entity("person", "Ada"), Entity("location", "Rome")),
        (Entity("person", "Bo"),),
        (Entity("person", "Cy"),),
    ]
    coco = json.loads((EXPORT / "coco.json").read_text())
    boxes = [
        (round(x), round(y), round(x + width), round(y + height))
        for x, y, width, height in (each["bbox"] for each in coco["annotations"])
    ]
    ours = [each.box for tweet in tweets for each in tweet.sample.segments]
    assert ours[:2] == boxes[:2] == [(10, 10, 50, 50), (100, 0, 150, 50)]
    assert ours[2] == (70, 20, 115, 57)
    with pytest.raises(DataError, match=r"export\.json:\d+: task 2: region r0: is turned by 30 degrees"):
        list(LabelStudioSource(LabelStudioOptions(path=EXPORT / "export.json")).read())
