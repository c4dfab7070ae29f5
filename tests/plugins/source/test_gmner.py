"""Reading Twitter GMNER as published: tags, boxes, and every way in which a file can be wrong."""

from pathlib import Path

import pytest

from plugins.source.gmner import GmnerSource
from plugins.source.source_options import GmnerOptions
from runner.errors import DataError
from runner.records import Entity
from runner.stages import LeftOut, SourceTweet

BOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"


def annotation(*names, size="<size><width>80</width><height>60</height></size>", box=BOX):
    objects = "".join(f"<object><name>{name}</name>{box}</object>" for name in names)
    return f"<annotation><filename>another.jpg</filename>{size}{objects}</annotation>"


def corpus(path, train="IMGID:1\nAda\tB-PER\n", xml=None, **others):
    for name in ("txt", "xml", "images"):
        (path / name).mkdir()
    for split in ("train", "dev", "test"):
        text = train if split == "train" else others.get(split, "")
        (path / "txt" / f"{split}.txt").write_text(text, encoding="utf-8")
    for name, text in (xml or {"1": annotation("Ada")}).items():
        (path / "xml" / f"{name}.xml").write_text(text, encoding="utf-8")
    return list(GmnerSource(GmnerOptions(path=path)).read())


def entities(path, *tagged):
    """The entities of one tweet, by a box that is named as its first token."""
    lines = "\n".join(tagged)
    (entry,) = corpus(path, f"IMGID:1\nBob\tB-PER\n.\tO\n{lines}\n", {"1": annotation("Bob")})
    return entry.sample.entities[1:]


def test_a_tweet(tmp_path):
    (entry,) = corpus(
        tmp_path,
        "IMGID:17_06_1\nRT\tO\nAda\tB-PER\nKing\tI-PER\nin\tO\nRome\tB-LOC\n\n",
        {"17_06_1": annotation("Rome", "Ada King")},
    )
    assert isinstance(entry, SourceTweet)
    assert (entry.split, entry.size) == ("train", (80, 60))
    sample = entry.sample
    assert (sample.id, sample.text, sample.summary) == ("train-1-17_06_1", "RT Ada King in Rome", None)
    assert sample.entities == (Entity("person", "Ada King"), Entity("location", "Rome"))
    assert [(each.letter, each.entity, each.box) for each in sample.segments] == [
        ("a", "Rome", (1, 2, 30, 40)),
        ("b", "Ada King", (1, 2, 30, 40)),
    ]


def test_ids_say_split_and_place(tmp_path):
    tweet = "IMGID:1\nAda\tB-PER\n\n"
    entries = corpus(tmp_path, tweet * 2, dev=tweet, test=tweet.replace("\n", "\r\n"))
    assert [entry.sample.id for entry in entries] == ["train-1-1", "train-2-1", "dev-1-1", "test-1-1"]


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".png"])
def test_the_picture_is_that_of_the_imgid(tmp_path, suffix):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / f"1{suffix}").write_bytes(b"x")
    corpus(tmp_path)
    options = GmnerOptions(path=tmp_path, images=tmp_path / "pictures")
    (entry,) = GmnerSource(options).read()
    assert entry.sample.image == tmp_path / "pictures" / f"1{suffix}"


def test_a_missing_picture_is_left_to_the_crop(tmp_path):
    (entry,) = corpus(tmp_path)
    assert entry.sample.image == tmp_path / "images" / "1.jpg"


@pytest.mark.parametrize(
    ("tagged", "expected"),
    [
        (["A\tB-PER", "B\tI-PER", "C\tB-PER"], [("person", "A B"), ("person", "C")]),
        (["A\tI-PER", "B\tI-PER"], [("person", "A B")]),
        (["A\tB-PER", "B\tI-LOC"], [("person", "A"), ("location", "B")]),
        (["A\tB-ORG", "x\tO", "B\tI-ORG"], [("organization", "A"), ("organization", "B")]),
        (["A\tB-MISC", "B\tI-MISC", "C\tB-OTHER"], [("other", "A B"), ("other", "C")]),
        (["A\tB-PER", "A\tB-PER"], [("person", "A"), ("person", "A")]),
    ],
)
def test_bio_tags(tmp_path, tagged, expected):
    assert [(each.label, each.text) for each in entities(tmp_path, *tagged)] == expected


@pytest.mark.parametrize("name", ["Re : Zero", "AT &amp ; T", "Victoria ' s Secret", 'The " Rock "', "Reno , NV", "玉"])
def test_what_the_paper_s_format_trips_over(tmp_path, name):
    tokens = name.split()
    lines = [f"{token}\t{'I' if place else 'B'}-ORG" for place, token in enumerate(tokens)]
    xml = annotation(name.replace("&", "&amp;"))
    (entry,) = corpus(tmp_path, "IMGID:1\n" + "\n".join(lines), {"1": xml})
    assert entry.sample.entities == (Entity("organization", name),)
    assert entry.sample.segments[0].entity == name


def test_other_white_space_in_the_name_of_a_box(tmp_path):
    xml = annotation(" Ada\n\t King  ", "Ada\u00a0King")
    (entry,) = corpus(tmp_path, "IMGID:1\nAda \tB-PER\nKing\tI-PER\n", {"1": xml})
    assert [each.entity for each in entry.sample.segments] == ["Ada King", "Ada King"]


