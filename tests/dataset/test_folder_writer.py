"""Writing a data-set folder atomically, without overwriting anything else."""

import json
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from runner.dataset.folder_reader import DatasetFolder
from runner.dataset.folder_writer import exclusive_build, publish_atomically
from runner.errors import DataError
from runner.records import Sample


def sample(name, summary=None, segments=(), entities=()):
    return Sample(name, f"text {name}", None, summary, tuple(entities), tuple(segments))


def publish(path, *names):
    with publish_atomically(path) as unfinished:
        unfinished.write_dataset("n", ["person"], {"train": [sample(name) for name in names], "test": []}, {})


def content(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_written_data_set_can_be_read(tmp_path):
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
    with pytest.raises(ZeroDivisionError), publish_atomically(tmp_path / "set") as unfinished:
        (unfinished.images / "1.png").write_bytes(b"x")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_failure_keeps_the_earlier_one(tmp_path):
    publish(tmp_path / "set", "a")
    before = content(tmp_path)
    with pytest.raises(ZeroDivisionError), publish_atomically(tmp_path / "set"):
        raise ZeroDivisionError
    assert content(tmp_path) == before


def test_failure_at_the_last_step_keeps_the_earlier_one(tmp_path, monkeypatch):
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


def test_new_data_set_replaces_the_earlier_one(tmp_path):
    publish(tmp_path / "set", "a")
    (tmp_path / "set" / "images" / "old.png").write_bytes(b"x")
    publish(tmp_path / "set", "b")
    assert [each.id for each in DatasetFolder(tmp_path / "set").load("train")] == ["b"]
    assert not (tmp_path / "set" / "images" / "old.png").exists()
    assert [each.name for each in tmp_path.iterdir()] == ["set"]


def test_leftovers_of_a_kill_are_removed(tmp_path):
    (tmp_path / ".set.unfinished" / "images").mkdir(parents=True)
    publish(tmp_path / "set", "a")
    assert [each.name for each in tmp_path.iterdir()] == ["set"]


def test_earlier_data_set_is_restored_after_a_kill(tmp_path):
    publish(tmp_path / "set", "a")
    before = content(tmp_path)
    (tmp_path / "set").rename(tmp_path / ".set.before")
    with pytest.raises(ZeroDivisionError), publish_atomically(tmp_path / "set"):
        raise ZeroDivisionError
    assert content(tmp_path) == before


@pytest.mark.parametrize("occupied", ["folder", "file"])
def test_other_folders_and_files_are_never_replaced(tmp_path, occupied):
    path = tmp_path / "thesis"
    if occupied == "folder":
        path.mkdir()
        (path / "chapter.tex").write_text("dear")
    else:
        path.write_text("dear")
    before = content(tmp_path)
    with pytest.raises(DataError, match="already exists and is not a data set"):
        publish(path, "a")
    assert content(tmp_path) == before


def test_parent_that_is_a_file_is_rejected(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot be created"), exclusive_build(tmp_path / "file" / "set"):
        pass


def test_builds_are_exclusive(tmp_path):
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


def test_description_contains_provenance_and_statistics(folder):
    told = json.loads((folder / "dataset.json").read_text())
    assert told["provenance"] == {"made": "by a test"}
    assert told["num_samples"] == {"train": 3, "test": 1}
    assert told["statistics"]["entities"] == {"location": 4, "person": 4}


def test_waiting_for_another_build_calls_on_wait(tmp_path):
    path, first, order_of_waits = tmp_path / "set", ExitStack(), []
    first.enter_context(exclusive_build(path, lambda: order_of_waits.append("first")))

    def on_wait():
        order_of_waits.append("second")
        first.close()

    with exclusive_build(path, on_wait):
        assert order_of_waits == ["second"]
