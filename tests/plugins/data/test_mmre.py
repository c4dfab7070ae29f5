"""Data from a data-set folder: with its own splits or new ones, checked, with a fingerprint of its content."""

import json

import pytest
from PIL import Image
from pydantic import ValidationError

from plugins.data.data_options import MmreOptions
from plugins.data.mmre import MmreData
from runner.dataset.folder_writer import publish_atomically
from runner.dataset.leaks import find_leaks
from runner.errors import DataError
from runner.fingerprint_and_provenance import fingerprinted_options
from runner.records import Entity, Sample


def publish(path, **texts):
    """Write a data set whose splits contain these texts, each with its own image."""
    with publish_atomically(path) as unfinished:
        splits = {}
        for split, members in texts.items():
            splits[split] = []
            for number, text in enumerate(members):
                image = unfinished.images / f"{split}{number}.png"
                Image.new("RGB", (4, 4), (number, len(split), len(text))).save(image)
                pairs = (Entity("person", "Ada"),)
                splits[split].append(Sample(f"{split}-{number}", text, image, None, pairs, ()))
        unfinished.write_dataset("made", ["person"], splits, {})
    return path


@pytest.fixture
def folder(tmp_path):
    return publish(
        tmp_path / "made",
        train=[f"train {number}" for number in range(14)],
        test=[f"test {number}" for number in range(6)],
    )


def prepared(reporter, **options):
    data = MmreData(MmreOptions(**options))
    return data, data.prepare(reporter)


def ids(data, *splits):
    return [sample.id for split in splits for sample in data.load(split)]


RATIOS = {"ratios": {"train": 0.5, "test": 0.5}, "seed": 7}


def test_as_built(folder, recorder):
    reporter = recorder()
    data, info = prepared(reporter, path=folder)
    assert info.num_samples == {"train": 14, "test": 6}
    assert info.fingerprint == json.loads((folder / "dataset.json").read_text())["fingerprint"]
    assert (info.name, info.labels, info.location) == ("made", ("person",), str(folder))
    assert ids(data, "test") == [f"test-{number}" for number in range(6)]
    assert reporter.warnings == []


def test_split_again(folder, recorder):
    data, info = prepared(recorder(), path=folder, split=RATIOS)
    built = prepared(recorder(), path=folder)[0]
    assert info.num_samples == {"train": 10, "test": 10}
    assert sorted(ids(data, "train", "test")) == sorted(ids(built, "train", "test"))
    again, same = prepared(recorder(), path=folder, split=RATIOS)
    assert (ids(again, "train"), same.fingerprint) == (ids(data, "train"), info.fingerprint)
    other, different = prepared(recorder(), path=folder, split=RATIOS | {"seed": 8})
    assert ids(other, "train") != ids(data, "train")
    assert different.fingerprint != info.fingerprint


def test_a_limit_takes_the_first_of_each_split(folder, recorder):
    data, info = prepared(recorder(), path=folder, limit=3)
    assert info.num_samples == {"train": 3, "test": 3}
    assert ids(data, "train", "test") == ["train-0", "train-1", "train-2", "test-0", "test-1", "test-2"]
    assert info.fingerprint != prepared(recorder(), path=folder)[1].fingerprint


def test_an_edited_folder_gives_a_warning_and_a_new_fingerprint(folder, recorder):
    before = prepared(recorder(), path=folder)[1].fingerprint
    file = folder / "train.jsonl"
    file.write_text(file.read_text().replace("train 3", "train three"))
    reporter = recorder()
    after = prepared(reporter, path=folder)[1].fingerprint
    (warning,) = reporter.warnings
    assert after != before
    assert after[:8] in warning
    assert before[:8] in warning


def test_an_edited_folder_gives_a_warning_with_a_limit_too(folder, recorder):
    file = folder / "train.jsonl"
    file.write_text(file.read_text().replace("train 9", "train nine"))
    reporter = recorder()
    prepared(reporter, path=folder, limit=2)
    assert len(reporter.warnings) == 1


