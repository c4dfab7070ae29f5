"""`runner build` as a user runs it: status, the document on standard output, messages on standard error."""

import json

import pytest

from runner.dataset.folder import DatasetFolder

SPEC = """\
name: made
source: {type: gmner, path: gmner}
split: official
output: out/made
"""


@pytest.fixture
def spec(workplace, corpus):
    """The spec of a corpus of three tweets, one of them without boxes."""
    corpus.good("1", "train")
    corpus.good("2", "test")
    corpus.tweet("3")
    path = workplace.folder / "made.yaml"
    path.write_text(SPEC)
    return path


def test_a_data_set_is_built(workplace, spec):
    done = workplace.run("build", spec, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    path = workplace.folder / "out" / "made"
    assert told["path"] == str(path)
    assert told["num_samples"] == {"train": 1, "test": 1}
    assert told["statistics"]["segments"] == 2
    folder = DatasetFolder(path)
    assert told["fingerprint"] == folder.info(folder.splits()).fingerprint
    assert "left out: 1 × tweet whose picture has no boxes" in done.stderr
    again = workplace.run("build", spec)
    assert again.returncode == 0, again.stderr
    assert f"data set: {path}\nsamples: train 1, test 1\nfingerprint: {told['fingerprint']}\n" == again.stdout


def test_unusable_pictures_are_refused_or_skipped(workplace, spec, corpus):
    corpus.good("4", "test")
    (corpus.images / "4.jpg").unlink()
    refused = workplace.run("build", spec, "--json")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "test-2-4: image is missing" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (workplace.folder / "out" / "made").exists()
    skipped = workplace.run("build", spec, "--set", "crop.unusable_images=skip", "--json")
    assert skipped.returncode == 0, skipped.stderr
    assert json.loads(skipped.stdout)["left_out"]["image is missing"] == 1


def test_a_broken_corpus_is_named_with_its_line(workplace, spec, corpus):
    file = corpus.path / "txt" / "train.txt"
    file.write_text(file.read_text().replace("B-PER", "B-DOG"))
    done = workplace.run("build", spec)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{file}:3: the tag 'B-DOG' is not" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("crop.unusable_images=ignore", "valid: refuse, skip"),
        ("split={ratios: {train: 1}}", "train and test"),
        ("split={ratios: {train: 1, test: 1, left_out: 1}}", "name this split otherwise"),
        ("split={ratios: {train: 1, test: 1, ../out: 1}}", "split.ratios"),
        ("source.path=nowhere", "nowhere"),
        ("output=gmner", "is there already and is no data set"),
    ],
)
def test_mistakes_end_with_status_2(workplace, spec, wrong, message):
    done = workplace.run("build", spec, "--set", wrong)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
