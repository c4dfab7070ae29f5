"""Cache entries are published atomically even if processes are killed, and damaged files are named."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.files import link_or_copy
from runner.trial.cache_and_mirror import Cache
from runner.trial.cache_entry import DESCRIPTION, DamagedEntryError, InvalidEntryError, Lease, parse_description

KEY = "0123456789ab" * 5


@pytest.fixture
def entry(tmp_path):
    return Cache(tmp_path / "cache").entry("trained", KEY)


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    (folder / "parts").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "parts" / "weights").write_bytes(os.urandom(100_000))
    return folder


def publish(entry, model, by="x/trial-1"):
    entry.folder.parent.mkdir(parents=True, exist_ok=True)
    entry.publish({"model": model, "told.json": "[1]"}, by, "run-1")


def test_published_files_are_linked_into_a_folder(entry, model, tmp_path):
    assert entry.link_into(tmp_path / "before") is None
    publish(entry, model)
    description = entry.link_into(tmp_path / "taken")
    assert description["made_by"] == "x/trial-1"
    assert (tmp_path / "taken" / "told.json").read_text() == "[1]"
    for name in ("config.json", "parts/weights"):
        taken = tmp_path / "taken" / "model" / name
        assert taken.read_bytes() == (model / name).read_bytes()
        assert taken.stat().st_ino == (model / name).stat().st_ino


def test_the_first_published_entry_stays_and_no_temporary_folder_is_left(entry, model, tmp_path):
    publish(entry, model, "x/first")
    publish(entry, model, "x/second")
    assert entry.read_description()["made_by"] == "x/first"
    assert [each.name for each in entry.folder.parent.iterdir()] == [KEY]


def test_linked_files_survive_the_removal_of_the_entry(entry, model, tmp_path):
    publish(entry, model)
    entry.link_into(tmp_path / "taken")
    entry.remove()
    entry.remove()
    assert entry.read_description() is None
    assert (tmp_path / "taken" / "model" / "config.json").read_text() == "{}"


def change_content(folder):
    (folder / "model" / "parts" / "weights").write_bytes(b"x" * 100_000)


def truncate(folder):
    os.truncate(folder / "model" / "parts" / "weights", 10)


def delete(folder):
    (folder / "model" / "parts" / "weights").unlink()


@pytest.mark.parametrize("damage", [change_content, truncate, delete])
def test_a_damaged_entry_is_refused_with_the_name_of_the_file(entry, model, tmp_path, damage):
    publish(entry, model)
    damage(entry.folder)
    with pytest.raises(DamagedEntryError, match="model/parts/weights"):
        entry.link_into(tmp_path / "taken")
    entry.remove()
    assert entry.link_into(tmp_path / "again") is None


def test_an_invalid_description_is_damage(entry, model, tmp_path):
    publish(entry, model)
    (entry.folder / DESCRIPTION).write_text("{")
    with pytest.raises(DamagedEntryError, match=DESCRIPTION):
        entry.link_into(tmp_path / "taken")


def change_description(entry, **changes):
    description = json.loads((entry.folder / DESCRIPTION).read_text())
    (entry.folder / DESCRIPTION).write_text(json.dumps({**description, **changes}))


FILE = {"size": 1, "sha256": "0" * 64}


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {"../../outside": FILE}},
        {"files": {"/outside": FILE}},
        {"files": {"model/../../outside": FILE}},
        {"files": {"": FILE}},
        {"files": {".": FILE}},
        {"files": {DESCRIPTION: FILE}},
        {"files": {"model//x": FILE}},
        {"files": ["model"]},
        {"files": {"model": {"size": -1, "sha256": "0"}}},
        {"kind": ".."},
        {"key": "0" * 60},
        {"made_by": ["x"]},
        {"created": "yesterday"},
    ],
)
def test_an_entry_of_another_form_is_neither_used_nor_removed(entry, model, tmp_path, changes):
    publish(entry, model)
    change_description(entry, **changes)
    for read in (entry.read_description, lambda: entry.link_into(tmp_path / "deep" / "taken")):
        with pytest.raises(InvalidEntryError, match=KEY):
            read()
    assert not list(tmp_path.rglob("outside"))
    publish(entry, model, "x/second")
    with pytest.raises(InvalidEntryError):
        entry.read_description()


names = st.lists(st.sampled_from(["a", "b.c", "..", ".", "", "\0", "~"]), min_size=1, max_size=5).map("/".join)


@given(names)
def test_accepted_names_stay_inside_the_entry(name):
    description = {"kind": "k", "key": "a", "made_by": "x", "run": None, "created": "2026-01-01T00:00:00+00:00"}
    try:
        parse_description(json.dumps({**description, "files": {name: FILE}}), "here", "k", "a")
    except InvalidEntryError:
        return
    resolved = (Path("/entry") / name).resolve()
    assert resolved.is_relative_to("/entry")
    assert resolved.relative_to("/entry").as_posix() == name


def link_file(folder, outside):
    (folder / "model" / "parts" / "weights").rename(outside)
    (folder / "model" / "parts" / "weights").symlink_to(outside)


def link_folder(folder, outside):
    (folder / "model" / "parts").rename(outside)
    (folder / "model" / "parts").symlink_to(outside)


def pipe(folder, outside):
    (folder / "model" / "parts" / "weights").unlink()
    os.mkfifo(folder / "model" / "parts" / "weights")


def link_description(folder, outside):
    (folder / DESCRIPTION).rename(outside)
    (folder / DESCRIPTION).symlink_to(outside)


@pytest.mark.parametrize("change", [link_file, link_folder, pipe, link_description])
def test_links_and_pipes_in_an_entry_are_not_followed(entry, model, tmp_path, change):
    publish(entry, model)
    change(entry.folder, tmp_path / "outside")
    with pytest.raises(InvalidEntryError, match="not a regular file"):
        entry.link_into(tmp_path / "taken")


@pytest.mark.parametrize("content", ["", "[]", "{}", "1"])
def test_a_lease_whose_holder_is_unknown_names_another_trial(entry, content):
    with Lease(entry, "x/first").acquire():
        other = Lease(entry, "x/second")
        other._holder_file.write_text(content)
        assert other._holder() == "another trial"


def test_files_are_copied_if_links_are_unsupported(tmp_path, monkeypatch):
    (tmp_path / "source").write_text("content")

    def refuse(source, target):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    link_or_copy(tmp_path / "source", tmp_path / "deep" / "target")
    assert (tmp_path / "deep" / "target").read_text() == "content"
    with pytest.raises(FileNotFoundError):
        link_or_copy(tmp_path / "nowhere", tmp_path / "other")


def _publish_forever(root: str, model: str) -> None:
    for number in range(10**6):
        place = Cache(Path(root)).entry("trained", f"{number:064x}")
        place.folder.parent.mkdir(parents=True, exist_ok=True)
        place.publish({"model": Path(model)}, "x/killed", "run-2")


def test_a_kill_while_publishing_leaves_only_complete_entries(model, tmp_path):
    root = tmp_path / "cache"
    started = multiprocessing.get_context("spawn").Process(target=_publish_forever, args=(str(root), str(model)))
    started.start()
    while not (root / "trained" / f"{3:064x}").exists():
        assert started.is_alive()
        time.sleep(0.001)
    os.kill(started.pid, signal.SIGKILL)
    started.join()
    visible = [each for each in (root / "trained").iterdir() if not each.name.startswith(".")]
    assert len(visible) >= 4
    for place in visible:
        assert Cache(root).entry("trained", place.name).link_into(tmp_path / "taken" / place.name) is not None


@pytest.mark.parametrize("umask", [0o002, 0o077])
def test_a_copy_has_the_permissions_of_the_umask(tmp_path, monkeypatch, umask):
    def refuse(source, target):
        raise PermissionError("the file belongs to another user")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "source").write_text("x")
    (tmp_path / "source").chmod(0o644)
    earlier = os.umask(umask)
    try:
        link_or_copy(tmp_path / "source", tmp_path / "target")
    finally:
        os.umask(earlier)
    assert (tmp_path / "target").stat().st_mode & 0o777 == 0o666 & ~umask