@pytest.fixture
def leaking(tmp_path):
    return publish(tmp_path / "leaks", train=["one", "two", "three", "four"], test=["five", "TWO"])


def test_leaks_are_refused(leaking, recorder):
    with pytest.raises(DataError, match="the same text: train/train-1 and test/test-1") as raised:
        prepared(recorder(), path=leaking)
    assert "data.leaks: warn" in str(raised.value)


def test_leaks_give_a_warning(leaking, recorder):
    reporter = recorder()
    _, info = prepared(reporter, path=leaking, leaks="warn")
    assert info.num_samples == {"train": 4, "test": 2}
    (warning,) = reporter.warnings
    assert "the same text: train/train-1 and test/test-1" in warning


def test_splitting_by_content_removes_leaks(leaking, recorder):
    reporter = recorder()
    data, _ = prepared(reporter, path=leaking, split=RATIOS)
    assert find_leaks({split: data.load(split) for split in ("train", "test")}) == []
    assert reporter.warnings == []


def test_splitting_by_sample_may_leak(tmp_path, recorder):
    path = publish(tmp_path / "same", train=["same"] * 8)
    with pytest.raises(DataError, match="leak"):
        prepared(recorder(), path=path, split=RATIOS | {"group_by": "none"})


def test_the_error_for_a_missing_folder_names_the_build_command(tmp_path, recorder):
    with pytest.raises(DataError, match=r"nowhere: no data set here.*runner build"):
        prepared(recorder(), path=tmp_path / "nowhere")


def test_a_data_set_without_a_test_split_is_an_error(tmp_path, recorder):
    path = publish(tmp_path / "one", train=[f"t{number}" for number in range(10)])
    with pytest.raises(DataError, match="has no split test, only train; split it again"):
        prepared(recorder(), path=path)
    assert prepared(recorder(), path=path, split={})[1].num_samples == {"train": 7, "test": 3}


def test_an_unknown_split_is_an_error(folder, recorder):
    data, _ = prepared(recorder(), path=folder)
    with pytest.raises(DataError, match="no split 'dev' was prepared"):
        data.load("dev")


def test_a_smoke_run_uses_few_samples(folder, tmp_path):
    assert MmreOptions(path=folder).smoke() == {"limit": 8}
    assert MmreOptions(path=tmp_path / "nowhere").smoke()["type"] == "synthetic"


def test_the_path_is_not_part_of_the_fingerprint(tmp_path):
    assert fingerprinted_options(MmreOptions(path=tmp_path)) == fingerprinted_options(
        MmreOptions(path=tmp_path / "moved")
    )
    assert fingerprinted_options(MmreOptions(path=tmp_path)) != fingerprinted_options(
        MmreOptions(path=tmp_path, limit=3)
    )


@pytest.mark.parametrize(
    "split",
    [
        {"ratios": {"train": 1}},
        {"ratios": {"train": 1, "test": 0}},
        {"ratios": {"train": 1, "test": -1}},
        {"ratios": {"train": 1, "test": 1, "../up": 1}},
        {"ratio": {}},
        "official",
    ],
)
def test_invalid_ratios(tmp_path, split):
    with pytest.raises(ValidationError):
        MmreOptions(path=tmp_path, split=split)


def test_similar_images_are_leaks_if_enabled(tmp_path, recorder):
    path = publish(tmp_path / "made", train=["a", "b"], test=["c"])
    chequers = Image.effect_mandelbrot((64, 64), (-2, -1.5, 1, 1.5), 40)
    chequers.save(path / "images" / "train0.png")
    chequers.resize((32, 32)).save(path / "images" / "test0.png")
    prepared(recorder(), path=path)
    with pytest.raises(DataError, match="nearly the same image: train/train-0 and test/test-0"):
        prepared(recorder(), path=path, near_images=6)
