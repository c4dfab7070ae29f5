"""`runner export --to seqeval` and `--to coco`: references and predictions of a split for other scorers."""

import json
import os

import pytest

from tests.command import run_in_process
from tests.test_export_examples import SPEC, write_dataset


@pytest.fixture
def folder(tmp_path):
    """Return a folder with a spec, a data set of one test sample, and an output with one right and two wrong pairs."""
    (tmp_path / "spec.yaml").write_text(SPEC)
    write_dataset(tmp_path / "set", "Ada saw New Rome")
    output = "Task 2 Answer: NER::person;Ada:person;New:location;Paris"
    (tmp_path / "predictions.jsonl").write_text(json.dumps({"id": "s3", "output": output}) + "\n")
    return tmp_path


def run(folder, *arguments):
    return run_in_process(["export", "set", "out", "--spec", "spec.yaml", *arguments], folder, os.environ)


def test_columns_of_references_and_predictions(folder):
    done = run(folder, "--to", "seqeval", "--predictions", "predictions.jsonl")
    assert done.returncode == 0, done.stderr
    assert (folder / "out" / "test.conll").read_text().splitlines() == [
        "Ada\tB-person\tB-person",
        "saw\tO\tO",
        "New\tO\tB-person",
        "Rome\tB-location\tO",
    ]
    rows = [json.loads(line) for line in (folder / "out" / "unaligned.jsonl").read_text().splitlines()]
    reason = "the text does not contain it"
    assert rows == [{"id": "s3", "side": "prediction", "label": "location", "text": "Paris", "reason": reason}]
    assert "not aligned with tokens: 1 mentions (prediction; see " in done.stdout


def test_references_alone_and_another_split(folder):
    done = run(folder, "--to", "seqeval", "--split", "train", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["columns"], document["num_samples"]) == (["token", "reference"], 2)
    samples = (folder / "out" / "train.conll").read_text().split("\n\n")
    assert [sample.splitlines()[0] for sample in samples] == ["Ada\tB-person", "Rome\tB-location"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "seqeval", "--split", "train,test"], "name one split with --split, not 2"),
        (["--to", "seqeval", "--marks", "escape"], "--marks has no effect with --to seqeval"),
        (["--to", "ms_swift", "--predictions", "predictions.jsonl"], "--predictions has no effect with --to ms_swift"),
        (["--to", "seqeval", "--set", "adapter.tasks=[match]"], "add the task `ner` to adapter.tasks"),
        (["--to", "coco"], "no reference answer of this adapter has a box"),
        (["--to", "seqeval", "--split", "train", "--predictions", "predictions.jsonl"], "predictions.jsonl:1: the id"),
    ],
)
def test_a_mistake_has_exit_status_2_and_a_remedy(folder, arguments, message):
    done = run(folder, *arguments)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert message in done.stderr
    assert not (folder / "out").exists()


def run_coco(folder, *arguments):
    adapter = ("--set", "adapter={type: gmner, frame: original}")
    return run(folder, "--to", "coco", *adapter, *arguments)


def test_boxes_of_references_and_predictions(folder):
    output = "Ada|person|[0,0,9,8]\nRome|location|[[1,2,3,4],[0,0,5,5]]"
    (folder / "predictions.jsonl").write_text(json.dumps({"id": "s3", "output": output}) + "\n")
    done = run_coco(folder, "--predictions", "predictions.jsonl", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["num_boxes"] == {"reference": 1, "prediction": 3}
    document = json.loads((folder / "out" / "test_references.json").read_text())
    assert [(image["id"], image["sample"]) for image in document["images"]] == [(1, "s3")]
    [annotation] = document["annotations"]
    assert (annotation["id"], annotation["image_id"], annotation["bbox"]) == (1, 1, [0, 0, 9, 9])
    assert document["categories"][annotation["category_id"] - 1]["name"] == "person"
    results = json.loads((folder / "out" / "test_predictions.json").read_text())
    assert [(result["category_id"], result["bbox"]) for result in results] == [
        (1, [0, 0, 9, 8]),
        (2, [1, 2, 2, 2]),
        (2, [0, 0, 5, 5]),
    ]
    assert {(result["image_id"], result["score"]) for result in results} == {(1, 1.0)}


def test_references_alone_have_no_file_of_predictions(folder):
    done = run_coco(folder, "--split", "train")
    assert done.returncode == 0, done.stderr
    assert "boxes: 2 (reference)" in done.stdout
    assert sorted(file.name for file in (folder / "out").iterdir()) == ["export.json", "train_references.json"]
