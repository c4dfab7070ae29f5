"""Stages of a build: which are skipped, repeated or resumed."""

import pytest
from PIL import Image

from runner.dataset.build import crop_stage as cropping
from runner.dataset.build.work_folder import WorkFolder
from runner.dataset.folder_reader import DatasetFolder
from runner.errors import DataError, StepError


def stages_run(built):
    return [stage for stage, what in built.stages.items() if what == "made"]


@pytest.fixture
def crops(monkeypatch):
    """A list that receives the ids of tweets as they are cropped."""
    cropped = []
    crop = cropping.crop_tweet

    def recording_crop(tweet, *arguments):
        cropped.append(tweet.sample.id)
        return crop(tweet, *arguments)

    monkeypatch.setattr(cropping, "crop_tweet", recording_crop)
    return cropped


def test_unchanged_stages_are_skipped_and_reported(corpus, build, reporter, crops):
    for number in range(3):
        corpus.good(f"{number}")
    assert stages_run(build()) == ["import", "crop", "annotate", "split", "publish"]
    reporter.messages.clear()
    assert stages_run(build()) == []
    assert len(crops) == 3
    assert reporter.messages[:2] == [
        "import: 3 tweets, unchanged since the last build",
        "crop: 3 samples, unchanged since the last build",
    ]


def test_only_a_new_tweet_is_cropped(corpus, build, crops):
    corpus.good("1")
    build()
    name = corpus.good("2")
    assert build().num_samples == {"train": 2}
    assert crops == ["train-1-1", name]


def test_changed_image_is_cropped_again(corpus, build, crops, painted):
    names = [corpus.good(f"{number}") for number in range(3)]
    before = build()
    painted((80, 60)).rotate(180).save(corpus.images / "1.jpg")
    after = build()
    assert (sorted(crops[:3]), crops[3:]) == (names, [names[1]])
    assert after.fingerprint != before.fingerprint


def test_split_options_do_not_repeat_crops(corpus, build, crops):
    for number in range(6):
        corpus.good(f"{number}")
    build(split={"seed": 1})
    assert stages_run(build(split={"seed": 2})) == ["split", "publish"]
    assert len(crops) == 6


def test_unusable_images_option_does_not_repeat_crops(corpus, build, crops):
    corpus.good("1")
    (corpus.images / "1.jpg").write_bytes(b"")
    corpus.good("2")
    with pytest.raises(DataError, match="cannot be used"):
        build(skip=False)
    assert len(crops) == 2
    assert build().num_samples == {"train": 1}
    assert len(crops) == 2


def test_smaller_min_side_crops_more_boxes(corpus, build):
    corpus.good("1")
    corpus.boxes("2", [("Ada", (2, 2, 5, 20)), ("Ada", (2, 2, 30, 20))], (80, 60))
    Image.new("RGB", (80, 60), "red").save(corpus.images / "2.jpg")
    corpus.tweet("2")
    assert build().statistics["segments"] == 2
    assert build(crop={"min_side": 2, "unusable_images": "skip"}).statistics["segments"] == 3


def test_interrupted_crop_resumes(corpus, build, crops, monkeypatch):
    for number in range(40):
        corpus.good(f"{number}")
    recording_crop = cropping.crop_tweet

    def interrupted(tweet, *arguments):
        if len(crops) == 30:
            raise KeyboardInterrupt
        return recording_crop(tweet, *arguments)

    monkeypatch.setattr(cropping, "crop_tweet", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build()
    monkeypatch.setattr(cropping, "crop_tweet", recording_crop)
    first = len(crops)
    built = build()
    assert built.num_samples == {"train": 40}
    assert 40 <= len(crops) < 40 + first
    undisturbed = build("other")
    assert undisturbed.fingerprint == built.fingerprint


def test_removed_or_edited_folder_is_published_again(corpus, build):
    corpus.good("1")
    built = build()
    file = built.path / "dataset.json"
    file.write_text(file.read_text().replace("person", "people"))
    assert stages_run(build()) == ["publish"]
    assert DatasetFolder(built.path).description["fingerprint"] == built.fingerprint


def test_work_folder_is_beside_the_data_set(corpus, build):
    corpus.good("1")
    built = build()
    assert WorkFolder.for_dataset(built.path).path == built.path.parent / "made.build"
    assert not (built.path / "annotations.jsonl").exists()


def test_failed_write_names_the_path(corpus, build):
    corpus.good("1")
    work_path = corpus.path.parent / "made.build"
    work_path.write_text("in the way")
    with pytest.raises(StepError, match=r"made\.build.*: (File exists|Not a directory).*Finished work is kept"):
        build()
