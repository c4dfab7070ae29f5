"""`runner review` on the command line, before and after `runner build`."""

import json
import socket

import pytest
from PIL import Image

from runner.cli import dataset_commands as review
from runner.dataset.folder_reader import DatasetFolder
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
    """A spec for four images in JSON lines."""
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


def test_build_waits_for_the_review_and_publishes_accepted_samples(workplace, spec):
    before_build = workplace.run("review", "made.yaml")
    assert (before_build.returncode, "runner build" in before_build.stderr) == (2, True)
    waiting_build = workplace.run("build", "made.yaml")
    assert (waiting_build.returncode, "runner review" in waiting_build.stdout) == (0, True), waiting_build.stderr
    session = Session(open_review(spec), "ann")
    session.accept()
    session.edit("A green square.")
    session.reject()
    session.accept()
    output = json.loads(workplace.run("review", workplace.folder / "made", "--json").stdout)
    assert output["decisions"] == {"undecided": 0, "accepted": 2, "edited": 1, "rejected": 1}
    built = workplace.run("build", "made.yaml")
    assert built.returncode == 0, built.stderr
    splits = DatasetFolder(workplace.folder / "made").load_splits()
    published = {each.id: each.summary for samples in splits.values() for each in samples}
    assert set(published) == {"s0", "s1", "s3"}
    assert published["s1"] == "A green square."
    assert published["s0"] == published["s3"]
    session.undo()
    assert "runner review" in workplace.run("build", "made.yaml").stdout


def test_torn_line_is_reported_at_start(workplace, six_samples):
    Session(open_review(six_samples.dataset), "ann").accept()
    with six_samples.work.decisions.open("ab") as file:
        file.write(b'{"sample": "2", "decis')
    done = workplace.run("review", six_samples.dataset, "--json")
    assert json.loads(done.stdout)["decisions"]["accepted"] == 1
    assert "truncated, as by a kill: line 2" in done.stderr


def test_port_in_use_is_reported(workplace, six_samples):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        done = workplace.run("review", six_samples.dataset, "--port", listening.getsockname()[1])
    assert done.returncode == 2
    assert "another --port" in done.stderr


def test_missing_nicegui_error_names_the_package(workplace, six_samples):
    (workplace.folder / "nicegui.py").write_text("raise ModuleNotFoundError(\"No module named 'nicegui'\")\n")
    workplace.environment["PYTHONPATH"] = str(workplace.folder)
    done = workplace.run_in_subprocess("review", six_samples.dataset)
    assert done.returncode == 2
    assert "pip install 'mmre-runner[review]'" in done.stderr


def test_user_without_a_login_name_needs_the_option(monkeypatch):
    def nobody():
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(review, "getuser", nobody)
    with pytest.raises(RequirementError, match="--reviewer NAME"):
        review._login_name()
