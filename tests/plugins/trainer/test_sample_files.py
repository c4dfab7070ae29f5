"""Files of encoded samples: complete or absent, keyed by everything they depend on, within their part of the disk."""

import os
import resource
import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import multiprocessing

from plugins.trainer.encoded_samples import ABANDONED_SECONDS, SampleFiles
from runner.errors import DataError
from runner.records import ImagePart, Rendered, TextPart

SAMPLE = Rendered("7", (ImagePart(Path("/here/7.png")), TextPart("Who?")), "Ada", (Rendered("6", (), "Alan"),))
FEATURES = {"input_ids": torch.arange(5), "pixel_values": torch.randn(3, 4)}


@pytest.fixture
def open_files(tmp_path):
    """A function that opens the files of a folder, as another training does too."""

    def open_files(settings=("all", 1), key="key", warn=pytest.fail):
        return SampleFiles(tmp_path / "encoded" / key, list(settings), warn)

    return open_files


def _same(content):
    return content is not None and all(content[0][name].equal(FEATURES[name]) for name in FEATURES)


def test_written_sample_can_be_read_by_another_process(open_files):
    assert open_files().read(SAMPLE) is None
    open_files().write(SAMPLE, FEATURES)
    assert _same(open_files().read(SAMPLE))


def test_file_is_memory_mapped(open_files, tmp_path):
    open_files().write(SAMPLE, FEATURES)
    features, _ = open_files().read(SAMPLE)
    [file] = (tmp_path / "encoded" / "key").iterdir()
    assert str(file) in Path("/proc/self/maps").read_text()
    features["input_ids"][0] = 9  # a copy of one's own
    assert _same(open_files().read(SAMPLE))


def test_file_is_readable_by_all_users(open_files, tmp_path):
    open_files().write(SAMPLE, FEATURES)
    [file] = (tmp_path / "encoded" / "key").iterdir()
    assert file.stat().st_mode & 0o444 == 0o444


def test_image_in_another_folder_gives_the_same_file(open_files):
    open_files().write(SAMPLE, FEATURES)
    moved = replace(SAMPLE, content=(ImagePart(Path("/there/7.png")), TextPart("Who?")))
    assert _same(open_files().read(moved))


text = st.text("ab", max_size=2)
parts = st.builds(TextPart, text) | st.builds(lambda name: ImagePart(Path("/here") / f"i{name}"), st.integers(0, 3))
rendered = st.builds(Rendered, text, st.lists(parts, max_size=3).map(tuple), st.none() | text)
samples = st.builds(replace, rendered, examples=st.lists(rendered, max_size=2).map(tuple))
makers = st.lists(st.none() | st.booleans() | st.integers() | text, max_size=3)


@settings(max_examples=60)
@given(st.tuples(samples, makers), st.tuples(samples, makers))
def test_any_difference_gives_another_file(tmp_path_factory, one, other):
    folder = tmp_path_factory.getbasetemp() / "named"
    first, second = (SampleFiles(folder, made_by, str)._file(sample) for sample, made_by in (one, other))
    assert (first == second) == (repr(one) == repr(other))


@pytest.mark.parametrize("torn", [b"", b"half of a hea", None])
def test_damaged_file_is_ignored_and_replaced(open_files, tmp_path, torn):
    open_files().write(SAMPLE, FEATURES)
    [file] = (tmp_path / "encoded" / "key").iterdir()
    file.write_bytes(file.read_bytes()[:-1] if torn is None else torn)
    assert open_files().read(SAMPLE) is None
    open_files().write(SAMPLE, FEATURES)
    assert _same(open_files().read(SAMPLE))


def test_abandoned_file_is_removed_and_never_read(open_files, tmp_path):
    open_files()
    names = (f".{'a' * 32}", f".{'b' * 32}", ".profile")
    old, new, other = (tmp_path / "encoded" / "key" / name for name in names)
    for file in (old, new, other):
        file.write_bytes(b"half")
    for file in (old, other):
        os.utime(file, (0, time.time() - ABANDONED_SECONDS - 1))
    assert open_files().read(SAMPLE) is None
    assert {file.name for file in new.parent.iterdir()} == {new.name, ".profile"}, "only the runner's own files"


@pytest.mark.parametrize("link", ["encoded", "encoded/key"])
def test_a_folder_that_is_a_link_is_refused(open_files, tmp_path, link):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="not in a link; remove the link"):
        open_files()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_pipe_in_place_of_a_sample_is_not_opened(open_files, tmp_path):
    open_files().write(SAMPLE, FEATURES)
    [file] = (tmp_path / "encoded" / "key").iterdir()
    file.unlink()
    os.mkfifo(file)
    assert open_files().read(SAMPLE) is None


def test_folder_may_be_deleted_while_in_use(open_files, tmp_path):
    files = open_files()
    files.write(SAMPLE, FEATURES)
    shutil.rmtree(tmp_path / "encoded")
    assert files.read(SAMPLE) is None
    files.write(SAMPLE, FEATURES)
    assert _same(files.read(SAMPLE))


def _write_often(rank, folder):
    files = SampleFiles(folder, [], str)
    for round in range(30):
        for place in range(5):
            sample = Rendered(str(place), ())
            found = files.read(sample)
            assert found is None or found[0]["input_ids"].tolist() == [place] * 1000
            if found is None or round % 3 == rank:
                files.write(sample, {"input_ids": torch.full((1000,), place)})


def test_two_processes_can_write_the_same_sample(tmp_path):
    folder = tmp_path / "encoded" / "key"
    multiprocessing.start_processes(_write_often, args=(folder,), nprocs=2, start_method="fork")
    assert len(list(folder.iterdir())) == 5


def test_folder_uses_at_most_half_of_the_free_space(open_files, tmp_path, monkeypatch):
    disk, told = 10_000, []
    encoded = tmp_path / "encoded"

    def held():
        return sum(file.stat().st_size for file in encoded.rglob("*.safetensors"))

    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=disk - held()))
    for opened in range(4):
        files = open_files(key=f"key{opened % 2}", warn=told.append)
        for place in range(20):
            files.write(Rendered(f"{opened}-{place}", ()), {"input_ids": torch.zeros(100, dtype=torch.int64)})
    assert disk / 2 - 1000 < held() <= disk / 2 + 100  # a sample's header is not counted beforehand
    assert len(told) == 4
    assert "encoded again in every epoch" in told[0]
    assert str(encoded) in told[0]


def test_a_sample_that_the_disk_does_not_take_is_encoded_again_with_one_warning(open_files, tmp_path):
    warnings, limits = [], resource.getrlimit(resource.RLIMIT_FSIZE)
    files = open_files(warn=warnings.append)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # A write then fails in the middle of the file.
    try:
        digests = {files.write(SAMPLE, FEATURES) for _ in range(2)}
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    [warning] = warnings
    assert "an encoded sample cannot be written" in warning
    assert "encoded again in every epoch" in warning
    assert not list((tmp_path / "encoded" / "key").iterdir())
    assert files.read(SAMPLE) is None
    assert {files.write(SAMPLE, FEATURES)} == digests
    assert _same(files.read(SAMPLE))
