"""Which tweets a build keeps: those with a box, or all of them, and a corpus that has no boxes."""

import random
import re
import sys

import pytest
from PIL import Image
from transformers.utils.chat_template_utils import mark_control_tokens

from runner.dataset.folder_reader import DatasetFolder
from runner.errors import DataError
from runner.records import DELETED_CHARACTERS


def test_all_keeps_tweets_without_entities_or_boxes(corpus, build, painted, read_rows):
    grounded = corpus.good("1")
    for image_id in ("2", "3", "4"):
        painted((80, 60)).point(lambda value, shift=int(image_id): max(0, value - 9 * shift)).save(
            corpus.images / f"{image_id}.jpg", quality=95
        )
    corpus.boxes("3", [("Bob", (2, 2, 30, 20))], (80, 60))
    others = [corpus.tweet("2"), corpus.tweet("3"), corpus.tweet("4", "in/O")]
    built = build(skip=False)
    assert built.num_samples == {"train": 1}
    assert built.left_out == {
        "tweet without a box of a tagged entity": 3,
        "box of something that is not an entity of the text": 1,
    }
    built = build(skip=False, keep="all")
    samples = DatasetFolder(built.path).load("train")
    assert [sample.id for sample in samples] == [grounded, *others]
    assert [(len(sample.entities), len(sample.segments)) for sample in samples] == [(1, 1), (1, 0), (1, 0), (0, 0)]
    assert all((corpus.images / sample.image.name).read_bytes() == sample.image.read_bytes() for sample in samples)
    assert built.left_out == {"box of something that is not an entity of the text": 1}
    assert build(keep="all", limit=2).num_samples == {"train": 2}


def test_no_tweet_with_a_box_is_an_error_that_names_the_option(corpus, build):
    corpus.tweet("1")
    with pytest.raises(DataError, match="Twitter GMNER: no tweet has a box of one of its entities; with keep: all"):
        build()


def noise(path):
    rng = random.Random(0)
    Image.frombytes("RGB", (300, 200), rng.randbytes(180_000)).save(path, quality=95)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.98])
def test_a_truncated_image_without_boxes_is_found(corpus, build, share):
    corpus.good("1")
    noise(corpus.images / "2.jpg")
    content = (corpus.images / "2.jpg").read_bytes()
    name = corpus.tweet("2")
    assert build(keep="all").num_samples == {"train": 2}
    (corpus.images / "2.jpg").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match=rf"train\.txt:5: {name}: image is damaged or truncated"):
        build(keep="all", skip=False)


@pytest.mark.parametrize("character", ["\U000f0000", "\U000f0001"])
def test_characters_that_transformers_deletes_are_refused_by_name(corpus, build, character):
    """transformers marks the text of control tokens with these two, and deletes them from every text before."""
    for number in (1, 2):
        corpus.good(str(number))
    first = corpus.tweet("1", f"Ada{character}/B-PER")
    second = corpus.tweet("2", f"in{character}/O")
    with pytest.raises(DataError) as raised:
        build(keep="all", limit=1000)
    code = f"U+{ord(character):X}"
    txt = corpus.path / "txt" / "train.txt"
    problem = f"the text contains {code}, which transformers deletes from every prompt; remove it"
    assert str(raised.value).splitlines() == [
        f"{txt}:{line}: sample '{name}': {problem}" for line, name in ((9, first), (13, second))
    ]


def test_the_refused_characters_are_those_that_transformers_deletes():
    deleted = [
        chr(code) for code in range(sys.maxunicode + 1) if mark_control_tokens(chr(code), re.compile("(?!)")) == ""
    ]
    assert set(deleted) == DELETED_CHARACTERS
