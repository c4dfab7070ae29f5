"""Frames of boxes: numbers in a text lead back to the box, in every frame and for every size of image."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from plugins.adapter.gmner_parse import parse_boxes
from runner.stages import BoxFrame, RelativeFrame, ResizedFrame, intersection_over_union

resized = st.builds(
    lambda multiple, low, high: ResizedFrame(multiple=multiple, min_pixels=low, max_pixels=low + high),
    st.sampled_from([16, 28, 32]),
    st.sampled_from([1, 3136, 56 * 56 * 16, 200_704]),
    st.sampled_from([0, 4096, 802_816, 12_845_056]),
)
frames = st.one_of(
    st.just(BoxFrame()),
    st.just(RelativeFrame(units=1000)),
    st.just(RelativeFrame(units=1000, before="<box>", after="</box>", separator=", ")),
    resized,
)
sides = st.integers(1, 30_000) | st.sampled_from([1, 2, 27, 28, 29, 4096])


@st.composite
def boxed_images(draw):
    width, height = draw(sides), draw(sides)
    corners = [draw(st.tuples(st.integers(0, width), st.integers(0, height))) for _ in range(2)]
    (x1, x2), (y1, y2) = (sorted(axis) for axis in zip(*corners, strict=True))
    return (x1, y1, x2, y2), width, height


@given(frames, st.lists(boxed_images(), min_size=1, max_size=3))
@example(ResizedFrame(multiple=28, min_pixels=3136, max_pixels=12_845_056), [((0, 0, 3, 9000), 3, 9000)])
def test_a_text_leads_back_to_the_boxes_within_half_a_unit(frame, images):
    exact = [frame.from_pixels(box, width, height) for box, width, height in images]
    read = parse_boxes(frame.write(exact))
    assert read is not None
    assert len(read) == len(exact)
    for got, box, (_, width, height) in zip(read, exact, images, strict=True):
        assert all(abs(side - right) <= 0.5 for side, right in zip(got, box, strict=True))
        # Back in pixels, half a unit is half the size of a unit in pixels.
        frame_width, frame_height = frame.size(width, height)
        for side, right, unit in zip(got, box, (width / frame_width, height / frame_height) * 2, strict=True):
            assert abs(side * unit - right * unit) <= 0.5 * unit + 1e-9 * max(width, height)


@given(frames, boxed_images(), st.data())
def test_the_iou_of_two_boxes_is_the_same_in_every_frame(frame, image, data):
    box, width, height = image
    other = data.draw(boxed_images())[0]
    converted = [frame.from_pixels(each, width, height) for each in (box, other)]
    assert intersection_over_union(*converted) == pytest.approx(intersection_over_union(box, other), abs=1e-9)


@given(boxed_images(), boxed_images())
def test_iou_is_symmetric_and_1_only_for_equal_boxes(image, other):
    box, second = image[0], other[0]
    iou = intersection_over_union(box, second)
    assert iou == intersection_over_union(second, box)
    assert 0 <= iou <= 1
    assert (iou == 1) == (box == second and box[0] < box[2] and box[1] < box[3])


@given(resized, sides, sides)
def test_resized_sides_are_multiples_and_the_area_is_at_most_the_maximum(frame, width, height):
    new = frame.size(width, height)
    assert all(side > 0 and side % frame.multiple == 0 for side in new) or min(width, height) < frame.multiple
    # A side of one multiple cannot become smaller.
    if min(new) > frame.multiple and frame.min_pixels * 4 < frame.max_pixels:
        assert new[0] * new[1] <= frame.max_pixels


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (BoxFrame(), "[1,2,4,9]"),
        (RelativeFrame(units=1000), "[10,20,40,90]"),
        (RelativeFrame(units=1000, before="<box>", after="</box>", separator=", "), "<box>[[10, 20, 40, 90]]</box>"),
        (ResizedFrame(multiple=28, min_pixels=3136, max_pixels=3136), "[1,1,2,5]"),
    ],
)
def test_one_box_in_each_frame(frame, text):
    assert frame.write([frame.from_pixels((1, 2, 4, 9), 100, 100)]) == text


def test_several_boxes_are_a_list():
    assert BoxFrame().write([(1, 2, 3, 4), (5, 6, 7, 8)]) == "[[1,2,3,4],[5,6,7,8]]"
    marked = RelativeFrame(units=1000, before="<box>", after="</box>", separator=", ")
    assert marked.write([(1, 2, 3, 4), (5, 6, 7, 8)]) == "<box>[[1, 2, 3, 4], [5, 6, 7, 8]]</box>"
