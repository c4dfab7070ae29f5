"""Tasks of Label Studio: percent of the image, offsets as JavaScript counts them, and relations."""

import itertools
import json
import os
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.dataset.label_studio import box_percent, labelling_configuration, make_task
from runner.records import Entity, Sample, Segment
from tests.command import run_in_process

SIZE = (200, 100)


def task(text, entities, segments=(), result="predictions"):
    named = tuple(Entity(*entity) for entity in entities)
    boxes = tuple(Segment(letter, None, entity, box) for letter, entity, box in segments)
    return make_task(Sample("s1", text, None, None, named, boxes), "train", "images/1.jpg", SIZE, result)


def regions(made, kind):
    [content] = made.row["predictions"]
    return [region for region in content["result"] if region["type"] == kind]


sides = st.tuples(st.integers(1, 5000), st.integers(1, 5000))


@given(sides, st.data())
def test_percent_gives_the_pixels_back(size, data):
    left, right = sorted(data.draw(st.tuples(*[st.integers(0, size[0])] * 2)))
    top, bottom = sorted(data.draw(st.tuples(*[st.integers(0, size[1])] * 2)))
    value = box_percent((left, top, right, bottom), size)
    x, width = (value[name] * size[0] / 100 for name in ("x", "width"))
    y, height = (value[name] * size[1] / 100 for name in ("y", "height"))
    assert tuple(map(round, (x, y, x + width, y + height))) == (left, top, right, bottom)
    assert value["rotation"] == 0


@given(st.lists(st.sampled_from(["Ada", "Rome", "😀", "é", "Ad"]), min_size=1, max_size=8), st.data())
def test_a_span_is_the_entity_in_utf_16_and_no_two_overlap(words, data):
    text = " ".join(words)
    chosen = data.draw(st.lists(st.sampled_from(words), max_size=6))
    made = task(text, [("person", word) for word in chosen])
    units = text.encode("utf-16-le")
    spans = regions(made, "labels")
    assert len(spans) + len(made.problems) == len(chosen)
    for span in spans:
        value = span["value"]
        assert units[2 * value["start"] : 2 * value["end"]].decode("utf-16-le") == value["text"]
    places = sorted((span["value"]["start"], span["value"]["end"]) for span in spans)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(places))


def test_a_box_has_the_label_of_its_entity_and_a_relation_to_its_mention():
    made = task("Ada in Rome", [("person", "Ada"), ("location", "Rome")], [("a", "Rome", (20, 10, 120, 60))])
    [box] = regions(made, "rectanglelabels")
    assert box["value"] == {
        "x": 10,
        "y": 10,
        "width": 50,
        "height": 50,
        "rotation": 0,
        "rectanglelabels": ["location"],
    }
    assert (box["original_width"], box["original_height"]) == SIZE
    [relation] = regions(made, "relation")
    [span] = [each for each in regions(made, "labels") if each["id"] == relation["from_id"]]
    assert (span["value"]["text"], relation["to_id"]) == ("Rome", box["id"])
    assert made.problems == []


def test_what_a_task_cannot_hold_is_told():
    made = task("Ada", [("person", "Ada"), ("person", "Ada"), ("other", "Eve")], [("a", "Bob", (0, 0, 1, 1))])
    assert made.problems == [
        "the text does not contain the entity 'Ada', or not as often as the entities do",
        "the text does not contain the entity 'Eve', or not as often as the entities do",
        "box a shows 'Bob', which is no entity of the text, so it has no label",
    ]


def test_annotations_have_no_model_version():
    made = task("Ada", [("person", "Ada")], result="annotations")
    assert list(made.row) == ["data", "annotations"]
    assert list(made.row["annotations"][0]) == ["result"]
    assert make_task(Sample("s1", "Ada", None, None, (), ()), "dev", None, None, "predictions").row["data"] == {
        "id": "s1",
        "split": "dev",
        "text": "Ada",
        "summary": "",
    }


def test_the_configuration_has_all_labels_escaped():
    tree = ElementTree.fromstring(labelling_configuration(['a "b" & <c>', "d"]))
    assert [label.get("value") for label in tree.iter("Label")] == ['a "b" & <c>', "d"] * 2
    assert {tag.get("toName") for tag in tree.iter() if tag.get("toName")} == {"image", "text"}


def run(folder, *arguments):
    return run_in_process(["export", "tiny", "out", "--to", "label_studio", *arguments], folder, os.environ)


def test_the_command_writes_tasks_configuration_and_images(folder):
    done = run(folder.parent)
    assert done.returncode == 0, done.stderr
    assert "tasks: train 3, test 1" in done.stdout
    assert "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT=" in done.stdout
    out = folder.parent / "out"
    tasks = json.loads((out / "train.json").read_text())
    assert [each["data"]["id"] for each in tasks] == ["s1", "s2", "s3"]
    prefix, _, name = tasks[0]["data"]["image"].partition("?d=")
    assert prefix == "/data/local-files/"
    assert (out / name).read_bytes() == (folder / name).read_bytes()
    [box] = [each for each in tasks[1]["predictions"][0]["result"] if each["type"] == "rectanglelabels"]
    assert (box["original_width"], box["original_height"], box["value"]["width"]) == (8, 8, 50)
    assert (out / "labelling_interface.xml").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--spec", "spec.yaml"], "--spec has no effect with --to label_studio"),
        (["--split", "tran"], "no such split; did you mean 'train'?"),
    ],
)
def test_a_mistake_has_exit_status_2_and_a_remedy(folder, arguments, message):
    done = run(folder.parent, *arguments)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert message in done.stderr


def test_an_own_address_of_images_and_finished_annotations(folder):
    done = run(
        folder.parent, "--as", "annotations", "--image-prefix", "https://a.example/", "--split", "test", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["num_tasks"] == {"test": 1}
    [made] = json.loads((folder.parent / "out" / "test.json").read_text())
    assert made["data"]["image"] == "https://a.example/images/4.png"
    assert "annotations" in made
