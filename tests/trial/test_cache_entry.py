"""An entry is there whole or not at all, whoever is killed where, and what is damaged is refused by name."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from runner.files import link_or_copy
from runner.trial.cache import Cache
from runner.trial.cache_entry import DESCRIPTION, DamagedError

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
    entry.publish({"model": model, "told.json": "[1]"}, by)


def test_what_was_put_in_comes_out_and_takes_no_room_twice(entry, model, tmp_path):
    assert entry.take(tmp_path / "before") is None
    publish(entry, model)
    told = entry.take(tmp_path / "taken")
    assert told["made_by"] == "x/trial-1"
    assert (tmp_path / "taken" / "told.json").read_text() == "[1]"
    for name in ("config.json", "parts/weights"):
        taken = tmp_path / "taken" / "model" / name
        assert taken.read_bytes() == (model / name).read_bytes()
        assert taken.stat().st_ino == (model / name).stat().st_ino


def test_the_first_one_stays_and_nothing_unfinished_is_left(entry, model, tmp_path):
    publish(entry, model, "x/first")
    publish(entry, model, "x/second")
    assert entry.described()["made_by"] == "x/first"
    assert [each.name for each in entry.folder.parent.iterdir()] == [KEY]


def test_a_trial_keeps_what_it_took_when_the_entry_goes(entry, model, tmp_path):
    publish(entry, model)
    entry.take(tmp_path / "taken")
    entry.remove()
    entry.remove()
    assert entry.described() is None
    assert (tmp_path / "taken" / "model" / "config.json").read_text() == "{}"


def spoil_content(folder):
    (folder / "model" / "parts" / "weights").write_bytes(b"x" * 100_000)


def cut_short(folder):
    os.truncate(folder / "model" / "parts" / "weights", 10)


def lose(folder):
    (folder / "model" / "parts" / "weights").unlink()


@pytest.mark.parametrize("spoil", [spoil_content, cut_short, lose])
def test_a_damaged_entry_is_refused_with_the_name_of_the_file(entry, model, tmp_path, spoil):
    publish(entry, model)
    spoil(entry.folder)
    with pytest.raises(DamagedError, match="model/parts/weights"):
        entry.take(tmp_path / "taken")
    entry.remove()
    assert entry.take(tmp_path / "again") is None


def test_a_description_that_is_no_json_is_damage(entry, model, tmp_path):
    publish(entry, model)
    (entry.folder / DESCRIPTION).write_text("{")
    with pytest.raises(DamagedError, match=DESCRIPTION):
        entry.take(tmp_path / "taken")


def test_where_there_are_no_links_files_are_copied(tmp_path, monkeypatch):
    (tmp_path / "source").write_text("content")

    def refuse(source, target):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    link_or_copy(tmp_path / "source", tmp_path / "deep" / "target")
    assert (tmp_path / "deep" / "target").read_text() == "content"
    with pytest.raises(FileNotFoundError):
        link_or_copy(tmp_path / "nowhere", tmp_path / "other")


def _publish_for_ever(root: str, model: str) -> None:
    for number in range(10**6):
        place = Cache(Path(root)).entry("trained", f"{number:064x}")
        place.folder.parent.mkdir(parents=True, exist_ok=True)
        place.publish({"model": Path(model)}, "x/killed")


def test_a_kill_in_the_middle_of_publishing_leaves_whole_entries_alone(model, tmp_path):
    root = tmp_path / "cache"
    started = multiprocessing.get_context("spawn").Process(target=_publish_for_ever, args=(str(root), str(model)))
    started.start()
    while not (root / "trained" / f"{3:064x}").exists():
        assert started.is_alive()
        time.sleep(0.001)
    os.kill(started.pid, signal.SIGKILL)
    started.join()
    visible = [each for each in (root / "trained").iterdir() if not each.name.startswith(".")]
    assert len(visible) >= 4
    for place in visible:
        assert Cache(root).entry("trained", place.name).take(tmp_path / "taken" / place.name) is not None
