"""What can be named for a review, and what is served of it."""

import pytest

from runner.dataset.review.queue import open_review
from runner.dataset.review.server import is_loopback, picture_path
from runner.errors import DataError, SpecError

SPEC = """\
name: tweets
source: {type: gmner, path: gmner}
output: made
"""


def test_a_data_set_its_spec_and_its_build_name_the_same_review(six, tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC)
    reviews = [open_review(each) for each in (six.dataset, spec, six.work.path)]
    assert {review.path for review in reviews} == {six.work.path}
    assert [review.name for review in reviews] == ["made", "tweets", "made"]
    assert reviews[0].as_json() == {
        "path": str(six.work.path),
        "num_samples": 6,
        "decisions": {"undecided": 6, "accepted": 0, "edited": 0, "rejected": 0},
        "flags": {"refused": 1, "more words than expected": 1, "no summary": 1},
    }


def test_what_has_nothing_to_review_says_what_would(tmp_path):
    with pytest.raises(DataError, match=r"nothing waits for a review .*made\.build.* `runner build DATASET_SPEC`"):
        open_review(tmp_path / "made")


def test_a_wrong_spec_is_refused(tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC.replace("source", "sauce"))
    with pytest.raises(SpecError, match=r"spec\.yaml:2"):
        open_review(spec)


def test_pictures_are_served_by_what_they_show_and_from_nowhere_else(six, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    six.rows[1]["image"] = "../../secret.png"
    (six.work.pictures / "segments" / "1-a.png").unlink()
    (six.work.pictures / "segments" / "1-a.png").symlink_to(tmp_path / "secret.png")
    review = open_review(six.write().dataset)
    assert picture_path(review, 0, "main") == six.work.pictures / "images" / "1.png"
    assert picture_path(review, 0, "a") is None
    assert picture_path(review, 1, "main") is None
    assert picture_path(review, 1, "a") == six.work.pictures / "segments" / "2-a.png"
    for number, name in ((0, "b"), (0, "../1.png"), (6, "main"), (-1, "main")):
        assert picture_path(review, number, name) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_what_only_this_machine_reaches_is_loopback(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_what_others_reach_is_not(host):
    assert not is_loopback(host)
