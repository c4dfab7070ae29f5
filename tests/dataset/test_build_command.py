"""`runner build` on the command line: exit status, JSON on standard output, messages on standard error."""

import json

import pytest

from runner.dataset.folder_reader import DatasetFolder

SPEC = """\
name: made
source: {type: gmner, path: gmner}
split: official
output: out/made
"""


@pytest.fixture
def spec(workplace, corpus):
    """The spec for a corpus of three tweets, one of them without boxes."""
    corpus.good("1", "train")
    corpus.good("2", "test")
    corpus.tweet("3")
    path = workplace.folder / "made.yaml"
    path.write_text(SPEC)
    return path


def test_build_prints_the_result(workplace, spec):
    done = workplace.run("build", spec, "--json")
    assert done.returncode == 0, done.stderr
    output = json.loads(done.stdout)
    path = workplace.folder / "out" / "made"
    assert output["path"] == str(path)
    assert output["num_samples"] == {"train": 1, "test": 1}
    assert output["statistics"]["segments"] == 2
    folder = DatasetFolder(path)
    assert output["fingerprint"] == folder.info(folder.load_splits()).fingerprint
    assert "left out: 1 × tweet without a box of a tagged entity" in done.stderr
    again = workplace.run("build", spec)
    assert again.returncode == 0, again.stderr
    assert f"data set: {path}\nsamples: train 1, test 1\nfingerprint: {output['fingerprint']}\n" == again.stdout


def test_unusable_images_are_rejected_or_skipped(workplace, spec, corpus):
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


def test_invalid_corpus_line_is_reported(workplace, spec, corpus):
    file = corpus.path / "txt" / "train.txt"
    file.write_text(file.read_text().replace("B-PER", "B-DOG"))
    done = workplace.run("build", spec)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{file}:3: the tag 'B-DOG' is not" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("crop.unusable_images=ignore", "valid: refuse, skip"),
        ("split={ratios: {train: 1}}", "train and test"),
        ("split={ratios: {train: 1, test: 1, left_out: 1}}", "choose another split name"),
        ("split={ratios: {train: 1, test: 1, ../out: 1}}", "split.ratios"),
        ("source.path=nowhere", "nowhere"),
        ("output=gmner", "already exists and is not a data set"),
    ],
)
def test_user_errors_exit_with_status_2(workplace, spec, override, message):
    done = workplace.run("build", spec, "--set", override)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
