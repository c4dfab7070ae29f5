"""Mentions on tokens, and boxes of COCO: the counts of other scorers are those of the sets of pairs."""

from hypothesis import given
from hypothesis import strategies as st

from runner.dataset.scorer_files import align_mentions, coco_box, coco_references, coco_results, tag_columns

words = st.sampled_from(["Ada", "Rome", "in", "New", "York", "é", "e\u0301", "Ada's"])
labels = st.sampled_from(["person", "location", "a place"])
mentions = st.lists(words, min_size=1, max_size=3).map(" ".join)
pair_sets = st.frozensets(st.tuples(labels, mentions), max_size=5)
texts = st.lists(words, max_size=9).map(" ".join)


def chunks(tags):
    """The mentions of BIO tags, read as conlleval does: label, start and end."""
    found, start = set(), None
    for place, tag in enumerate([*tags, "O"]):
        if start is not None and not tag.startswith("I-"):
            found.add((tags[start][2:], start, place))
            start = None
        if tag.startswith("B-"):
            start = place
    return found


@given(texts, pair_sets, pair_sets)
def test_right_mentions_of_tags_are_the_right_pairs(text, expected, predicted):
    reference = align_mentions(text, expected)
    prediction = align_mentions(text, predicted, reference.spans)
    num_tokens = len(text.split())
    gold, found = (chunks(each.tags(num_tokens)) for each in (reference, prediction))
    assert (len(gold), len(found)) == (len(reference.spans), len(prediction.spans))
    assert len(gold & found) == len(reference.spans.keys() & predicted)


@given(texts, pair_sets)
def test_each_pair_is_placed_on_its_words_or_told(text, pairs):
    alignment = align_mentions(text, pairs)
    assert alignment.spans.keys() | alignment.unaligned.keys() == pairs
    assert not alignment.spans.keys() & alignment.unaligned.keys()
    taken = [position for span in alignment.spans.values() for position in range(*span)]
    assert len(taken) == len(set(taken))


def test_reasons_of_mentions_without_tokens():
    text = "Ada's trip to New York ."
    pairs = {("person", "Ada"), ("location", "New York"), ("location", "York"), ("other", "Rome")}
    assert align_mentions(text, pairs).unaligned == {
        ("person", "Ada"): "it begins or ends inside a token",
        ("location", "York"): "another mention covers its tokens",
        ("other", "Rome"): "the text does not contain it",
    }


def test_unicode_forms_of_a_mention_are_equal():
    assert align_mentions("a cafe\u0301 .", {("other", "caf\u00e9")}).spans == {("other", "caf\u00e9"): (1, 2)}


def test_columns_have_a_token_and_a_tag_for_each_answer():
    text = "Ada in New York"
    reference = align_mentions(text, {("a place", "New York"), ("person", "Ada")})
    prediction = align_mentions(text, {("a place", "York"), ("person", "Ada")}, reference.spans)
    assert tag_columns(text, [reference, prediction]).splitlines() == [
        "Ada\tB-person\tB-person",
        "in\tO\tO",
        "New\tB-a_place\tO",
        "York\tI-a_place\tB-a_place",
    ]


@given(st.lists(st.tuples(st.integers(1, 3), labels, st.tuples(*[st.integers(0, 99)] * 4)), max_size=5))
def test_annotations_are_numbered_from_one_and_boxes_have_sides(entities):
    names = ["person", "location", "a place"]
    document = coco_references([{"id": 1}, {"id": 2}, {"id": 3}], names, entities)
    assert [annotation["id"] for annotation in document["annotations"]] == list(range(1, len(entities) + 1))
    categories = {category["id"]: category["name"] for category in document["categories"]}
    results = coco_results(names, [*entities, (1, "unknown", (0, 0, 1, 1))])
    assert len(results) == len(entities)
    for (image, label, box), annotation, result in zip(entities, document["annotations"], results, strict=True):
        left, top, width, height = annotation["bbox"]
        assert (left, top, left + width, top + height) == box
        assert result["bbox"] == annotation["bbox"] == coco_box(box)
        assert annotation["area"] == width * height
        assert categories[annotation["category_id"]] == categories[result["category_id"]] == label
        assert annotation["image_id"] == result["image_id"] == image
