"""Building a data set from JSON lines, with its splits and its licence."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from plugins.annotator.constant import ConstantAnnotator
from plugins.source.json_lines import JsonLinesSource
from runner.dataset.build.pipeline import build_dataset
from runner.dataset.folder_reader import DatasetFolder
from runner.errors import DataError, SpecError
from runner.records import Entity
from runner.spec.dataset_spec import DatasetSpec
from runner.spec.load import load

SPEC = """\
name: mine
source: {{type: json_lines, path: lines, images: pictures, labels: [dish, drink]}}
output: made
license: cc-by-4.0
{more}
"""
SIZE = (80, 60)


@pytest.fixture
def lines(tmp_path):
    """Twelve samples in two files; the first images of both files differ in quality only."""
    (tmp_path / "lines").mkdir()
    (tmp_path / "pictures").mkdir()
    for split, numbers in (("train", range(8)), ("test", range(8, 12))):
        rows = []
        for number in numbers:
            seen = 0 if number == 8 else number
            picture = Image.effect_mandelbrot(SIZE, (-2 + seen / 10, -1.2, 0.5 - seen / 20, 1 - seen / 9), 60)
            quality = 60 if number == 8 else 95
            picture.save(tmp_path / "pictures" / f"{number}.jpg", quality=quality)
            rows.append(
                {
                    "id": f"s{number}",
                    "text": f"tea and cake {number}",
                    "image": f"{number}.jpg",
                    "summary": f"A table {number}.",
                    "entities": [{"label": "drink", "text": "tea"}, {"label": "dish", "text": "cake"}],
                    "segments": [{"entity": "cake", "box": [2, 2, 38, 28]}] * (1 + number % 2),
                    "size": list(SIZE),
                }
            )
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "lines" / f"{split}.jsonl").write_text(text)
    return tmp_path


def build_lines(lines, reporter, more):
    (lines / "mine.yaml").write_text(SPEC.format(more=more))
    return build_dataset(load(lines / "mine.yaml", DatasetSpec).spec, reporter)


def test_build_from_json_lines(lines, reporter):
    built = build_lines(lines, reporter, "split: official")
    assert built.num_samples == {"train": 8, "test": 4}
    folder = DatasetFolder(built.path)
    sample = folder.load("train")[1]
    assert (sample.id, sample.summary, len(sample.segments)) == ("s1", "A table 1.", 2)
    with Image.open(sample.segments[0].image) as cut:
        assert cut.size == (36, 26)
    assert folder.labels == ("dish", "drink")
    assert folder.description["license"] == "cc-by-4.0"
    assert "license: cc-by-4.0" in (built.path / "README.md").read_text()
    assert str(lines) not in (built.path / "README.md").read_text()


def test_near_duplicates_across_official_splits_are_rejected(lines, reporter):
    with pytest.raises(DataError, match="nearly the same image: test/s8 and train/s0"):
        build_lines(lines, reporter, "split: official\nnear_images: 6")


def test_near_duplicates_stay_together_and_splits_are_stratified(lines, reporter):
    more = "split: {ratios: {train: 0.5, test: 0.5}, stratify: [segments]}\nnear_images: 6"
    built = build_lines(lines, reporter, more)
    folder = DatasetFolder(built.path)
    splits = folder.load_splits()
    assert len({split for split, members in splits.items() if {"s0", "s8"} & {each.id for each in members}}) == 1
    assert sorted(sum(len(each.segments) == 2 for each in members) for members in splits.values()) == [3, 3]


def test_summary_of_white_space_from_an_annotator_is_no_summary(lines, reporter):
    class BlankAnnotator(ConstantAnnotator):
        def summary(self, annotation):
            return "\u2003" if annotation.id == "s3" else annotation.answer

    for file in (lines / "lines").iterdir():
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps({**row, "summary": None}) + "\n" for row in rows))
    more = "split: official\nannotator: {type: constant}\npublish: everything"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("plugins.annotator.constant.ConstantAnnotator", BlankAnnotator)
        built = build_lines(lines, reporter, more)
    assert built.left_out["answer without a summary"] == 1
    assert sum(built.num_samples.values()) == 11
    blank = more.replace("constant", 'constant, summary: "\\u3000"')
    with pytest.raises(SpecError, match=r"annotator.summary: the summary is empty or holds only white space"):
        build_lines(lines, reporter, blank)


def test_blank_texts_of_any_source_are_refused_at_the_import(lines, reporter, monkeypatch):
    good = JsonLinesSource.read

    def read(self):
        for entry in good(self):
            yield replace(entry, sample=replace(entry.sample, entities=(Entity("dish", "\u00a0"),)))

    monkeypatch.setattr(JsonLinesSource, "read", read)
    with pytest.raises(DataError, match=r"sample 's8': an entity is empty or holds only white space"):
        build_lines(lines, reporter, "split: official")
