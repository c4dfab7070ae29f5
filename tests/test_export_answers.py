"""`runner export --to seqeval` and `--to coco`: references and predictions of a split for other scorers."""

import json
import os
from types import SimpleNamespace

import pytest

from runner.errors import SpecError
from runner.export_answers import _Answers, _write_coco
from runner.records import Sample
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


def entity(label, *boxes):
    return SimpleNamespace(label=label, boxes=boxes)


def grounded(*entities):
    return SimpleNamespace(grounded=entities)


def test_boxes_of_references_and_predictions(tmp_path):
    samples = [Sample(f"s{number}", "text", None, None, (), ()) for number in (1, 2)]
    references = [grounded(entity("person", (1, 2, 11, 22), (0, 0, 5, 5))), grounded(entity("location"))]
    predictions = [grounded(entity("person", (1, 2, 11, 20))), SimpleNamespace(grounded=None)]
    answers = _Answers(samples, references, predictions, ["location", "person"])
    assert _write_coco(answers, "test", tmp_path) == {"num_boxes": {"reference": 2, "prediction": 1}}
    document = json.loads((tmp_path / "test_references.json").read_text())
    assert [image["sample"] for image in document["images"]] == ["s1", "s2"]
    assert [(each["id"], each["image_id"], each["bbox"]) for each in document["annotations"]] == [
        (1, 1, [1, 2, 10, 20]),
        (2, 1, [0, 0, 5, 5]),
    ]
    assert json.loads((tmp_path / "test_predictions.json").read_text()) == [
        {"image_id": 1, "category_id": 2, "bbox": [1, 2, 10, 18], "score": 1.0}
    ]


def test_references_without_any_box_are_refused(tmp_path):
    answers = _Answers([], [grounded()], None, ["person"])
    with pytest.raises(SpecError, match="use an adapter such as `gmner`"):
        _write_coco(answers, "test", tmp_path)
