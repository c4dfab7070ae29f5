"""`runner review` as a user runs it, before and after `runner build`."""

import json
import socket

import pytest
from PIL import Image

from runner.cli import dataset_commands as review
from runner.dataset.folder import DatasetFolder
from runner.dataset.review.queue import open_review
from runner.dataset.review.session import Session
from runner.errors import RequirementError

SPEC = """\
name: made
source: {type: json_lines, path: own.jsonl}
annotator: {type: constant, summary: A square of one colour that fills the whole picture from side to side.}
split: {ratios: {train: 0.5, test: 0.5}}
output: made
"""


@pytest.fixture
def spec(workplace):
    """A spec on four pictures of one's own."""
    rows = []
    for number, colour in enumerate(("red", "green", "blue", "white")):
        Image.new("RGB", (60, 40), colour).save(workplace.folder / f"{number}.png")
        entity = {"label": "person", "text": f"Ada {number}"}
        segments = [{"entity": entity["text"], "box": [0, 0, 20, 20]}]
        row = {"id": f"s{number}", "text": f"Ada {number} paints", "image": f"{number}.png"}
        rows.append({**row, "entities": [entity], "segments": segments})
    (workplace.folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (workplace.folder / "made.yaml").write_text(SPEC)
    return workplace.folder / "made.yaml"


def test_a_build_waits_for_the_review_and_publishes_what_it_let_through(workplace, spec):
    early = workplace.run("review", "made.yaml")
    assert (early.returncode, "runner build" in early.stderr) == (2, True)
    waits = workplace.run("build", "made.yaml")
    assert (waits.returncode, "runner review" in waits.stdout) == (0, True), waits.stderr
    session = Session(open_review(spec), "ann")
    session.accept()
    session.edit("A green square.")
    session.reject()
    session.accept()
    told = json.loads(workplace.run("review", workplace.folder / "made", "--json").stdout)
    assert told["decisions"] == {"undecided": 0, "accepted": 2, "edited": 1, "rejected": 1}
    built = workplace.run("build", "made.yaml")
    assert built.returncode == 0, built.stderr
    splits = DatasetFolder(workplace.folder / "made").splits()
    published = {each.id: each.summary for samples in splits.values() for each in samples}
    assert set(published) == {"s0", "s1", "s3"}
    assert published["s1"] == "A green square."
    assert published["s0"] == published["s3"]
    session.undo()
    assert "runner review" in workplace.run("build", "made.yaml").stdout


def test_a_torn_line_is_told_at_once(workplace, six):
    Session(open_review(six.dataset), "ann").accept()
    with six.work.decisions.open("ab") as file:
        file.write(b'{"sample": "2", "decis')
    done = workplace.run("review", six.dataset, "--json")
    assert json.loads(done.stdout)["decisions"]["accepted"] == 1
    assert "cut off, as by a kill: line 2" in done.stderr


def test_a_port_that_is_taken_is_an_error_that_says_so(workplace, six):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        done = workplace.run("review", six.dataset, "--port", listening.getsockname()[1])
    assert done.returncode == 2
    assert "another --port" in done.stderr


def test_without_nicegui_the_error_says_what_to_install(workplace, six):
    (workplace.folder / "nicegui.py").write_text("raise ModuleNotFoundError(\"No module named 'nicegui'\")\n")
    workplace.environment["PYTHONPATH"] = str(workplace.folder)
    done = workplace.run_apart("review", six.dataset)
    assert done.returncode == 2
    assert "pip install 'mmre-runner[review]'" in done.stderr


def test_who_has_no_name_is_asked_for_one(monkeypatch):
    def nobody():
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(review, "getuser", nobody)
    with pytest.raises(RequirementError, match="--reviewer NAME"):
        review._logged_in()
