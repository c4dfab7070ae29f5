"""Metrics of grounded NER: the rule of the benchmark, its known variants, and bounds."""

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.metric.grounding import (
    BoxAccuracy,
    BoxAccuracyOptions,
    EegF1,
    EegF1Options,
    GmnerF1,
    GmnerF1Options,
    MnerF1,
    MnerF1Options,
    count_matches,
)
from runner.records import Answer, GroundedEntity
from runner.stages import best_iou

PAIRS = {"gmner": (GmnerF1, GmnerF1Options), "mner": (MnerF1, MnerF1Options), "eeg": (EegF1, EegF1Options)}
LEFT, RIGHT = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0)
HALF = (0.0, 0.0, 10.0, 5.0)  # IoU 0.5 with LEFT


def entity(text="Ann", label="person", *boxes, position=None):
    return GroundedEntity(label, text, tuple(boxes), position)


def unreadable(text="Ann", label="person"):
    return GroundedEntity(label, text, None)


def answer(*entities):
    return Answer(None, None, None, tuple(entities))


def counts(name, found, right, **options):
    metric, told = PAIRS[name]
    got = metric(told(**options)).score(answer(*found), answer(*right))
    return got["predicted"], got["reference"], got["matched"]


texts = st.sampled_from(["Ann", "ann", "Rome"])
boxes = st.lists(
    st.sampled_from([LEFT, RIGHT, HALF, (1.0, 0.0, 11.0, 9.5), (5.0, 5.0, 5.0, 5.0)]), max_size=2, unique=True
)
labels = st.sampled_from(["person", "other"])
right_entities = st.builds(GroundedEntity, labels, texts, boxes.map(tuple))
found_entities = right_entities | st.builds(unreadable, texts, labels)
answers = st.lists(found_entities, max_size=4).map(lambda entities: answer(*entities))
references = st.lists(right_entities, max_size=4).map(lambda entities: answer(*entities))
matchings = st.sampled_from(["by_mention", "one_to_one"])
repeats = st.sampled_from(["each", "once"])


@pytest.mark.parametrize(
    ("found", "right", "expected"),
    [
        ([entity("Ann", "person", LEFT)], [entity("Ann", "person", RIGHT, LEFT)], {"gmner": 1, "mner": 1, "eeg": 1}),
        ([entity("Ann", "person", HALF)], [entity("Ann", "person", LEFT)], {"gmner": 1, "mner": 1, "eeg": 1}),
        ([entity("Ann", "person", RIGHT)], [entity("Ann", "person", LEFT)], {"gmner": 0, "mner": 1, "eeg": 0}),
        ([entity("Ann", "other", LEFT)], [entity("Ann", "person", LEFT)], {"gmner": 0, "mner": 0, "eeg": 1}),
        ([entity("Ann", "person")], [entity("Ann", "person")], {"gmner": 1, "mner": 1, "eeg": 1}),
        ([entity("Ann", "person", LEFT)], [entity("Ann", "person")], {"gmner": 0, "mner": 1, "eeg": 0}),
        ([entity("Ann", "person")], [entity("Ann", "person", LEFT)], {"gmner": 0, "mner": 1, "eeg": 0}),
        ([unreadable()], [entity("Ann", "person", LEFT)], {"gmner": 0, "mner": 1, "eeg": 0}),
        ([unreadable()], [entity("Ann", "person")], {"gmner": 0, "mner": 1, "eeg": 0}),
        ([entity("ann", "person")], [entity("Ann", "person")], {"gmner": 0, "mner": 0, "eeg": 0}),
    ],
)
@pytest.mark.parametrize("matching", ["by_mention", "one_to_one"])
def test_one_entity(found, right, expected, matching):
    assert {name: counts(name, found, right, matching=matching)[2] for name in PAIRS} == expected


def test_every_mention_counts_and_the_nth_is_compared_with_the_nth():
    right = [entity("Ann", "person", LEFT), entity("Rome", "other"), entity("Ann", "other", RIGHT)]
    assert counts("gmner", right, right) == (3, 3, 3)
    swapped = [right[2], right[1], right[0]]
    assert counts("gmner", swapped, right) == (3, 3, 1)
    assert counts("gmner", swapped, right, matching="one_to_one") == (3, 3, 3)
    assert counts("gmner", [right[0]], right) == (1, 3, 1)
    assert counts("gmner", [right[0]] * 3, right) == (3, 3, 1)


def test_mentions_with_equal_text_and_label_can_count_once():
    right = [entity("Ann", "person", LEFT), entity("Ann", "person", RIGHT), entity("Ann", "other", RIGHT)]
    assert counts("gmner", [entity("Ann", "person", RIGHT)], right, repeats="once") == (1, 2, 1)
    assert counts("eeg", [entity("Ann", "person", RIGHT)], right, repeats="once") == (1, 1, 1)
    assert counts("mner", right, right, repeats="once") == (2, 2, 2)
    assert counts("mner", [right[2]], right, repeats="once") == (1, 2, 1)
    assert counts("mner", [right[2]], right) == (1, 3, 0)


