"""`runner stats`: figures that are right, the paper's beside them, and a page that stands by itself."""

import json
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from runner.cli.tables import stats_tables
from runner.dataset.publish import publishing
from runner.errors import DataError, RequirementError, SpecError
from runner.preflight.dataset_report import describe, histogram, shown, write_figures
from runner.records import Entity, Sample, Segment

SPEC = """\
name: tiny
data: {type: mmre, path: tiny}
adapter: {type: pfa, tasks: [ner, match]}
model: {type: qwen2_5_vl, size: smoke}
optimizer: {type: adamw, groups: {all: {match: "*", lr: 1e-3}}}
trainer: {type: sft}
generator: {type: transformers}
metrics: [{type: ner_f1}]
tracker: {type: mlflow}
"""


@pytest.fixture
def summarised(tmp_path):
    """Three samples, two of which share a picture, with provenance of Twitter GMNER."""
    path = tmp_path / "mmre"
    with publishing(path) as unfinished:

        def sample(number, picture, size):
            image, cut = unfinished.images / f"{picture}.png", unfinished.segments / f"{number}-a.png"
            Image.new("RGB", size).save(image)
            Image.new("RGB", (size[0] // 2, 10)).save(cut)
            entities = (Entity("person", "Ada"),) * number
            segments = (Segment("a", cut, "Ada", (0, 0, size[0] // 2, 10)),)
            return Sample(f"s{number}", "Ada in Rome", image, "word " * 9 + "word", entities, segments)

        splits = {"train": [sample(1, 1, (60, 40)), sample(2, 1, (60, 40))], "test": [sample(3, 2, (100, 50))]}
        unfinished.describe("mmre", ["person", "location"], splits, {"source": "Twitter GMNER"})
    return path


def test_figures(summarised, heard):
    told = describe(summarised, None, heard).as_json()
    assert told["counts"]["train"] == {
        "samples": 2,
        "summaries": 2,
        "images": 1,
        "segments": 2,
        "entities": 3,
        "entities/person": 3,
        "entities/location": 0,
    }
    assert (told["total"]["samples"], told["total"]["images"], told["total"]["entities"]) == (3, 2, 6)
    assert told["spreads"]["summary_words"] == {"max": 10, "min": 10, "median": 10, "mean": 10}
    assert told["spreads"]["image_width"] == {"max": 100, "min": 60, "median": 80, "mean": 80}
    assert told["spreads"]["segment_width"] == {"max": 50, "min": 30, "median": 30, "mean": 36.67}
    assert told["fingerprint"] == json.loads((summarised / "dataset.json").read_text())["fingerprint"]
    assert told["published"]["spreads"]["summary_words"]["median"] == 54
    assert "tokens_total" not in told["spreads"]


def test_another_data_set_has_no_figures_of_the_paper(folder, heard):
    figures = describe(folder, None, heard)
    assert figures.published is None
    assert "summary_words" not in figures.spreads
    counts, _ = stats_tables(figures)
    assert [column.header for column in counts.columns] == ["how many", "train", "test", "all"]


def test_the_tables_hold_the_paper_beside(summarised, heard):
    counts, spreads = stats_tables(describe(summarised, None, heard))
    assert counts.columns[-1].header == "in the paper"
    assert next(iter(counts.columns[-1].cells)) == "5,533"
    names = [str(cell) for cell in spreads.columns[0].cells]
    assert names[:4] == ["characters of a summary", "  in the paper", "words of a summary", "  in the paper"]


def test_tokens_are_those_that_the_plan_counts(folder, heard):
    from runner.preflight.estimate import describe_plan
    from runner.spec.load import load_spec

    spec = folder.parent / "tiny.yaml"
    spec.write_text(SPEC)
    figures = describe(folder, str(spec), heard)
    assert not figures.estimated
    assert len(figures.values["tokens_total"]) == 4
    planned = describe_plan(load_spec(spec), heard)["tokens"]
    assert sum(figures.values["tokens_total"][:3]) == planned["total"]
    assert sum(figures.values["tokens_image"][:3]) == planned["image"]
    assert heard.done[-1] == (4, 4)


def test_tokens_for_a_checkpoint_that_cannot_be_had_are_estimated(folder, heard, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    figures = describe(folder, "Qwen/Qwen2.5-VL-7B-Instruct", heard)
    assert figures.estimated
    assert min(figures.values["tokens_image"]) > 0


def test_what_is_no_model(folder, heard, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (folder.parent / "none.yaml").write_text(
        re.sub("(?m)^(model|optimizer|trainer|generator):.*", "", SPEC)
        + "model: none\noptimizer: none\ntrainer: none\ngenerator: {type: constant, answer: x}\n"
    )
    with pytest.raises(SpecError, match="has no model"):
        describe(folder, str(folder.parent / "none.yaml"), heard)
    (folder.parent / "empty").mkdir()
    with pytest.raises(RequirementError, match=r"holds no config\.json"):
        describe(folder, str(folder.parent / "empty"), heard)


def test_a_broken_picture_is_named(folder, heard):
    (folder / "images" / "2.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"2\.png: cannot be read"):
        describe(folder, None, heard)


def test_the_page_stands_by_itself(summarised, heard, tmp_path):
    figures = describe(summarised, None, heard)
    page = tmp_path / "new" / "figures.html"
    write_figures(page, figures)
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"https?://|<script|<link|src=", text)
    for expected in ("mmre in figures", "5,533", "in the paper", "person", "width of an image", "36.7"):
        assert expected in text
    assert "</html>" in text


def test_names_in_a_page_are_text(summarised, heard, tmp_path):
    described = json.loads((summarised / "dataset.json").read_text())
    (summarised / "dataset.json").write_text(json.dumps(described | {"name": "<b>bold</b>"}))
    write_figures(tmp_path / "page.html", describe(summarised, None, heard))
    assert "<b>bold" not in (tmp_path / "page.html").read_text()


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=200))
def test_a_histogram_counts_every_value_once(values):
    bars = histogram(values)
    assert len(bars) <= 30
    assert sum(bar.number for bar in bars) == len(values)
    for before, after in pairwise(bars):
        assert after.low == before.high + 1
    assert all(bar.number == sum(bar.low <= value <= bar.high for value in values) for bar in bars)
    assert bars[0].low == min(values)
    assert bars[-1].low <= max(values) <= bars[-1].high


def test_figures_for_people():
    assert [shown(value) for value in (5533, 53.27, 8.0, 0)] == ["5,533", "53.3", "8", "0"]


def test_the_command(workplace, summarised):
    done = workplace.run("stats", summarised, "--html", "page.html", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["total"]["samples"] == 3
    assert (workplace.folder / "page.html").is_file()
    missing = workplace.run("stats", "nowhere")
    assert missing.returncode == 2
    assert "no data set here" in missing.stderr
    assert "Traceback" not in missing.stderr
