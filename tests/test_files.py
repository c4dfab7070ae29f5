"""Files that are renamed into place are on the disk before, and a failed write leaves no part."""

import errno
import os
from pathlib import Path

import pytest

from runner.dataset.folder_writer import NewContent, replace_folder
from runner.files import stream_jsonl, sync_tree, write_json, write_jsonl
from runner.trial.cache_entry import CacheEntry


@pytest.fixture
def order(monkeypatch):
    """Records which files were synchronised and renamed, by inode."""
    recorded, fsync, replace = [], os.fsync, Path.replace

    def sync(handle):
        recorded.append(("sync", os.fstat(handle).st_ino))
        fsync(handle)

    def rename(self, target):
        recorded.append(("rename", self.stat().st_ino))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", rename)
    return recorded


@pytest.mark.parametrize("write", [write_json, write_jsonl, stream_jsonl])
def test_a_file_is_on_the_disk_before_it_is_renamed(tmp_path, order, write):
    write(tmp_path / "file", [{"a": 1}])
    inode = (tmp_path / "file").stat().st_ino
    assert order == [("sync", inode), ("rename", inode)]


def test_all_files_of_a_folder_are_synchronised(tmp_path, order):
    (tmp_path / "inner").mkdir()
    for name in ("a", "inner/b"):
        (tmp_path / name).write_text(name)
    sync_tree(tmp_path)
    expected = {path.stat().st_ino for path in (tmp_path, *tmp_path.rglob("*"))}
    assert {inode for _, inode in order} == expected


def test_a_data_set_is_on_the_disk_before_it_replaces_another(tmp_path, order):
    target = tmp_path / "set"
    for text in ("first", "second"):
        with replace_folder(target, NewContent("n", replace=True)) as unfinished:
            (unfinished / "images").mkdir()
            for name in ("dataset.json", "images/a.jpg"):
                (unfinished / name).write_text(text)
            order.clear()
        synced = [inode for kind, inode in order if kind == "sync"]
        expected = {path.stat().st_ino for path in (target, *target.rglob("*"))}
        assert set(synced[:-1]) == expected
        assert synced[-1] == tmp_path.stat().st_ino
    assert (target / "dataset.json").read_text() == "second"


def test_files_that_were_copied_from_the_cache_are_on_the_disk(tmp_path, order, monkeypatch):
    def other_file_system(*_arguments):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    (tmp_path / "cache").mkdir()
    entry = CacheEntry(tmp_path / "cache/key", "trained", "key")
    entry.publish({"weights": "w", "told.json": "{}"}, "e/t", None)
    monkeypatch.setattr(os, "link", other_file_system)
    order.clear()
    assert entry.link_into(tmp_path / "run")
    copies = {path.stat().st_ino for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert copies <= {inode for _, inode in order}


def test_a_write_that_fails_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    write_json(tmp_path / "file", 1)

    def fail(handle):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_json(tmp_path / "file", 2)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "1\n")]
