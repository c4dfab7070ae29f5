"""Writes references and predictions for other scorers: columns of tags for seqeval, and boxes for pycocotools."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from runner.records import nfc

OUTSIDE = "O"
"""The tag of a token that no mention covers."""

Pair = tuple[str, str]
"""Label and text of a mention."""
Span = tuple[int, int]
"""The first token of a mention, and the token after its last one."""


@dataclass(frozen=True)
class Alignment:
    """The mentions of one answer on the tokens of its text.

    Attributes:
        spans: The span of each mention that was found.
        unaligned: The other mentions, each with the reason.
    """

    spans: Mapping[Pair, Span] = field(default_factory=dict)
    unaligned: Mapping[Pair, str] = field(default_factory=dict)

    def tags(self, num_tokens: int) -> list[str]:
        """Return the BIO tag of each token; spaces in a label become `_`, because tags are columns."""
        tags = [OUTSIDE] * num_tokens
        for (label, _), (start, end) in self.spans.items():
            name = "_".join(label.split())
            tags[start:end] = [f"B-{name}", *[f"I-{name}"] * (end - start - 1)]
        return tags


def align_mentions(text: str, pairs: AbstractSet[Pair], preferred: Mapping[Pair, Span] | None = None) -> Alignment:
    """Find mentions on the white-space tokens of a text, without overlaps.

    An answer names a mention and no place. A pair that the reference has gets the place that it has there; any other
    gets the first place that is free, longer mentions first. So the tags have as many right mentions as the sets of
    pairs, if every mention is found.

    Args:
        text: The text.
        pairs: The pairs of label and text.
        preferred: The places of the reference, by pair.
    """
    tokens = [nfc(token) for token in text.split()]
    places = {pair: _find_places(tokens, pair[1]) for pair in pairs}
    spans = {pair: span for pair, span in (preferred or {}).items() if pair in pairs}
    taken = {position for span in spans.values() for position in range(*span)}
    unaligned: dict[Pair, str] = {}
    for pair in sorted(pairs - spans.keys(), key=lambda pair: (-len(pair[1].split()), places[pair], pair)):
        free = [span for span in places[pair] if taken.isdisjoint(range(*span))]
        if free:
            spans[pair] = free[0]
            taken.update(range(*free[0]))
        else:
            unaligned[pair] = _reason(text, pair[1], has_place=bool(places[pair]))
    return Alignment(spans, unaligned)


def _find_places(tokens: Sequence[str], mention: str) -> list[Span]:
    words = nfc(mention).split()
    ends = range(len(words), len(tokens) + 1) if words else range(0)
    return [(end - len(words), end) for end in ends if list(tokens[end - len(words) : end]) == words]


def _reason(text: str, mention: str, *, has_place: bool) -> str:
    if has_place:
        return "another mention covers its tokens"
    if " ".join(nfc(mention).split()) in " ".join(nfc(text).split()):
        return "it begins or ends inside a token"
    return "the text does not contain it"


def tag_columns(text: str, answers: Sequence[Alignment]) -> str:
    """Return a line for each token of a text: the token and its tag in each answer, separated by tabs."""
    tokens = text.split()
    columns = [tokens, *(answer.tags(len(tokens)) for answer in answers)]
    return "".join("\t".join(row) + "\n" for row in zip(*columns, strict=True))


def coco_box(box: Sequence[float]) -> list[float]:
    """Convert left, top, right and bottom to COCO's left, top, width and height."""
    left, top, right, bottom = box
    return [left, top, right - left, bottom - top]


def coco_references(
    images: Sequence[Mapping[str, Any]], labels: Sequence[str], entities: Iterable[tuple[int, str, Sequence[float]]]
) -> dict[str, Any]:
    """Return a COCO document with the right boxes.

    Annotations are numbered from 1, because pycocotools stores the number of the matched annotation, and reads 0 as no
    match.

    Args:
        images: The images, each with an `id`.
        labels: The labels; the category of a label is its place in this list, counted from 1.
        entities: The image's id, the label, and the box as left, top, right and bottom.
    """
    annotations = []
    for number, (image_id, label, box) in enumerate(entities, start=1):
        written = coco_box(box)
        annotations.append(
            {
                "id": number,
                "image_id": image_id,
                "category_id": labels.index(label) + 1,
                "bbox": written,
                "area": written[2] * written[3],
                "iscrowd": 0,
            }
        )
    categories = [{"id": number, "name": label} for number, label in enumerate(labels, start=1)]
    return {"info": {}, "images": list(images), "categories": categories, "annotations": annotations}


def coco_results(labels: Sequence[str], entities: Iterable[tuple[int, str, Sequence[float]]]) -> list[dict[str, Any]]:
    """Return COCO results; every box has the score 1, because an answer has no scores. See `coco_references`."""
    return [
        {"image_id": image_id, "category_id": labels.index(label) + 1, "bbox": coco_box(box), "score": 1.0}
        for image_id, label, box in entities
        if label in labels
    ]
