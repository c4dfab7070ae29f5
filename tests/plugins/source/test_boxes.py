"""Boxes of any format and unit become the same pixels, and the errors name the option that describes a box."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from plugins.source.boxes import UNITS, convert_box, upright_size
from plugins.source.source_options import BoxOptions
from runner.errors import DataError

sides = st.integers(2, 3000)


@st.composite
def boxes_in_images(draw):
    width, height = draw(sides), draw(sides)
    left, right = sorted(draw(st.lists(st.integers(0, width), min_size=2, max_size=2, unique=True)))
    top, bottom = sorted(draw(st.lists(st.integers(0, height), min_size=2, max_size=2, unique=True)))
    return (width, height), (left, top, right, bottom)


def in_format(box, name):
    left, top, right, bottom = box
    return {
        "xyxy": box,
        "xywh": (left, top, right - left, bottom - top),
        "cxcywh": ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top),
        "corners": (right, top, left, bottom),
    }[name]


@given(boxes_in_images(), st.sampled_from(["xyxy", "xywh", "cxcywh", "corners"]), st.sampled_from(["pixels", *UNITS]))
def test_every_format_and_unit_gives_the_same_pixels(image, box_format, unit):
    size, box = image
    values = in_format(box, box_format)
    if unit == "pixels" and max(values) <= 1:
        return  # Refused as fractions.
    if unit != "pixels":
        values = tuple(value * UNITS[unit] / size[index % 2] for index, value in enumerate(values))
    assert convert_box(values, BoxOptions(box_format=box_format, box_unit=unit), size) == box


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (
            (0.1, 0.2, 0.5, 0.9),
            {},
            r"the box \[0\.1, 0\.2, 0\.5, 0\.9\] is smaller than one pixel; .*box_unit: fraction",
        ),
        ((10, 20, 5, 40), {}, r"is inverted: .*source\.box_format: xywh; .*source\.box_format: corners"),
        ((10, 20, 50, 4), {}, "is inverted"),
        ((10, 20, -5, 40), {"box_format": "xywh"}, r"\[10, 20, -5, 40\] has a negative width or height"),
        (
            (10, 20, 50, 40),
            {"box_unit": "fraction"},
            "is not between 0 and 1, as source.box_unit: fraction says; for pixels",
        ),
        ((10, 20, 500, 40), {"box_unit": "percent"}, "is not between 0 and 100"),
        ((-10, 20, 500, 40), {"box_unit": "thousandths"}, "is not between 0 and 1000"),
    ],
)
def test_an_error_names_the_option_that_describes_the_box(values, options, message):
    with pytest.raises(DataError, match=message):
        convert_box(values, BoxOptions(**options), (100, 100))


def test_a_relative_box_of_an_unreadable_image_does_not_matter():
    assert convert_box((0.1, 0.1, 0.2, 0.2), BoxOptions(box_unit="fraction"), None) == (0, 0, 0, 0)


@pytest.mark.parametrize(("orientation", "expected"), [(1, (40, 20)), (3, (40, 20)), (6, (20, 40)), (8, (20, 40))])
def test_upright_size(tmp_path, orientation, expected):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (40, 20)).save(tmp_path / "1.jpg", exif=exif)
    assert upright_size(tmp_path / "1.jpg") == expected
    assert upright_size(tmp_path / "2.jpg") is None