def test_what_is_left_out_and_why(tmp_path):
    tweets = ["IMGID:1\nAda\tB-PER", "IMGID:2\nAda\tB-PER", "IMGID:3\nhello\tO", "IMGID:4\nAda\tB-PER"]
    xml = {"1": annotation("Ada", "Bob"), "3": annotation(), "4": annotation("ada")}
    kept, *left = sorted(corpus(tmp_path, "\n\n".join(tweets), xml), key=lambda entry: isinstance(entry, LeftOut))
    assert [each.entity for each in kept.sample.segments] == ["Ada"]
    assert left == [
        LeftOut("train-1-1", "box of something that the text does not name: Bob"),
        LeftOut("train-2-2", "tweet whose picture has no boxes"),
        LeftOut("train-3-3", "tweet without a box of a tagged entity"),
        LeftOut("train-4-4", "box of something that the text does not name: ada"),
        LeftOut("train-4-4", "tweet without a box of a tagged entity"),
    ]


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>"])
def test_a_size_that_says_nothing(tmp_path, size):
    (entry,) = corpus(tmp_path, xml={"1": annotation("Ada", size=size)})
    assert entry.size is None


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("IMGID:1\nAda\tB-PER\n\n\nKing\tI-DOG\n", 5, "the tag 'I-DOG' is not O, B- or I- with PER, LOC, ORG, OTHER"),
        ("IMGID:1\nAda\tPER\n", 2, "the tag 'PER'"),
        ("IMGID:1\nAda\tB\n", 2, "the tag 'B'"),
        ("IMGID:1\nAda\tO-PER\n", 2, "the tag 'O-PER'"),
        ("IMGID:1\nAda B-PER\n", 2, "'Ada B-PER' is neither IMGID:<id> nor token<TAB>tag"),
        ("IMGID:1\n\tO\n", 2, "is neither"),
        ("Ada\tB-PER\n", 1, "is neither"),
        ("IMGID:\nAda\tB-PER\n", 1, "'IMGID:' names no picture"),
        ("IMGID:1\nAda\tB-PER\n\nIMGID:../../etc/passwd\n", 4, "names no picture"),
        ("IMGID:..\n", 1, "names no picture"),
        ("IMGID:/etc/passwd\n", 1, "names no picture"),
    ],
)
def test_a_bad_line_is_named(tmp_path, text, line, message):
    with pytest.raises(DataError) as raised:
        corpus(tmp_path, text)
    assert str(raised.value).startswith(f"{tmp_path / 'txt' / 'train.txt'}:{line}: ")
    assert message in str(raised.value)


BOMB = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><annotation>&b;</annotation>'
OUTSIDE = '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation>&a;</annotation>'


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (BOMB, "is no usable XML"),
        (OUTSIDE, "is no usable XML"),
        ("<annotation>", "is no usable XML"),
        ("", "is no usable XML"),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', "is no usable XML"),
        ('<?xml version="1.0" encoding="gbk"?><annotation/>', "is no usable XML"),
        (f"<annotation><object>{BOX}</object></annotation>", "an object has no name"),
        (annotation("Ada", box=""), "bndbox/xmin is '', not a number of pixels"),
        (annotation("Ada", box=BOX.replace("30", "wide")), "bndbox/xmax is 'wide'"),
        (annotation("Ada", box=BOX.replace("30", "1e999")), "bndbox/xmax is '1e999'"),
        (annotation("Ada", size="<size><width>80</width></size>"), "size/height is ''"),
    ],
)
def test_a_bad_xml_is_named(tmp_path, xml, message):
    with pytest.raises(DataError) as raised:
        corpus(tmp_path, xml={"1": xml})
    assert str(raised.value).startswith(f"{tmp_path / 'xml' / '1.xml'}: ")
    assert message in str(raised.value)


def test_text_in_another_encoding_is_named(tmp_path):
    corpus(tmp_path)
    (tmp_path / "txt" / "dev.txt").write_bytes("IMGID:1\nZoé\tB-PER\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"dev\.txt: is no UTF-8 text"):
        list(GmnerSource(GmnerOptions(path=tmp_path)).read())


@pytest.mark.parametrize("gone", ["txt", "xml", "images"])
def test_a_missing_folder_says_which_option_names_it(tmp_path, gone):
    corpus(tmp_path)
    (tmp_path / gone).rename(tmp_path / "moved")
    with pytest.raises(DataError, match=rf"{gone}: no such folder; source\.path names"):
        list(GmnerSource(GmnerOptions(path=tmp_path)).read())


def test_a_missing_split_is_an_error(tmp_path):
    corpus(tmp_path)
    (tmp_path / "txt" / "dev.txt").unlink()
    with pytest.raises(DataError, match=r"dev\.txt: missing"):
        list(GmnerSource(GmnerOptions(path=tmp_path)).read())


def test_places_do_not_change_the_identity():
    from runner.fingerprint import identity

    assert identity(GmnerOptions(path=Path("a"), images=Path("b"))) == {}


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path):
    (entry,) = corpus(tmp_path, "\ufeffIMGID:1\nAda\tB-PER\n")
    assert entry.sample.id == "train-1-1"
