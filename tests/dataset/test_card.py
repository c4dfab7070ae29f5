"""The data-set card: its header for the hub and its text for people."""

import pytest
import yaml

from runner.dataset.dataset_statistics import compute_statistics
from runner.dataset.folder_writer import dataset_card
from runner.records import Entity, Sample

DESCRIBED = {
    "name": "mine: #1",
    "labels": ["person", "location"],
    "num_samples": {"train": 3800, "test": 1733},
    "fingerprint": "abc",
    "provenance": {"source": "Twitter GMNER", "spec": {"annotator": {"prompt": "What is\nin this image?"}}},
    "statistics": compute_statistics([Sample("1", "a b", None, "one two", (Entity("person", "Ada"),), ())]),
}


def header(text):
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


def test_header():
    metadata = header(dataset_card({**DESCRIBED, "license": "cc-by-4.0"}))
    assert metadata["license"] == "cc-by-4.0"
    assert metadata["pretty_name"] == "mine: #1"
    assert metadata["size_categories"] == ["1K<n<10K"]
    assert "configs" not in metadata
    assert "license" not in header(dataset_card(DESCRIBED))


@pytest.mark.parametrize(("number", "size"), [(999, "n<1K"), (1000, "1K<n<10K"), (10**6, "n>1M")])
def test_size(number, size):
    assert header(dataset_card({**DESCRIBED, "num_samples": {"train": number}}))["size_categories"] == [size]


def test_text():
    text = dataset_card(DESCRIBED)
    for expected in (
        "| train | 3,800 |",
        "| words of a summary | 2 | 2 | 2 | 2 |",
        "1 × person",
        "Twitter GMNER",
        "No licence is declared",
        "`abc`",
        "What is",
        "runner export",
    ):
        assert expected in text
    assert "runner import" in dataset_card(DESCRIBED, {"train": "data/train-*.parquet"})


def test_missing_values_are_omitted():
    text = dataset_card({key: DESCRIBED[key] for key in ("name", "labels", "num_samples", "fingerprint")})
    assert "Made by" not in text
    assert "characters" not in text
    assert "\n\n\n" not in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[x](https://a.example)", "\\[x\\](https://a.example)"),
        ("<img src=x>", "\\<img src=x\\>"),
        ("a|b\n# c", "a\\|b \\# c"),
        ("\x1b]0;x\x07", "\\\\x1b\\]0;x\\\\x07"),
    ],
)
def test_texts_of_others_are_text_in_the_card(text, shown):
    provenance = {"source": text, "spec": {"note": "~~~\n" + text}}
    card = dataset_card({**DESCRIBED, "name": text, "labels": [text], "license": text, "provenance": provenance})
    body = card.split("---\n", 2)[2]
    for line in (f"# {shown}", f"Labels: {shown}.", f"Licence: {shown}.", f"Made by mmre-runner from: {shown}."):
        assert f"\n{line}\n" in body
    quoted = body.split("`abc`.")[1].split("## Usage")[0]
    assert all(line.startswith("    ") for line in quoted.splitlines() if line)
    assert yaml.safe_load(quoted) == provenance
