"""Writes samples as tasks of Label Studio: rectangles on the image, spans on the text, and relations between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from xml.sax.saxutils import quoteattr

from runner.records import Entity, Sample, Segment

Result = Literal["predictions", "annotations"]
"""`predictions`: what Label Studio offers to annotators; `annotations`: finished annotations."""

MODEL_VERSION = "data set"
"""The version that Label Studio shows for predictions."""
IMAGE, TEXT, BOX, SPAN = "image", "text", "box", "span"
"""The names of the tags in the labelling configuration."""


@dataclass(frozen=True)
class Task:
    """A sample as a task.

    Attributes:
        row: The task.
        problems: What the task cannot hold, in plain words.
    """

    row: Mapping[str, Any]
    problems: Sequence[str]


def labelling_configuration(labels: Sequence[str]) -> str:
    """Return the XML of the labelling interface: rectangles and spans with the labels of the data set."""
    values = "".join(f"    <Label value={quoteattr(label)}/>\n" for label in labels)
    return (
        "<View>\n"
        f'  <Image name="{IMAGE}" value="${IMAGE}"/>\n'
        f'  <RectangleLabels name="{BOX}" toName="{IMAGE}">\n{values}  </RectangleLabels>\n'
        f'  <Text name="{TEXT}" value="${TEXT}"/>\n'
        f'  <Labels name="{SPAN}" toName="{TEXT}">\n{values}  </Labels>\n'
        '  <Relations>\n    <Relation value="shows"/>\n  </Relations>\n'
        "</View>\n"
    )


def make_task(sample: Sample, split: str, image_url: str | None, size: tuple[int, int] | None, result: Result) -> Task:
    """Convert a sample to a task.

    Args:
        sample: The sample.
        split: Its split, which an export of the project then tells.
        image_url: The address of its image for the browser; None without an image.
        size: Width and height of the image in pixels; None without an image.
        result: Where the rectangles and spans are.
    """
    problems: list[str] = []
    spans = dict(_find_spans(sample, problems))
    regions = [_span_region(number, sample, span) for number, span in spans.items()]
    if size is not None:
        for segment in sample.segments:
            regions += _box_regions(sample, segment, size, spans, problems)
    data = {"id": sample.id, "split": split, TEXT: sample.text, **({} if image_url is None else {IMAGE: image_url})}
    content = {"result": regions, **({"model_version": MODEL_VERSION} if result == "predictions" else {})}
    return Task({"data": {**data, "summary": sample.summary or ""}, result: [content]}, problems)


def _find_spans(sample: Sample, problems: list[str]) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield the index of each entity and its place in the text: the first one that no earlier entity has."""
    taken: list[tuple[int, int]] = []
    for index, entity in enumerate(sample.entities):
        span = _find_free(sample.text, entity, taken)
        if span is None:
            problems.append(f"the text does not contain the entity {entity.text!r}, or not as often as the entities do")
        else:
            taken.append(span)
            yield index, span


def _find_free(text: str, entity: Entity, taken: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    start = text.find(entity.text)
    while start >= 0:
        end = start + len(entity.text)
        if all(end <= first or last <= start for first, last in taken):
            return start, end
        start = text.find(entity.text, start + 1)
    return None


def count_utf16(text: str) -> int:
    """Return the length in 16-bit units: Label Studio counts offsets so, as JavaScript does; an emoji has two."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def _span_region(index: int, sample: Sample, span: tuple[int, int]) -> dict[str, Any]:
    start, end = (count_utf16(sample.text[:offset]) for offset in span)
    label = sample.entities[index].label
    value = {"start": start, "end": end, "text": sample.text[slice(*span)], "labels": [label]}
    return {"id": f"{SPAN}-{index}", "type": "labels", "from_name": SPAN, "to_name": TEXT, "value": value}


def _box_regions(
    sample: Sample,
    segment: Segment,
    size: tuple[int, int],
    spans: Mapping[int, tuple[int, int]],
    problems: list[str],
) -> Iterator[dict[str, Any]]:
    """Yield the rectangle of a segment, and its relation with the first mention of the entity that it shows."""
    indices = [index for index, entity in enumerate(sample.entities) if entity.text == segment.entity]
    if not indices:
        problems.append(
            f"box {segment.letter} shows {segment.entity!r}, which is no entity of the text, so it has no label"
        )
        return
    name = f"{BOX}-{segment.letter}"
    yield {
        "id": name,
        "type": "rectanglelabels",
        "from_name": BOX,
        "to_name": IMAGE,
        "original_width": size[0],
        "original_height": size[1],
        "image_rotation": 0,
        "value": {**box_percent(segment.box, size), "rectanglelabels": [sample.entities[indices[0]].label]},
    }
    mention = next((index for index in indices if index in spans), None)
    if mention is not None:
        yield {
            "type": "relation",
            "from_id": f"{SPAN}-{mention}",
            "to_id": name,
            "direction": "right",
            "labels": ["shows"],
        }


def box_percent(box: Sequence[float], size: tuple[int, int]) -> dict[str, float]:
    """Convert left, top, right and bottom in pixels to Label Studio's position and size in percent, not rotated."""
    left, top, right, bottom = box
    width, height = size
    return {
        "x": 100 * left / width,
        "y": 100 * top / height,
        "width": 100 * (right - left) / width,
        "height": 100 * (bottom - top) / height,
        "rotation": 0,
    }
