"""Files that are renamed into place are on the disk before, and a failed write leaves no part."""

import os
from pathlib import Path

import pytest

from runner.files import stream_jsonl, sync_tree, write_json, write_jsonl


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


def test_a_write_that_fails_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    write_json(tmp_path / "file", 1)

    def fail(handle):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_json(tmp_path / "file", 2)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "1\n")]
