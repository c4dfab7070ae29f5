"""Stages of a build: what is skipped, what is done again, and what goes on in its middle."""

import pytest
from PIL import Image

from runner.dataset.build import crop_stage as cropping
from runner.dataset.build.work_folder import WorkFolder
from runner.dataset.folder import DatasetFolder
from runner.errors import DataError, StepError


def made_again(built):
    return [stage for stage, what in built.stages.items() if what == "made"]


@pytest.fixture
def crops(monkeypatch):
    """The ids of tweets that are cropped, as it happens."""
    found = []
    crop = cropping.crop_tweet

    def noted(tweet, *told):
        found.append(tweet.sample.id)
        return crop(tweet, *told)

    monkeypatch.setattr(cropping, "crop_tweet", noted)
    return found


def test_what_has_not_changed_is_skipped_and_said_to_be(corpus, build, heard, crops):
    for number in range(3):
        corpus.good(f"{number}")
    assert made_again(build()) == ["import", "crop", "annotate", "split", "publish"]
    heard.said.clear()
    assert made_again(build()) == []
    assert len(crops) == 3
    assert heard.said[:2] == [
        "import: 3 tweets, unchanged since the last build",
        "crop: 3 samples, unchanged since the last build",
    ]


def test_another_tweet_is_cropped_alone(corpus, build, crops):
    corpus.good("1")
    build()
    name = corpus.good("2")
    assert build().num_samples == {"train": 2}
    assert crops == ["train-1-1", name]


def test_a_picture_that_changed_is_cropped_again(corpus, build, crops, painted):
    names = [corpus.good(f"{number}") for number in range(3)]
    before = build()
    painted((80, 60)).rotate(180).save(corpus.images / "1.jpg")
    after = build()
    assert (sorted(crops[:3]), crops[3:]) == (names, [names[1]])
    assert after.fingerprint != before.fingerprint


def test_other_options_of_the_division_crop_nothing(corpus, build, crops):
    for number in range(6):
        corpus.good(f"{number}")
    build(split={"seed": 1})
    assert made_again(build(split={"seed": 2})) == ["split", "publish"]
    assert len(crops) == 6


def test_what_is_done_with_unusable_pictures_crops_nothing_again(corpus, build, crops):
    corpus.good("1")
    (corpus.images / "1.jpg").write_bytes(b"")
    corpus.good("2")
    with pytest.raises(DataError, match="cannot be used"):
        build(skip=False)
    assert len(crops) == 2
    assert build().num_samples == {"train": 1}
    assert len(crops) == 2


def test_smaller_boxes_are_cut_when_they_are_asked_for(corpus, build):
    corpus.good("1")
    corpus.boxes("2", [("Ada", (2, 2, 5, 20)), ("Ada", (2, 2, 30, 20))], (80, 60))
    Image.new("RGB", (80, 60), "red").save(corpus.images / "2.jpg")
    corpus.tweet("2")
    assert build().statistics["segments"] == 2
    assert build(crop={"min_side": 2, "unusable_images": "skip"}).statistics["segments"] == 3


def test_a_crop_that_is_interrupted_goes_on(corpus, build, crops, monkeypatch):
    for number in range(40):
        corpus.good(f"{number}")
    noted = cropping.crop_tweet

    def interrupted(tweet, *told):
        if len(crops) == 30:
            raise KeyboardInterrupt
        return noted(tweet, *told)

    monkeypatch.setattr(cropping, "crop_tweet", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build()
    monkeypatch.setattr(cropping, "crop_tweet", noted)
    first = len(crops)
    built = build()
    assert built.num_samples == {"train": 40}
    assert 40 <= len(crops) < 40 + first
    undisturbed = build("other")
    assert undisturbed.fingerprint == built.fingerprint


def test_a_folder_that_was_removed_or_edited_is_published_again(corpus, build):
    corpus.good("1")
    built = build()
    (built.path / "dataset.json").write_text("{}")
    assert made_again(build()) == ["publish"]
    assert DatasetFolder(built.path).description["fingerprint"] == built.fingerprint


def test_what_a_build_keeps_lies_beside_the_data_set(corpus, build):
    corpus.good("1")
    built = build()
    assert WorkFolder.of(built.path).path == built.path.parent / "made.build"
    assert not (built.path / "annotations.jsonl").exists()


def test_what_cannot_be_written_is_told_with_its_place(corpus, build):
    corpus.good("1")
    place = corpus.path.parent / "made.build"
    place.write_text("in the way")
    with pytest.raises(StepError, match=r"made\.build.*: (File exists|Not a directory).*What is done is kept"):
        build()
