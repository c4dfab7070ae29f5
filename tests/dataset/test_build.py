"""Building a data set: unusable images, leaks between splits, and repeated builds."""

import random
import shutil
import struct
import zlib

import pytest
from PIL import Image

from runner.dataset.folder_reader import DatasetFolder
from runner.dataset.leaks import find_leaks
from runner.errors import DataError

SIZE = (80, 60)


def content(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def missing(path, painted):
    pass


def empty(path, painted):
    path.write_bytes(b"")


def truncated(path, painted):
    painted((400, 300)).save(path)
    path.write_bytes(path.read_bytes()[:1500])


def no_image(path, painted):
    path.write_text("<html>404: this tweet was removed</html>")


def bomb(path, painted):
    """A file of a few hundred bytes that claims to be an image of 400 megapixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    png = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")]
    path.write_bytes(b"".join(png))


def smaller_bomb(path, painted):
    """An image above the size at which Pillow warns and below the size at which it raises an error."""
    Image.new("1", (12_000, 9_000)).save(path, "PNG")


def other_shape(path, painted):
    painted((60, 61)).save(path)


def damaged_exif(path, painted):
    painted(SIZE).save(path, exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\xff\xff\xff\xff\x00")


UNUSABLE = {
    missing: "image is missing",
    empty: "image is an empty file",
    truncated: "image is damaged or truncated",
    no_image: "image has an unknown format",
    bomb: "image is too large to be opened safely",
    smaller_bomb: "image is too large to be opened safely",
    other_shape: "image has another aspect ratio than the image that its boxes were drawn on",
}


def spoil(corpus, painted, kind, image_id="bad"):
    name = corpus.good(image_id)
    path = corpus.images / f"{image_id}.jpg"
    path.unlink()
    kind(path, painted)
    return name


@pytest.mark.parametrize(("kind", "reason"), UNUSABLE.items(), ids=[kind.__name__ for kind in UNUSABLE])
def test_unusable_image(corpus, build, painted, read_rows, kind, reason):
    corpus.good("1")
    name = spoil(corpus, painted, kind)
    with pytest.raises(
        DataError, match=rf"^the images of 1 tweet\(s\) cannot be used\.[^\n]*\n.*train\.txt:5: {name}: {reason}"
    ):
        build("refused", skip=False)
    assert not (corpus.path.parent / "refused").exists()
    built = build("skipped")
    assert built.num_samples == {"train": 1}
    assert built.left_out == {reason: 1}
    (left,) = read_rows(built.path / "left_out.jsonl")
    assert left["id"] == name
    assert left["reason"].startswith(reason)


def test_image_with_damaged_exif_data_is_used_without_a_warning(corpus, build, painted, recwarn):
    spoil(corpus, painted, damaged_exif)
    assert build().num_samples == {"train": 1}
    assert len(recwarn) == 0


def test_error_lists_ten_images_and_counts_the_rest(corpus, build, painted):
    names = [spoil(corpus, painted, missing, f"bad{number}") for number in range(12)]
    with pytest.raises(DataError, match=r"12 tweet\(s\)") as raised:
        build(skip=False)
    message = str(raised.value)
    assert all(f"{name}: " in message for name in names[:10])
    assert not any(f"{name}: " in message for name in names[10:])
    assert "and 2 more" in message
    assert "crop.unusable_images: skip" in message


def test_no_sample_left_is_an_error(corpus, build, painted):
    spoil(corpus, painted, missing)
    with pytest.raises(DataError, match="no sample is left"):
        build()


def test_official_splits(corpus, build):
    for split, number in (("train", 3), ("dev", 1), ("test", 2)):
        for each in range(number):
            corpus.good(f"{split}{each}", split)
    built = build()
    assert built.num_samples == {"train": 3, "dev": 1, "test": 2}
    samples = DatasetFolder(built.path).load("test")
    assert [sample.id for sample in samples] == ["test-1-test0", "test-2-test1"]


def test_leak_between_official_splits_is_an_error_or_a_warning(corpus, build, painted):
    corpus.good("1", "train")
    corpus.good("2", "test")
    shutil.copyfile(corpus.images / "1.jpg", corpus.images / "2.jpg")
    with pytest.raises(
        DataError, match=r"1 leak\(s\) between splits: the same image: train/train-1-1 and test/test-1-2"
    ):
        build()
    assert build(leaks="warn").num_samples == {"train": 1, "test": 1}


def test_split_by_ratios_has_no_leak(corpus, build):
    for number in range(12):
        corpus.good(f"{number}", ("train", "dev", "test")[number % 3])
    shutil.copyfile(corpus.images / "1.jpg", corpus.images / "2.jpg")
    built = build(split={"ratios": {"train": 0.7, "test": 0.3}, "seed": 1})
    assert built.num_samples == {"train": 8, "test": 4}
    assert find_leaks(DatasetFolder(built.path).load_splits()) == []


def test_split_without_grouping_is_checked_for_leaks(corpus, build):
    corpus.good("0")
    for number in range(1, 6):
        corpus.good(f"{number}")
        shutil.copyfile(corpus.images / "0.jpg", corpus.images / f"{number}.jpg")
    with pytest.raises(DataError, match="leak"):
        build(split={"group_by": "none"})


def test_build_writes_a_description(corpus, build, reporter):
    corpus.good("1")
    corpus.tweet("no-boxes")
    built = build()
    folder = DatasetFolder(built.path)
    info = folder.info(folder.load_splits())
    assert info.fingerprint == built.fingerprint == folder.description["fingerprint"]
    assert info.labels == ("person", "location", "organization", "other")
    assert built.as_json()["statistics"]["segments"] == 1
    assert built.left_out == {"tweet without a box of a tagged entity": 1}
    assert reporter.done == [(0, 1), (1, 1)]
    provenance = folder.description["provenance"]
    assert provenance["source"] == "Twitter GMNER"
    assert provenance["spec"]["source"] == {"type": "gmner", "box_format": "xyxy", "box_unit": "pixels"}
    assert str(corpus.path.parent) not in (built.path / "dataset.json").read_text()


def test_repeated_build_is_identical(corpus, build, painted):
    for number in range(5):
        corpus.good(f"{number}")
    spoil(corpus, painted, truncated)
    first = build("first", split={"seed": 3})
    again = build("again", split={"seed": 3})
    assert content(again.path) == content(first.path)
    before = content(first.path)
    assert build("first", split={"seed": 3}).fingerprint == first.fingerprint
    assert content(first.path) == before


def test_new_build_replaces_the_earlier_one(corpus, build):
    corpus.good("1")
    corpus.good("2")
    first = build()
    (corpus.images / "2.jpg").unlink()
    second = build()
    assert second.path == first.path
    assert second.num_samples == {"train": 1}
    assert [each.name for each in (second.path / "images").iterdir()] == ["1.jpg"]


def test_failed_build_keeps_the_earlier_one(corpus, build):
    corpus.good("1")
    before = content(build().path)
    (corpus.images / "1.jpg").unlink()
    with pytest.raises(DataError):
        build(skip=False)
    assert content(corpus.path.parent / "made") == before


def test_corpus_is_never_overwritten(corpus, build):
    corpus.good("1")
    with pytest.raises(DataError, match="already exists and is not a data set"):
        build(corpus.path.name)
    assert (corpus.images / "1.jpg").is_file()


def test_near_duplicates_are_told_with_their_number_and_kept_for_the_review(corpus, build, reporter, read_rows):
    for image_id in ("1", "2", "3", "4"):
        noise = Image.frombytes("L", (8, 8), random.Random(image_id).randbytes(64))
        noise.resize((80, 60), Image.Resampling.BICUBIC).convert("RGB").save(corpus.images / f"{image_id}.jpg")
        corpus.boxes(image_id, [("Ada", (2, 2, 30, 20))], (80, 60))
    with Image.open(corpus.images / "1.jpg") as image:
        image.resize((160, 120)).save(corpus.images / "5.jpg", quality=60)
    corpus.boxes("5", [("Ada", (2, 2, 30, 20))], (80, 60))
    names = [corpus.tweet(image_id) for image_id in ("1", "2", "3", "4", "5", "1")]
    build(near_images=4)
    said = [message for message in reporter.messages if message.startswith("near duplicates")]
    assert said == [
        f"near duplicates: 1 group(s) of 3 samples; the largest has 3: {names[0]}, {names[4]}, {names[5]}. runner "
        "review shows the images"
    ]
    file = corpus.path.parent / "made.build" / "review" / "near_duplicates.jsonl"
    assert read_rows(file) == [
        {"sample": names[0], "near": [names[4]]},
        {"sample": names[4], "near": [names[0], names[5]]},
        {"sample": names[5], "near": [names[4]]},
    ]
    build()
    assert not file.exists()