def test_a_later_entity_at_the_same_position_replaces_an_earlier_one():
    right = [entity("Ann", "person", LEFT, position=4), entity("Ann", "other", position=9)]
    found = [entity("Ann", "other", LEFT, position=4), entity("Ann", "person", LEFT, position=4)]
    assert counts("gmner", found, right) == (1, 2, 1)
    assert counts("mner", [entity("Ann", "other", position=9)], right) == (1, 2, 1)


def test_case_counts_unless_the_option_says_otherwise():
    found, right = [entity("ann", "person")], [entity("Ann", "person")]
    assert counts("gmner", found, right, lower_case=True) == (1, 1, 1)


def test_the_limit_of_the_iou_can_be_changed():
    found, right = [entity("Ann", "person", HALF)], [entity("Ann", "person", LEFT)]
    assert counts("gmner", found, right, min_iou=0.51) == (1, 1, 0)


@given(answers, references, st.floats(0.01, 50), st.floats(0.01, 50), matchings)
def test_the_size_of_the_frame_does_not_matter(found, right, across, down, matching):
    def scaled(answer):
        return replace(
            answer,
            grounded=tuple(
                each
                if each.boxes is None
                else replace(
                    each, boxes=tuple((a * across, b * down, c * across, d * down) for a, b, c, d in each.boxes)
                )
                for each in answer.grounded
            ),
        )

    metric = GmnerF1(GmnerF1Options(matching=matching))
    assert metric.score(scaled(found), scaled(right)) == metric.score(found, right)


@given(answers, references)
def test_one_to_one_finds_the_most_matches_of_all_assignments(found, right):
    metric = GmnerF1(GmnerF1Options(matching="one_to_one"))
    size = max(len(found.grounded), len(right.grounded))
    padded = [*right.grounded, *[None] * (size - len(right.grounded))]
    most = max(
        sum(
            each is not None and metric._is_right(guess, each)
            for guess, each in zip(found.grounded, order, strict=False)
        )
        for order in permutations(padded)
    )
    assert metric.score(found, right)["matched"] == most


@given(answers, references, repeats, st.booleans())
def test_variants_are_ordered_and_scores_are_between_0_and_1(found, right, repeats, lower_case):
    shared = {"repeats": repeats, "lower_case": lower_case}
    matched = {}
    for name, (metric, options) in PAIRS.items():
        for matching in ("by_mention", "one_to_one"):
            scorer = metric(options(matching=matching, **shared))
            got = scorer.score(found, right)
            matched[name, matching] = got["matched"]
            assert 0 <= got["matched"] <= min(got["predicted"], got["reference"])
            assert all(0 <= value <= 1 for value in scorer.reduce([got]).values())
            assert tuple(scorer.reduce([got])) == tuple(scorer.metric_names)
        assert matched[name, "by_mention"] <= matched[name, "one_to_one"]
    if repeats == "each":
        for matching in ("by_mention", "one_to_one"):
            assert matched["gmner", matching] <= min(matched["mner", matching], matched["eeg", matching])


@given(
    references.filter(
        lambda right: right.grounded and all(best_iou(e.boxes, e.boxes) for e in right.grounded if e.boxes)
    ),
    matchings,
    repeats,
)
def test_a_copy_of_the_reference_scores_1(right, matching, repeats):
    for metric, options in PAIRS.values():
        scorer = metric(options(matching=matching, repeats=repeats))
        assert set(scorer.reduce([scorer.score(right, right)]).values()) == {1.0}
    accuracy = BoxAccuracy(BoxAccuracyOptions(repeats=repeats))
    boxed = any(each.boxes for each in right.grounded)
    assert set(accuracy.reduce([accuracy.score(right, right)]).values()) == ({1.0} if boxed else {None})


def test_box_accuracy_counts_entities_that_the_image_shows():
    metric = BoxAccuracy(BoxAccuracyOptions())
    right = answer(
        entity("Ann", "person", LEFT), entity("Bob", "person", LEFT), entity("Eve", "person", RIGHT), entity()
    )
    found = answer(
        entity("Ann", "other", HALF), entity("Bob", "person"), unreadable("Eve"), entity("Rome", "other", LEFT)
    )
    counts = metric.score(found, right)
    assert counts == {"boxed": 3, "located": 1, "iou": 0.5}
    assert metric.reduce([counts]) == pytest.approx({"box_accuracy": 1 / 3, "box_mean_iou": 0.5 / 3})


def test_without_the_task_or_samples_metrics_are_none():
    plain = Answer("text", frozenset(), None)
    for metric in (*(made(told()) for made, told in PAIRS.values()), BoxAccuracy(BoxAccuracyOptions())):
        assert metric.score(plain, plain) is None
        assert metric.reduce([]) == dict.fromkeys(metric.metric_names)


def test_many_equal_entities_are_matched_quickly():
    entities = [entity("Ann", "person", LEFT)] * 300
    assert count_matches(entities, entities, lambda a, b: a == b) == 300
