"""The comparison with other scorers of grounded NER reads the corpus and simulates answers as it says."""

import random
from dataclasses import replace

import pytest

from bench.grounding_scores import NUM_PROPOSALS, Guess, _pair, _written, f1, our_counts, read_test_split, simulate
from plugins.metric.grounding import GmnerF1, GmnerF1Options

TEXT = """IMGID:7
Ann\tB-PER
Lee\tI-PER
in\tO
Rome\tB-LOC

IMGID:8
nothing\tO
"""
XML = """<annotation><object><name>Ann Lee</name><bndbox><xmin>10</xmin><ymin>20</ymin><xmax>110</xmax><ymax>220</ymax>
</bndbox></object></annotation>"""


@pytest.fixture
def tweets(tmp_path):
    for folder, name, content in (("txt", "test.txt", TEXT), ("xml", "7.xml", XML)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(content)
    return list(read_test_split(tmp_path, random.Random(0)))


def test_tweets_are_read_with_spans_boxes_and_proposals(tweets):
    first, second = tweets
    assert first.spans == [("per", 0, 2), ("loc", 3, 4)]
    assert first.gold(0, 2) == ((10, 20, 110, 220),)
    assert (second.spans, second.boxes) == ([], [])
    assert [len(tweet.proposals) for tweet in tweets] == [NUM_PROPOSALS] * 2


def test_perfect_answers_score_1_unless_a_box_has_no_proposal(tweets):
    answers = [simulate(tweet, 1.0, random.Random(1)) for tweet in tweets]
    pairs = [_pair(tweet, guesses) for tweet, guesses in zip(tweets, answers, strict=True)]
    assert {guess.label for guess in answers[0]} == {"per", "loc"}
    assert f1(our_counts(GmnerF1(GmnerF1Options()), pairs)) == 1.0


def test_a_proposal_with_an_iou_of_one_half_makes_a_tweet_undefined(tweets):
    assert not tweets[0].is_undefined()
    assert replace(tweets[0], proposals=[(10, 20, 110, 120)]).is_undefined()


def test_answers_are_written_as_text(tweets):
    found, right = _pair(tweets[0], [Guess("per", 0, 2, None)])
    assert _written(found) == "Ann Lee|per|None"
    assert _written(right) == "Ann Lee|per|[10,20,110,220]; Rome|loc|None"
