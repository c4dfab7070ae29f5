"""Cropping segments: a segment shows the content of its box, in whatever form the image is stored."""

import io
import re
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from runner.dataset.build.crop_stage import crop_tweet
from runner.dataset.folder_reader import DatasetFolder
from runner.dataset.folder_writer import DatasetWriter
from runner.errors import DataError
from runner.records import Entity, Sample, Segment
from runner.stages import SourceTweet

SIZE = (80, 60)
QUADRANTS = ("red", "green", "blue", "yellow")


def around(quadrant, size, rim=2):
    """Return a box inside a quadrant of an upright image."""
    half = (size[0] // 2, size[1] // 2)
    left, top = (quadrant % 2) * half[0], (quadrant // 2) * half[1]
    return left + rim, top + rim, left + half[0] - rim, top + half[1] - rim


def stored_as(upright, orientation):
    """Return the pixels that a camera stores, so that applying `orientation` gives the upright image.

    The inverse is found by trying all eight transforms, so that this test does not share a table with the code.
    """
    turns = [None, *Image.Transpose]
    for turn in turns:
        raw = upright if turn is None else upright.transpose(turn)
        exif = Image.Exif()
        exif[0x0112] = orientation
        held = io.BytesIO()
        raw.save(held, "PNG", exif=exif)
        with Image.open(held) as opened:
            if ImageOps.exif_transpose(opened).tobytes() == upright.tobytes():
                return raw, exif, turn
    raise AssertionError(f"no way to store orientation {orientation}")


def on_raw(box, size, turn):
    """Return the box in the stored pixels, found by transforming a mask."""
    mask = Image.new("L", size)
    mask.paste(255, box)
    return (mask if turn is None else mask.transpose(turn)).getbbox()


def segments_of(path):
    (sample,) = DatasetFolder(path).load("train")
    return sample, sample.segments


# Where the sides are not swapped, the size does not tell which of the two the boxes were drawn on: the upright one.
TURNED = [("upright", number) for number in range(1, 9)] + [("raw", number) for number in (1, 5, 6, 7, 8)]


@pytest.mark.parametrize(("drawn_on", "orientation"), TURNED)
@pytest.mark.parametrize("scale", [1, 2])
def test_rotated_image(corpus, build, painted, colour_at, drawn_on, orientation, scale):
    upright = painted(SIZE)
    raw, exif, turn = stored_as(upright, orientation)
    boxes = [around(quadrant, SIZE) for quadrant in range(4)]
    size = SIZE
    if drawn_on == "raw":
        boxes, size = [on_raw(box, SIZE, turn) for box in boxes], raw.size
    raw.resize((raw.width * scale, raw.height * scale), Image.Resampling.NEAREST).save(
        corpus.images / "1.jpg", quality=95, exif=exif
    )
    corpus.boxes("1", [("Ada", box) for box in boxes], size)
    corpus.tweet("1")
    sample, segments = segments_of(build().path)
    assert [colour_at(segment.image) for segment in segments] == list(QUADRANTS)
    with Image.open(sample.image) as opened:
        assert opened.size == (SIZE[0] * scale, SIZE[1] * scale)
        assert opened.getexif().get(0x0112, 1) == 1
    for segment in segments:
        with Image.open(segment.image) as cut:
            assert cut.size == (segment.box[2] - segment.box[0], segment.box[3] - segment.box[1])


def test_boxes_of_a_square_rotated_image_refer_to_the_upright_image(corpus, build, painted, colour_at):
    upright = painted((60, 60))
    raw, exif, _ = stored_as(upright, 6)
    raw.save(corpus.images / "1.jpg", quality=95, exif=exif)
    corpus.boxes("1", [("Ada", around(quadrant, (60, 60))) for quadrant in range(4)], (60, 60))
    corpus.tweet("1")
    assert [colour_at(each.image) for each in segments_of(build().path)[1]] == list(QUADRANTS)


def cmyk(picture, path):
    picture.convert("CMYK").save(path.with_suffix(".jpg"), quality=95)


def palette(picture, path):
    picture.convert("P", palette=Image.Palette.ADAPTIVE).save(path.with_suffix(".png"))


def png(picture, path):
    picture.save(path.with_suffix(".png"))


def rgba(picture, path):
    picture.convert("RGBA").save(path.with_suffix(".png"))


def jpeg(picture, path):
    picture.save(path.with_suffix(".jpeg"), quality=95)


def png_called_jpg(picture, path):
    picture.save(path.with_suffix(".jpg"), "PNG")


def webp_called_jpg(picture, path):
    picture.save(path.with_suffix(".jpg"), "WEBP", quality=95)


@pytest.mark.parametrize(
    ("store", "kept_as"),
    [
        (cmyk, ".jpg"),
        (palette, ".jpg"),
        (png, ".png"),
        (rgba, ".jpg"),
        (jpeg, ".jpg"),
        (png_called_jpg, ".png"),
        (webp_called_jpg, ".jpg"),
    ],
)
def test_image_formats_and_modes(corpus, build, painted, colour_at, store, kept_as):
    store(painted(SIZE), corpus.images / "1.any")
    corpus.boxes("1", [("Ada", around(quadrant, SIZE)) for quadrant in range(4)], SIZE)
    corpus.tweet("1")
    sample, segments = segments_of(build().path)
    assert [colour_at(segment.image) for segment in segments] == list(QUADRANTS)
    assert sample.image.name == f"1{kept_as}"
    for path in (sample.image, *(segment.image for segment in segments)):
        with Image.open(path) as opened:
            assert opened.mode == "RGB"
            assert opened.format == {".jpg": "JPEG", ".png": "PNG"}[path.suffix]


@pytest.mark.parametrize("name", ["1.jpg", "1.png"])
def test_plain_image_is_copied_unchanged(corpus, build, painted, name):
    painted(SIZE).save(corpus.images / name)
    corpus.boxes("1", [("Ada", (0, 0, 20, 20))], SIZE)
    corpus.tweet("1")
    sample, _ = segments_of(build().path)
    assert sample.image.read_bytes() == (corpus.images / name).read_bytes()


def middle(path):
    with Image.open(path) as opened:
        return opened.getpixel((opened.width // 2, opened.height // 2))


def test_transparent_pixels_become_white(corpus, build):
    picture = Image.new("P", (40, 40), 0)
    picture.putpalette([0, 0, 0, 200, 0, 0])
    picture.paste(1, (20, 0, 40, 40))
    picture.save(corpus.images / "1.png", transparency=0)
    corpus.boxes("1", [("Ada", (2, 2, 18, 38)), ("Ada", (22, 2, 38, 38))], (40, 40))
    corpus.tweet("1")
    _, (left, right) = segments_of(build().path)
    assert min(middle(left.image)) > 250
    assert middle(right.image)[0] > 190
    assert max(middle(right.image)[1:]) < 10


@pytest.mark.parametrize(("mode", "value"), [("L", 100), ("LA", (100, 255)), ("I;16", 100 * 257), ("1", 255)])
def test_grey_is_grey(corpus, build, mode, value):
    Image.new(mode, (40, 40), value).save(corpus.images / "1.png")
    corpus.boxes("1", [("Ada", (0, 0, 20, 20))], (40, 40))
    corpus.tweet("1")
    sample, (segment,) = segments_of(build().path)
    expected = 255 if mode == "1" else 100
    for path in (sample.image, segment.image):
        assert all(abs(channel - expected) <= 2 for channel in middle(path))


def sixteen_bit_png(colour_type, pixel, *chunks):
    """Return a PNG that cameras and scanners write but Pillow cannot: 16 bits per channel, 40 by 40 pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 40, 16, colour_type, 0, 0, 0))
    rows = (b"\0" + struct.pack(f">{len(pixel)}H", *(257 * value for value in pixel)) * 40) * 40
    return b"".join([b"\x89PNG\r\n\x1a\n", head, *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")])


def tiff(mode):
    held = io.BytesIO()
    Image.new(mode, (40, 40), 257 * 100).save(held, "TIFF")
    return held.getvalue()


CLEAR = struct.pack(">I", 2) + b"tRNS" + struct.pack(">H", 5)
WIDE = {
    "grey": (sixteen_bit_png(0, (100,)), (100, 100, 100)),
    "grey with a clear value": (
        sixteen_bit_png(0, (100,), CLEAR + struct.pack(">I", zlib.crc32(CLEAR[4:]))),
        (100, 100, 100),
    ),
    "grey with alpha": (sixteen_bit_png(4, (100, 255)), (100, 100, 100)),
    "colour": (sixteen_bit_png(2, (100, 50, 200)), (100, 50, 200)),
    "big-endian TIFF": (tiff("I;16B"), (100, 100, 100)),
    "TIFF of 32 bits": (tiff("I"), (100, 100, 100)),
}


@pytest.mark.parametrize(("data", "expected"), WIDE.values(), ids=WIDE)
def test_sixteen_bits_become_eight(corpus, build, data, expected):
    (corpus.images / "1.png").write_bytes(data)
    corpus.boxes("1", [("Ada", (0, 0, 20, 20))], (40, 40))
    corpus.tweet("1")
    _, (segment,) = segments_of(build().path)
    assert all(abs(actual - target) <= 3 for actual, target in zip(middle(segment.image), expected, strict=True))


@pytest.mark.parametrize(
    ("mode", "value", "reason"),
    [
        ("F", 0.5, "image has floating-point pixels, and no rule says which is white"),
        ("F", 200.0, "image has floating-point pixels"),
        ("I", 200, "image would become black or white: its pixels have values from 0 to 200, but white is 65535"),
        ("I", 70_000, "image would become black or white: its pixels have values from 0 to 70000"),
        ("I", -5, "image would become black or white: its pixels have values from -5 to 0"),
        ("I;16", 4095, "image would become black or white: its pixels have values from 0 to 4095"),
    ],
)
@pytest.mark.parametrize("box", [(0, 0, 20, 20), None])
def test_an_image_that_would_turn_black_is_unusable(corpus, build, mode, value, reason, box):
    image = Image.new(mode, (40, 40), value)
    image.putpixel((0, 0), 0)
    image.save(corpus.images / "1.tiff")
    if box:
        corpus.boxes("1", [("Ada", box)], (40, 40))
    name = corpus.tweet("1")
    with pytest.raises(DataError, match=re.escape(f"1: {name}: {reason}")):
        build(skip=False, keep="all")


@pytest.mark.parametrize("mode", ["I", "I;16"])
def test_an_image_that_is_black_stays_black(corpus, build, mode):
    Image.new(mode, (40, 40), 0).save(corpus.images / "1.tiff")
    corpus.boxes("1", [("Ada", (0, 0, 20, 20))], (40, 40))
    corpus.tweet("1")
    assert max(middle(segments_of(build(skip=False).path)[0].image)) == 0


def test_boxes_are_scaled_with_a_resized_image(corpus, build, painted, colour_at):
    painted((200, 150)).save(corpus.images / "1.jpg", quality=95)
    corpus.boxes("1", [("Ada", around(quadrant, SIZE)) for quadrant in range(4)], SIZE)
    corpus.tweet("1")
    _, segments = segments_of(build().path)
    assert [colour_at(segment.image) for segment in segments] == list(QUADRANTS)
    assert segments[0].box == (5, 5, 95, 70)


def test_boxes_are_unchanged_without_an_annotated_size(corpus, build, painted):
    painted((200, 150)).save(corpus.images / "1.jpg")
    corpus.boxes("1", [("Ada", (5, 6, 70, 80))], None)
    corpus.tweet("1")
    assert segments_of(build().path)[1][0].box == (5, 6, 70, 80)


def test_boxes_are_clipped_and_too_small_ones_are_listed(corpus, build, painted, read_rows):
    painted(SIZE).save(corpus.images / "1.jpg")
    boxes = {
        "outside": (90, 10, 120, 30),
        "beyond the edges": (60, 40, 90, 66),
        "too small": (10, 10, 13, 40),
        "barely": (10, 10, 14, 14),
        "before the edges": (-5, -5, 30, 20),
    }
    corpus.boxes("1", [("Ada", box) for box in boxes.values()], SIZE)
    name = corpus.tweet("1")
    with pytest.raises(DataError) as raised:
        build(crop={"unusable_images": "skip"})
    outside = "box outside its image: [90, 10, 120, 30] in 80 x 60 pixels"
    head, line = str(raised.value).splitlines()
    assert head.startswith("1 box(es) are outside their images. If all boxes have another format or unit, set")
    assert line == f"{corpus.path / 'txt' / 'train.txt'}:1: {name}: {outside}"
    built = build(crop={"outside_boxes": "skip"})
    _, segments = segments_of(built.path)
    assert [(segment.letter, segment.box) for segment in segments] == [
        ("a", (60, 40, 80, 60)),
        ("b", (10, 10, 14, 14)),
        ("c", (0, 0, 30, 20)),
    ]
    small = "box smaller than 4 pixels inside its image"
    assert read_rows(built.path / "left_out.jsonl") == [{"id": name, "reason": reason} for reason in (outside, small)]
    assert built.left_out == {"box outside its image": 1, small: 1}


@pytest.mark.parametrize(
    ("box", "is_used"), [((70, 10, 90, 30), True), ((71, 10, 91, 30), False), ((-9, -9, 20, 20), False)]
)
def test_at_least_half_of_a_box_must_be_inside(corpus, build, painted, box, is_used):
    painted(SIZE).save(corpus.images / "1.jpg")
    corpus.boxes("1", [("Ada", (0, 0, 20, 20)), ("Ada", box)], SIZE)
    corpus.tweet("1")
    built = build(crop={"outside_boxes": "skip"})
    assert len(segments_of(built.path)[1]) == 1 + is_used
    assert built.left_out == ({} if is_used else {"box outside its image": 1})


def test_tweet_without_a_usable_box_is_left_out(corpus, build, painted):
    corpus.good("1")
    painted(SIZE).save(corpus.images / "2.jpg")
    corpus.boxes("2", [("Ada", (90, 10, 120, 30))], SIZE)
    corpus.tweet("2")
    crop = {"outside_boxes": "skip"}
    built = build(crop=crop)
    assert built.num_samples == {"train": 1}
    assert built.left_out["tweet without any usable box"] == 1
    assert not (built.path / "images" / "2.jpg").exists()
    assert build(crop=crop, keep="all").num_samples == {"train": 2}
    assert (built.path / "images" / "2.jpg").exists()


def test_two_tweets_share_one_image(corpus, build, painted, colour_at):
    painted(SIZE).save(corpus.images / "1.jpg", quality=95)
    corpus.boxes("1", [("Ada", around(0, SIZE)), ("Bob", around(3, SIZE))], SIZE)
    corpus.tweet("1", "Ada/B-PER")
    corpus.tweet("1", "Bob/B-PER")
    built = build()
    first, second = DatasetFolder(built.path).load("train")
    assert first.image == second.image
    assert [colour_at(each.segments[0].image) for each in (first, second)] == ["red", "yellow"]
    assert len(list((built.path / "images").iterdir())) == 1


sides = st.integers(-20, 110)


@settings(max_examples=40)
@given(
    st.tuples(st.integers(5, 90), st.integers(5, 90)),
    st.integers(1, 3),
    st.lists(st.tuples(sides, sides, sides, sides), min_size=1, max_size=5),
)
def test_any_box_is_cropped_inside_its_image_or_left_out(tmp_path_factory, size, scale, boxes):
    folder = tmp_path_factory.mktemp("crop")
    Image.new("RGB", (size[0] * scale, size[1] * scale)).save(folder / "1.png")
    segments = tuple(Segment(letter, None, "Ada", box) for letter, box in zip("abcde", boxes, strict=False))
    sample = Sample("s", "Ada", folder / "1.png", None, (Entity("person", "Ada"),), segments)
    cropped = crop_tweet(SourceTweet(sample, "train", size), DatasetWriter(folder / "made"), 4)
    cropped_segments = cropped.sample.segments
    assert len(cropped_segments) + len(cropped.left_out) == len(boxes)
    assert all(each.reason.startswith(("box smaller", "box outside")) for each in cropped.left_out)
    assert [each.letter for each in cropped_segments] == list("abcde"[: len(cropped_segments)])
    for segment in cropped_segments:
        left, top, right, bottom = segment.box
        assert 0 <= left < right <= size[0] * scale
        assert 0 <= top < bottom <= size[1] * scale
        assert min(right - left, bottom - top) >= 4
        with Image.open(segment.image) as cut:
            assert cut.size == (right - left, bottom - top)
    assert not cropped.unusable


def test_more_than_26_boxes(corpus, build, painted):
    painted(SIZE).save(corpus.images / "1.jpg")
    corpus.boxes("1", [("Ada", (number, 0, number + 10, 10)) for number in range(28)], SIZE)
    corpus.tweet("1")
    segments = segments_of(build().path)[1]
    assert [segment.letter for segment in segments][-3:] == ["z", "aa", "ab"]
    assert segments[-1].box[0] == 27
