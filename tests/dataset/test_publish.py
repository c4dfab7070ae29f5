"""Writing a data-set folder: whole or not at all, and never over something else."""

import json
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from runner.dataset.folder import DatasetFolder
from runner.dataset.publish import exclusive_build, publishing
from runner.errors import DataError
from runner.records import Sample


def sample(name, summary=None, segments=(), entities=()):
    return Sample(name, f"text {name}", None, summary, tuple(entities), tuple(segments))


def publish(path, *names):
    with publishing(path) as unfinished:
        unfinished.describe("n", ["person"], {"train": [sample(name) for name in names], "test": []}, {})


def content(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_what_is_written_can_be_read(tmp_path):
    path = tmp_path / "new" / "set"
    publish(path, "a", "b")
    assert [each.id for each in DatasetFolder(path).load("train")] == ["a", "b"]
    assert sorted(each.name for each in path.iterdir()) == [
        "README.md",
        "dataset.json",
        "images",
        "segments",
        "test.jsonl",
        "train.jsonl",
    ]
    assert [each.name for each in path.parent.iterdir()] == ["set"]


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), publishing(tmp_path / "set") as unfinished:
        (unfinished.images / "1.png").write_bytes(b"x")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_earlier_one(tmp_path):
    publish(tmp_path / "set", "a")
    before = content(tmp_path)
    with pytest.raises(ZeroDivisionError), publishing(tmp_path / "set"):
        raise ZeroDivisionError
    assert content(tmp_path) == before


def test_a_failure_at_the_last_step_leaves_the_earlier_one(tmp_path, monkeypatch):
    publish(tmp_path / "set", "a")
    before = content(tmp_path)
    rename = Path.rename

    def full(self, target):
        if self.name == ".set.unfinished":
            raise OSError("no space left")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="no space left"):
        publish(tmp_path / "set", "b")
    assert content(tmp_path) == before


def test_a_new_one_takes_the_place_of_the_earlier_one(tmp_path):
    publish(tmp_path / "set", "a")
    (tmp_path / "set" / "images" / "old.png").write_bytes(b"x")
    publish(tmp_path / "set", "b")
    assert [each.id for each in DatasetFolder(tmp_path / "set").load("train")] == ["b"]
    assert not (tmp_path / "set" / "images" / "old.png").exists()
    assert [each.name for each in tmp_path.iterdir()] == ["set"]


def test_what_a_kill_left_is_cleared_away(tmp_path):
    (tmp_path / ".set.unfinished" / "images").mkdir(parents=True)
    publish(tmp_path / "set", "a")
    assert [each.name for each in tmp_path.iterdir()] == ["set"]


def test_an_earlier_one_that_a_kill_left_aside_is_put_back(tmp_path):
    publish(tmp_path / "set", "a")
    before = content(tmp_path)
    (tmp_path / "set").rename(tmp_path / ".set.before")
    with pytest.raises(ZeroDivisionError), publishing(tmp_path / "set"):
        raise ZeroDivisionError
    assert content(tmp_path) == before


@pytest.mark.parametrize("occupied", ["folder", "file"])
def test_something_else_is_never_replaced(tmp_path, occupied):
    path = tmp_path / "thesis"
    if occupied == "folder":
        path.mkdir()
        (path / "chapter.tex").write_text("dear")
    else:
        path.write_text("dear")
    before = content(tmp_path)
    with pytest.raises(DataError, match="is there already and is no data set"):
        publish(path, "a")
    assert content(tmp_path) == before


def test_a_place_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot be made"), exclusive_build(tmp_path / "file" / "set"):
        pass


def test_one_at_a_time(tmp_path):
    order = []

    def second():
        with exclusive_build(tmp_path / "set"):
            order.append("second")

    waiting = threading.Thread(target=second)
    with exclusive_build(tmp_path / "set"):
        waiting.start()
        waiting.join(0.2)
        order.append("first")
    waiting.join(10)
    assert order == ["first", "second"]


def test_the_description_says_how_it_was_made(folder):
    told = json.loads((folder / "dataset.json").read_text())
    assert told["provenance"] == {"made": "by a test"}
    assert told["num_samples"] == {"train": 3, "test": 1}
    assert told["statistics"]["entities"] == {"location": 4, "person": 4}


def test_one_waits_for_another_and_says_so(tmp_path):
    path, first, said = tmp_path / "set", ExitStack(), []
    first.enter_context(exclusive_build(path, lambda: said.append("first")))

    def waits():
        said.append("second")
        first.close()

    with exclusive_build(path, waits):
        assert said == ["second"]
