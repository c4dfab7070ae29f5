"""COCO files with texts and entities: boxes as pycocotools reads them, and invalid files."""

import json
from copy import deepcopy

import pytest
from pycocotools.coco import COCO

from plugins.source.coco import CocoSource
from plugins.source.source_options import CocoOptions
from runner.errors import DataError
from runner.records import Entity
from runner.stages import SkippedEntry, SourceTweet

PERSON = {"image_id": 0, "category_id": 3}
GOOD = {
    "info": {"description": "test"},
    "images": [
        {
            "id": 0,
            "file_name": "sub/1.jpg",
            "width": 200,
            "height": 100,
            "text": "Bo and Ada in Rome",
            "entities": [{"label": "location", "text": "Rome"}],
            "summary": "Two people.",
        },
        {"id": 5, "file_name": "2.png", "width": 80, "height": 60, "text": "nobody", "split": "test"},
    ],
    "annotations": [
        {
            "id": 0,
            "image_id": 0,
            "category_id": 3,
            "bbox": [10, 20, 30.4, 40],
            "area": 1216,
            "iscrowd": 0,
            "entity": "Ada",
        },
        {
            "id": 1,
            "image_id": 0,
            "category_id": 3,
            "bbox": [50, 0, 20, 100],
            "attributes": {"entity": "Bo", "rotation": 0.0},
        },
        {"id": 2, "image_id": 0, "category_id": 3, "bbox": [0, 0, 20, 100]},
        {"id": 3, "image_id": 0, "category_id": 3, "bbox": [0, 0, 20, 100], "entity": "Cy"},
    ],
    "categories": [{"id": 3, "name": "person"}, {"id": 4, "name": "location"}],
}


def read(path, content=GOOD, **options):
    file = path / "train.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
    return list(CocoSource(CocoOptions(path=file, **options)).read())


def changed(key, index, **values):
    content = deepcopy(GOOD)
    content[key][index] = {name: value for name, value in (content[key][index] | values).items() if value is not None}
    return content


def test_images_with_boxes(tmp_path):
    *skipped, first, second = sorted(read(tmp_path), key=lambda entry: isinstance(entry, SourceTweet))
    assert skipped == [
        SkippedEntry("0", "box without an entity: annotation 2"),
        SkippedEntry("0", "box of something that is not in the text: annotation 3"),
    ]
    sample = first.sample
    assert (sample.id, sample.image, sample.summary) == ("0", tmp_path / "sub" / "1.jpg", "Two people.")
    assert sample.entities == (Entity("person", "Bo"), Entity("person", "Ada"), Entity("location", "Rome"))
    assert [(each.letter, each.entity, each.box) for each in sample.segments] == [
        ("a", "Ada", (10, 20, 40, 60)),
        ("b", "Bo", (50, 0, 70, 100)),
    ]
    assert (first.split, first.size, second.split, second.sample.segments) == ("train", (200, 100), "test", ())
    assert first.location == f"{tmp_path / 'train.json'}:6"


def test_boxes_are_those_that_pycocotools_reads(tmp_path):
    tweets = [entry for entry in read(tmp_path) if isinstance(entry, SourceTweet)]
    coco = COCO(str(tmp_path / "train.json"))
    for tweet in tweets:
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=[int(tweet.sample.id)]))
        expected = [each["bbox"] for each in annotations if each["id"] in (0, 1)]
        assert [each.box for each in tweet.sample.segments] == [
            (round(x), round(y), round(x + width), round(y + height)) for x, y, width, height in expected
        ]


def test_other_keys_and_formats(tmp_path):
    content = changed("images", 0, text=None, caption="Ada")
    content["images"].pop()
    content["annotations"] = [
        {**GOOD["annotations"][0], "bbox": [0.1, 0.2, 0.5, 0.6], "entity": None, "mention": "Ada"}
    ]
    options = {"text_key": "caption", "entity_key": "mention", "box_format": "xyxy", "box_unit": "fraction"}
    [tweet] = read(tmp_path, content, **options)
    assert tweet.sample.segments[0].box == (20, 20, 100, 60)
    with pytest.raises(DataError, match=r"annotation 0 \(image 0\): the box .* set source\.box_unit: fraction"):
        read(tmp_path, content, **{**options, "box_unit": "pixels"})


BAD = {
    "an unknown category": (
        changed("categories", 0, name="dog"),
        "annotation 0: the category 'dog' is not",
    ),
    "no category": (changed("annotations", 1, category_id=9), "annotation 1: the category 9 is not one of"),
    "no such image": (changed("annotations", 1, image_id=9), "annotation 1: no image has the id 9"),
    "a box of three": (changed("annotations", 1, bbox=[0, 1, 2]), "1: bbox: List should have at least 4 items"),
    "a negative width": (
        changed("annotations", 1, bbox=[9, 9, -5, 9]),
        r"1 \(image 0\): the box \[9, 9, -5, 9\]",
    ),
    "a turned box": (
        changed("annotations", 1, attributes={"entity": "Bo", "rotation": 30.0}),
        "is turned by 30.0 degrees; export upright boxes",
    ),
    "no text": (changed("images", 1, text=None), "image 5: text is not a text; source.text_key names the key"),
    "no size": (changed("images", 1, width=None), "5: width: Field required"),
    "an entity without text": (changed("images", 1, entities=[{"label": "person"}]), "image 5: entities.0: .* is not"),
    "an id twice": (changed("images", 1, id=0), "image 0: the id '0' is already used at"),
    "no categories": ({"images": [], "annotations": []}, ":1: has no categories; a COCO file has images, annotations"),
    "no JSON": ('{"images": [\n}', ":2: is not JSON"),
    "a number": ("7", ":1: is neither a JSON array nor an object"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_an_error_names_file_line_and_id(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as raised:
        read(tmp_path, content)
    assert all(line.startswith(f"{tmp_path / 'train.json'}:") for line in str(raised.value).splitlines())
    assert all(line.split(":")[1].isdigit() for line in str(raised.value).splitlines())


def test_missing_files(tmp_path):
    with pytest.raises(DataError, match=r"contains no <split>\.json"):
        list(CocoSource(CocoOptions(path=tmp_path)).read())
    with pytest.raises(DataError, match=r"no such file or folder; source\.path"):
        list(CocoSource(CocoOptions(path=tmp_path / "x")).read())
    (tmp_path / "annotations.json").touch()
    with pytest.raises(DataError, match="'annotations' cannot be the name of a split"):
        list(CocoSource(CocoOptions(path=tmp_path)).read())
