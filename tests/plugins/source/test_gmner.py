"""Twitter GMNER as published: tags, boxes, and invalid files."""

from pathlib import Path

import pytest

from plugins.source.gmner import GmnerOptions, GmnerSource
from runner.errors import DataError
from runner.records import Entity
from runner.stages import SkippedEntry, SourceTweet

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
    """Return the entities of one tweet with a box that is named after its first token."""
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


def test_ids_contain_split_and_index(tmp_path):
    tweet = "IMGID:1\nAda\tB-PER\n\n"
    entries = corpus(tmp_path, tweet * 2, dev=tweet, test=tweet.replace("\n", "\r\n"))
    assert [entry.sample.id for entry in entries] == ["train-1-1", "train-2-1", "dev-1-1", "test-1-1"]


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".png", ".JPG", ".PNG"])
def test_the_image_is_found_by_imgid(tmp_path, suffix):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / f"1{suffix}").write_bytes(b"x")
    corpus(tmp_path)
    options = GmnerOptions(path=tmp_path, images=tmp_path / "pictures")
    (entry,) = GmnerSource(options).read()
    assert entry.sample.image == tmp_path / "pictures" / f"1{suffix}"


def test_a_missing_image_is_reported_by_the_crop_stage(tmp_path):
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
def test_entities_with_delimiters_of_the_published_format(tmp_path, name):
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


def test_skipped_entries_and_reasons(tmp_path):
    tweets = ["IMGID:1\nAda\tB-PER", "IMGID:2\nAda\tB-PER", "IMGID:3\nhello\tO", "IMGID:4\nAda\tB-PER"]
    xml = {"1": annotation("Ada", "Bob"), "3": annotation(), "4": annotation("ada")}
    kept, *left = sorted(corpus(tmp_path, "\n\n".join(tweets), xml), key=lambda entry: isinstance(entry, SkippedEntry))
    assert [each.entity for each in kept.sample.segments] == ["Ada"]
    assert left == [
        SkippedEntry("train-1-1", "box of something that is not an entity of the text: Bob"),
        SkippedEntry("train-2-2", "tweet without boxes"),
        SkippedEntry("train-3-3", "tweet without a box of a tagged entity"),
        SkippedEntry("train-4-4", "box of something that is not an entity of the text: ada"),
        SkippedEntry("train-4-4", "tweet without a box of a tagged entity"),
    ]


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>"])
def test_an_empty_size_is_ignored(tmp_path, size):
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
        ("IMGID:\nAda\tB-PER\n", 1, "'IMGID:' has no image id"),
        ("IMGID:1\nAda\tB-PER\n\nIMGID:../../etc/passwd\n", 4, "has no image id"),
        ("IMGID:..\n", 1, "has no image id"),
        ("IMGID:/etc/passwd\n", 1, "has no image id"),
    ],
)
def test_an_error_names_the_invalid_line(tmp_path, text, line, message):
    with pytest.raises(DataError) as raised:
        corpus(tmp_path, text)
    assert str(raised.value).startswith(f"{tmp_path / 'txt' / 'train.txt'}:{line}: ")
    assert message in str(raised.value)


BOMB = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><annotation>&b;</annotation>'
OUTSIDE = '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation>&a;</annotation>'


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (BOMB, "is not valid XML"),
        (OUTSIDE, "is not valid XML"),
        ("<annotation>", "is not valid XML"),
        ("", "is not valid XML"),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', "is not valid XML"),
        ('<?xml version="1.0" encoding="gbk"?><annotation/>', "is not valid XML"),
        (f"<annotation><object>{BOX}</object></annotation>", "an object has no name"),
        (annotation("Ada", box=""), "bndbox/xmin is '', not a number of pixels"),
        (annotation("Ada", box=BOX.replace("30", "wide")), "bndbox/xmax is 'wide'"),
        (annotation("Ada", box=BOX.replace("30", "1e999")), "bndbox/xmax is '1e999'"),
        (annotation("Ada", size="<size><width>80</width></size>"), "size/height is ''"),
    ],
)
def test_an_error_names_the_invalid_xml(tmp_path, xml, message):
    with pytest.raises(DataError) as raised:
        corpus(tmp_path, xml={"1": xml})
    assert str(raised.value).startswith(f"{tmp_path / 'xml' / '1.xml'}: ")
    assert message in str(raised.value)


def test_an_error_names_the_line_with_another_encoding(tmp_path):
    corpus(tmp_path)
    (tmp_path / "txt" / "dev.txt").write_bytes("IMGID:1\nZoé\tB-PER\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"dev\.txt:2: is not UTF-8 text: byte 0xe9; save the file as UTF-8"):
        list(GmnerSource(GmnerOptions(path=tmp_path)).read())


@pytest.mark.parametrize("gone", ["txt", "xml", "images"])
def test_the_error_for_a_missing_folder_names_the_option(tmp_path, gone):
    corpus(tmp_path)
    (tmp_path / gone).rename(tmp_path / "moved")
    with pytest.raises(DataError, match=rf"{gone}: no such folder; source\.path is"):
        list(GmnerSource(GmnerOptions(path=tmp_path)).read())


def test_a_missing_split_is_an_error(tmp_path):
    corpus(tmp_path)
    (tmp_path / "txt" / "dev.txt").unlink()
    with pytest.raises(DataError, match=r"dev\.txt: no such file"):
        list(GmnerSource(GmnerOptions(path=tmp_path)).read())


def test_paths_are_not_part_of_the_fingerprint():
    from runner.fingerprint_and_provenance import fingerprinted_options

    assert fingerprinted_options(GmnerOptions(path=Path("a"), images=Path("b"))) == {}


def test_a_byte_order_mark_is_ignored(tmp_path):
    (entry,) = corpus(tmp_path, "\ufeffIMGID:1\nAda\tB-PER\n")
    assert entry.sample.id == "train-1-1"


def test_tokens_of_white_space_are_left_out_and_their_entities_are_reported(tmp_path):
    """As published in other corpora: a token that is one no-break space, tagged as an entity or within one."""
    tweet = "IMGID:1\nAda\tB-PER\n\u00a0\tI-PER\nKing\tI-PER\n\u3000\tB-LOC\nin\tO\n\u200b\tB-ORG\n"
    entries = corpus(
        tmp_path, f"{tweet}\nIMGID:2\n\u00a0\tB-PER\n", {"1": annotation("Ada King", "\u3000"), "2": annotation("Ada")}
    )
    skipped = [entry.reason for entry in entries if isinstance(entry, SkippedEntry)]
    assert skipped == [
        "entity of white space, tagged as location",
        "entity of white space, tagged as organization",
        "box of something that is not an entity of the text: ",
        "tweet without text: all tokens are white space",
    ]
    [sample] = [entry.sample for entry in entries if isinstance(entry, SourceTweet)]
    assert sample.text == "Ada King in \u200b"
    assert sample.entities == (Entity("person", "Ada King"),)
