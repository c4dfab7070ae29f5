"""Twitter GMNER as published: tags, boxes, and invalid files."""

from pathlib import Path

import pytest

from plugins.source.gmner import FmnergSource, GmnerSource, MnerSource
from plugins.source.source_options import FmnergOptions, GmnerOptions, MnerOptions
from runner.errors import DataError
from runner.records import Entity
from runner.spec.check import make_section
from runner.spec.dataset_spec import DatasetSpec
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
    *tweets, first, second = sorted(
        corpus(tmp_path, "\n\n".join(tweets), xml), key=lambda entry: isinstance(entry, SkippedEntry)
    )
    assert [[each.entity for each in tweet.sample.segments] for tweet in tweets] == [["Ada"], [], [], []]
    assert [len(tweet.sample.entities) for tweet in tweets] == [1, 1, 0, 1]
    assert [first, second] == [
        SkippedEntry("train-1-1", "box of something that is not an entity of the text: Bob"),
        SkippedEntry("train-4-4", "box of something that is not an entity of the text: ada"),
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
        (
            "IMGID:1\nAda\tB-person\tB-actor\n",
            2,
            "has 3 columns and is neither IMGID:<id> nor token<TAB>tag; the source fmnerg",
        ),
        ("IMGID:1\nAda\tKing\tx\tB-PER\n", 2, "'Ada\\tKing\\tx\\tB-PER' is neither"),
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


@pytest.mark.parametrize(("gone", "option"), [("txt", "path"), ("xml", "path"), ("images", "images")])
def test_the_error_for_a_missing_folder_names_the_option(tmp_path, gone, option):
    corpus(tmp_path)
    (tmp_path / gone).rename(tmp_path / "moved")
    with pytest.raises(DataError, match=rf"{gone}: no such folder; source\.{option} is"):
        list(GmnerSource(GmnerOptions(path=tmp_path)).read())


def test_a_missing_split_is_an_error(tmp_path):
    corpus(tmp_path)
    (tmp_path / "txt" / "dev.txt").unlink()
    with pytest.raises(DataError, match=r"dev\.txt: no such file"):
        list(GmnerSource(GmnerOptions(path=tmp_path)).read())


def test_paths_are_not_part_of_the_fingerprint():
    from runner.fingerprint_and_provenance import fingerprinted_options

    options = GmnerOptions(path=Path("a"), images=[Path("b"), Path("c")])
    assert set(fingerprinted_options(options)) == {"box_format", "box_unit"}


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


def test_all_problems_are_reported_together_with_file_line_and_id(tmp_path):
    xml = {"1": "<annotation>", "2": annotation("Ada", box=BOX.replace("30", "0"))}
    with pytest.raises(DataError) as raised:
        corpus(tmp_path, "IMGID:1\nAda\tPER\nBob\tB-PER\n\nIMGID:2\nAda\tB-PER\n", xml, test="IMGID:3\nAda\n")
    lines = str(raised.value).splitlines()
    txt, boxes = tmp_path / "txt", tmp_path / "xml"
    assert [line.split(": ")[0] for line in lines] == [
        f"{txt / 'train.txt'}:2",
        f"{boxes / '1.xml'}",
        f"{boxes / '2.xml'}",
        f"{txt / 'test.txt'}:2",
    ]
    assert lines[1].endswith("(sample train-1-1)")
    assert lines[2].split(": ")[1] == "sample train-2-2"
    assert "the box [1, 2, 0, 40] is inverted" in lines[2]


def test_boxes_in_other_formats(tmp_path):
    size = "<size><width>200</width><height>100</height></size>"
    box = "<bndbox><xmin>0.5</xmin><ymin>0.1</ymin><xmax>0.25</xmax><ymax>0.4</ymax></bndbox>"
    with pytest.raises(DataError, match=r"set source\.box_unit: fraction"):
        corpus(tmp_path, xml={"1": annotation("Ada", size=size, box=box)})
    options = GmnerOptions(path=tmp_path, box_unit="fraction", box_format="corners")
    [entry] = GmnerSource(options).read()
    assert entry.sample.segments[0].box == (50, 10, 100, 40)


def test_images_of_two_folders(tmp_path):
    """As IJCAI2019_data holds them; suffixes in capitals, and the same image in both folders."""
    first, second = tmp_path / "twitter2015_images", tmp_path / "twitter2017_images"
    for folder in (first, second):
        folder.mkdir()
    corpus(tmp_path, "IMGID:1\nAda\tO\n\nIMGID:2\nAda\tO\n\nIMGID:3\nAda\tO\n")
    (first / "1.JPG").write_bytes(b"x")
    (second / "2.jpeg").write_bytes(b"y")
    (first / "3.jpg").write_bytes(b"z")
    (second / "3.jpg").write_bytes(b"z")
    source = GmnerSource(GmnerOptions(path=tmp_path, images=[first, second]))
    images = [entry.sample.image for entry in source.read() if isinstance(entry, SourceTweet)]
    assert images == [first / "1.JPG", second / "2.jpeg", first / "3.jpg"]
    (second / "3.jpg").write_bytes(b"other")
    with pytest.raises(DataError) as raised:
        list(source.read())
    assert str(raised.value) == (
        f"{tmp_path / 'txt' / 'train.txt'}:7: sample train-3-3: the image '3' exists twice with different content, as "
        f"{first / '3.jpg'} and {second / '3.jpg'}; remove or rename the wrong one"
    )


def test_the_folder_above_the_two_is_refused_with_their_names(tmp_path):
    corpus(tmp_path)
    for name in ("twitter2015_images", "twitter2017_images"):
        (tmp_path / "images" / name).mkdir()
        (tmp_path / "images" / name / "1.jpg").touch()
    with pytest.raises(DataError, match=r"images: contains no image, but folders with .*2015.*2017_images; list"):
        list(GmnerSource(GmnerOptions(path=tmp_path)).read())


FINE = """IMGID:1
Garfield\tB-location\tB-park
Park\tI-location\tI-park
by\tO\tO
Ada\tB-person\tB-person_other
King\tB-person\tB-author
"""


def fmnerg(path, train=FINE, **options):
    for name in ("txt_fine", "xml", "images"):
        (path / name).mkdir(exist_ok=True)
    for split in ("train", "dev", "test"):
        (path / "txt_fine" / f"{split}.txt").write_text(train if split == "train" else "")
    (path / "xml" / "1.xml").write_text(annotation("Garfield Park", "Ada King"))
    return list(FmnergSource(FmnergOptions(path=path, **options)).read())


@pytest.mark.parametrize(
    ("labels", "expected"),
    [("coarse", ["location", "person", "person"]), ("fine", ["park", "person_other", "author"])],
)
def test_fmnerg(tmp_path, labels, expected):
    skipped, tweet = fmnerg(tmp_path, labels=labels)
    assert skipped == SkippedEntry("train-1-1", "box of something that is not an entity of the text: Ada King")
    assert [each.text for each in tweet.sample.entities] == ["Garfield Park", "Ada", "King"]
    assert [each.label for each in tweet.sample.entities] == expected
    assert [(each.entity, each.box) for each in tweet.sample.segments] == [("Garfield Park", (1, 2, 30, 40))]
    assert tweet.location == f"{tmp_path / 'txt_fine' / 'train.txt'}:1"
    source = FmnergSource(FmnergOptions(path=tmp_path, labels=labels))
    assert set(expected) <= set(source.labels)
    assert len(source.labels) == (51 if labels == "fine" else 8)


def test_fmnerg_with_the_boxes_of_gmner(tmp_path):
    """NUSTM/FMNERG has the texts alone."""
    fmnerg(tmp_path)
    (tmp_path / "xml").rename(tmp_path / "of_gmner")
    with pytest.raises(DataError, match=r"xml: no such folder; .* source\.boxes the folder xml/ of GMNER's"):
        list(FmnergSource(FmnergOptions(path=tmp_path)).read())
    options = FmnergOptions(path=tmp_path, boxes=tmp_path / "of_gmner")
    assert len(list(FmnergSource(options).read())) == 2


def test_fmnerg_refuses_files_of_gmner_and_unknown_labels(tmp_path):
    text = "IMGID:1\nAda\tB-PER\nAda\tB-person\tB-singer\n"
    with pytest.raises(DataError) as raised:
        fmnerg(tmp_path, text, labels="fine")
    first, second = str(raised.value).splitlines()
    assert "train.txt:2: 'Ada\\tB-PER' has 2 columns and is neither IMGID:<id> nor token<TAB>tag<TAB>tag" in first
    assert first.endswith("; the source gmner or mner reads such files")
    assert "train.txt:3: the tag 'B-singer' is not O, B- or I- with city, country" in second


def test_mner(tmp_path):
    """As in the repository of UMT: texts beside each other, valid.txt instead of dev.txt, and no boxes."""
    for split, label in (("train", "OTHER"), ("valid", "MISC"), ("test", "PER")):
        (tmp_path / f"{split}.txt").write_text(f"IMGID:1\nAda\tB-{label}\n\nIMGID:2\nin\tO\n")
    (tmp_path / "images").mkdir()
    entries = list(MnerSource(MnerOptions(path=tmp_path)).read())
    assert [entry.split for entry in entries] == ["train", "train", "valid", "valid", "test", "test"]
    assert [[each.label for each in entry.sample.entities] for entry in entries[::2]] == [
        ["other"],
        ["other"],
        ["person"],
    ]
    assert all(entry.sample.segments == () and entry.size is None for entry in entries)
    (tmp_path / "valid.txt").unlink()
    with pytest.raises(DataError, match=r"valid\.txt: no such file"):
        list(MnerSource(MnerOptions(path=tmp_path)).read())


def test_a_corpus_without_boxes_needs_all_tweets(tmp_path):
    section = make_section("source", {"type": "mner", "path": str(tmp_path)})
    with pytest.raises(ValueError, match="the source mner has no boxes; write keep: all"):
        DatasetSpec(name="x", source=section, output=tmp_path / "out")
    assert DatasetSpec(name="x", source=section, output=tmp_path / "out", keep="all").keep == "all"
