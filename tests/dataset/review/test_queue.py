"""Opening a review, and finding its images."""

import pytest

from runner.dataset.review.queue import open_review
from runner.dataset.review.server import find_image
from runner.errors import DataError, SpecError
from runner.redaction import is_loopback

SPEC = """\
name: tweets
source: {type: gmner, path: gmner}
output: made
"""


def test_data_set_spec_and_work_folder_open_the_same_review(six_samples, tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC)
    reviews = [open_review(each) for each in (six_samples.dataset, spec, six_samples.work.path)]
    assert {review.path for review in reviews} == {six_samples.work.path}
    assert [review.name for review in reviews] == ["made", "tweets", "made"]
    assert reviews[0].as_json() == {
        "path": str(six_samples.work.path),
        "num_samples": 6,
        "decisions": {"undecided": 6, "accepted": 0, "edited": 0, "rejected": 0},
        "flags": {"refused": 1, "more words than expected": 1, "no summary": 1},
        "wrong_boxes": [],
    }


def test_missing_samples_error_names_the_build_command(tmp_path):
    with pytest.raises(DataError, match=r"there are no samples to review .*made\.build.* `runner build DATASET_SPEC`"):
        open_review(tmp_path / "made")


def test_invalid_spec_is_rejected(tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC.replace("source", "sauce"))
    with pytest.raises(SpecError, match=r"spec\.yaml:2"):
        open_review(spec)


def test_images_are_found_by_name_inside_the_data_set_only(six_samples, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    six_samples.rows[1]["image"] = "../../secret.png"
    (six_samples.work.image_root / "segments" / "1-a.png").unlink()
    (six_samples.work.image_root / "segments" / "1-a.png").symlink_to(tmp_path / "secret.png")
    review = open_review(six_samples.write().dataset)
    assert find_image(review, 0, "main") == six_samples.work.image_root / "images" / "1.png"
    assert find_image(review, 0, "a") is None
    assert find_image(review, 1, "main") is None
    assert find_image(review, 1, "a") == six_samples.work.image_root / "segments" / "2-a.png"
    for number, name in ((0, "b"), (0, "../1.png"), (6, "main"), (-1, "main")):
        assert find_image(review, number, name) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_addresses(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_other_addresses(host):
    assert not is_loopback(host)
