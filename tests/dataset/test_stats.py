"""`runner stats`: figures that are right, the paper's beside them, and a page that stands by itself."""

import json
import re
import shutil
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from runner.cli.cache_and_dataset_tables import stats_tables
from runner.dataset.folder_reader import DatasetFolder
from runner.dataset.folder_writer import publish_atomically
from runner.dataset_statistics_report import (
    describe_dataset,
    format_value,
    histogram,
    select_browsed_samples,
    write_report,
)
from runner.errors import DataError, RequirementError, SpecError
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
    with publish_atomically(path) as unfinished:

        def sample(number, picture, size):
            image, cut = unfinished.images / f"{picture}.png", unfinished.segments / f"{number}-a.png"
            Image.new("RGB", size).save(image)
            Image.new("RGB", (size[0] // 2, 10)).save(cut)
            entities = (Entity("person", "Ada"),) * number
            segments = (Segment("a", cut, "Ada", (0, 0, size[0] // 2, 10)),)
            return Sample(f"s{number}", "Ada in Rome", image, "word " * 9 + "word", entities, segments)

        splits = {"train": [sample(1, 1, (60, 40)), sample(2, 1, (60, 40))], "test": [sample(3, 2, (100, 50))]}
        unfinished.write_dataset("mmre", ["person", "location"], splits, {"source": "Twitter GMNER"})
    return path


def test_figures(summarised, reporter):
    told = describe_dataset(summarised, None, reporter).as_json()
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


def test_another_data_set_has_no_figures_of_the_paper(folder, reporter):
    figures = describe_dataset(folder, None, reporter)
    assert figures.published is None
    assert "summary_words" not in figures.spreads
    counts, _ = stats_tables(figures)
    assert [column.header for column in counts.columns] == ["number of", "train", "test", "all"]


def test_the_tables_hold_the_paper_beside(summarised, reporter):
    counts, spreads = stats_tables(describe_dataset(summarised, None, reporter))
    assert counts.columns[-1].header == "in the paper"
    assert next(iter(counts.columns[-1].cells)) == "5,533"
    names = [str(cell) for cell in spreads.columns[0].cells]
    assert names[:4] == ["characters of a summary", "  in the paper", "words of a summary", "  in the paper"]


def test_tokens_are_those_that_the_plan_counts(folder, reporter):
    from runner.preflight.estimate import describe_plan
    from runner.spec.load import load_spec

    spec = folder.parent / "tiny.yaml"
    spec.write_text(SPEC)
    figures = describe_dataset(folder, str(spec), reporter)
    assert not figures.estimated
    assert len(figures.values["tokens_total"]) == 4
    planned = describe_plan(load_spec(spec), reporter)["tokens"]
    assert sum(figures.values["tokens_total"][:3]) == planned["total"]
    assert sum(figures.values["tokens_image"][:3]) == planned["image"]
    assert reporter.done[-1] == (4, 4)


@pytest.fixture
def high_segments(tmp_path):
    """Two samples with square pictures; the segments of one are twice as high as wide, those of the other square."""
    path = tmp_path / "high"
    with publish_atomically(path) as unfinished:

        def sample(number, segment_size):
            image, cut = unfinished.images / f"{number}.png", unfinished.segments / f"{number}-a.png"
            Image.new("RGB", (60, 60)).save(image)
            Image.new("RGB", segment_size).save(cut)
            segments = (Segment("a", cut, "Ada", (0, 0, *segment_size)),)
            return Sample(f"s{number}", "Ada in Rome", image, "a word", (Entity("person", "Ada"),), segments)

        splits = {"train": [sample(1, (20, 40)), sample(2, (30, 30))], "test": []}
        unfinished.write_dataset("mmre", ["person", "location"], splits, {})
    return path


@pytest.mark.parametrize(("family", "number"), [("internvl", 1), ("qwen2_5_vl", 0)])
def test_segments_that_cost_more_than_their_main_image_are_named(high_segments, reporter, family, number):
    """InternVL cuts a narrow image into tiles, however small it is."""
    spec = high_segments.parent / "tiny.yaml"
    spec.write_text(SPEC.replace("qwen2_5_vl", family))
    figures = describe_dataset(high_segments, str(spec), reporter)
    mains, segments = figures.values["tokens_main_image"], figures.values["tokens_segment"]
    assert sum(mains) + sum(segments) == sum(figures.values["tokens_image"])
    assert sum(segment > main for segment, main in zip(segments, mains, strict=True)) == number
    warnings = [
        f"1 of 2 segments cost more tokens than the main image of their sample. In s1, a segment of 20 x 40 pixels has "
        f"{segments[0]} tokens, and the main image {mains[0]}. Limit the size of images in the section model "
        "(docs/models.md)"
    ]
    assert reporter.warnings == warnings[:number]


def test_tokens_for_a_checkpoint_that_cannot_be_had_are_estimated(folder, reporter, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    figures = describe_dataset(folder, "Qwen/Qwen2.5-VL-7B-Instruct", reporter)
    assert figures.estimated
    assert min(figures.values["tokens_image"]) > 0


def test_what_is_no_model(folder, reporter, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (folder.parent / "none.YAML").write_text(
        re.sub("(?m)^(model|optimizer|trainer|generator):.*", "", SPEC)
        + "model: none\noptimizer: none\ntrainer: none\ngenerator: {type: constant, answer: x}\n"
    )
    with pytest.raises(SpecError, match="has no model"):
        describe_dataset(folder, str(folder.parent / "none.YAML"), reporter)
    (folder.parent / "empty").mkdir()
    with pytest.raises(RequirementError, match=r"holds no config\.json"):
        describe_dataset(folder, str(folder.parent / "empty"), reporter)


def test_a_broken_picture_is_named(folder, reporter):
    (folder / "images" / "2.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"2\.png: cannot be read"):
        describe_dataset(folder, None, reporter)


def test_the_page_stands_by_itself(summarised, reporter, tmp_path):
    figures = describe_dataset(summarised, None, reporter)
    page = tmp_path / "new" / "figures.html"
    write_report(page, figures)
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"https?://|<script[^>]|<link|src=(?!\"data:image/jpeg;base64,)", text)
    for expected in ("mmre: data-set statistics", "5,533", "in the paper", "person", "width of an image", "36.7"):
        assert expected in text
    assert "</html>" in text


def test_the_histograms_of_a_page_have_counts(summarised, reporter, tmp_path):
    write_report(tmp_path / "page.html", describe_dataset(summarised, None, reporter))
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    plot = text.partition("entities of a sample<small>")[2].partition("</figure>")[0]
    assert re.findall(r"<b>(\d+)</b>", plot) == ["1", "1", "1"], "samples with one, two and three entities"
    assert re.findall(r"<span>([^<]*)</span>", plot) == ["2", "1", "0", "1", "3"], "axis of counts, axis of values"


def test_a_page_has_a_browser_of_samples(summarised, reporter, tmp_path):
    write_report(tmp_path / "page.html", describe_dataset(summarised, None, reporter))
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    articles = re.findall(r'<article data-split="(\w+)">(.*?)</article>', text, re.DOTALL)
    assert [split for split, _ in articles] == ["train", "train", "test"]
    article = articles[0][1]
    for expected in ("s1", "Ada in Rome", "word word", "Ada <small>person</small>", "a: Ada"):
        assert expected in article
    assert article.count("<img ") == 2, "the image and its segment"
    assert "train: 2 of 2, test: 1 of 1" in text


def test_names_and_samples_in_a_page_are_text(summarised, reporter, tmp_path):
    described = json.loads((summarised / "dataset.json").read_text())
    (summarised / "dataset.json").write_text(json.dumps(described | {"name": "<b>bold</b>"}))
    for split in ("train", "test"):
        rows = [json.loads(line) for line in (summarised / f"{split}.jsonl").read_text().splitlines()]
        for row in rows:
            attack = f'"></article></script><script>alert(1)</script><img src=x onerror=alert(2)>{row["id"]}'
            row |= {"id": attack, "text": attack, "summary": attack}
            row["entities"][0]["text"] = row["segments"][0]["entity"] = attack
        (summarised / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_report(tmp_path / "page.html", describe_dataset(summarised, None, reporter))
    text = (tmp_path / "page.html").read_text()
    assert "<b>bold" not in text
    assert "<script>alert" not in text and "<img src=x" not in text
    assert text.count("</script>") == text.count("<script>") == 1
    assert text.count("</article>") == 3


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
def test_the_browser_of_a_page_turns_pages_and_filters(summarised, reporter, tmp_path, monkeypatch):
    sync_api = pytest.importorskip("playwright.sync_api")
    samples = DatasetFolder(summarised).load_splits()
    many = {"train": [replace(samples["train"][0], id=f"s{number}") for number in range(25)], "test": samples["test"]}
    monkeypatch.setattr(DatasetFolder, "load_splits", lambda self: many)
    write_report(tmp_path / "page.html", describe_dataset(summarised, None, reporter))
    with sync_api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page, errors = browser.new_page(), []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text))
        page.goto((tmp_path / "page.html").as_uri())
        assert (page.locator("article:visible").count(), page.text_content("#position")) == (10, "1–10 of 26")
        page.click("#next")
        page.click("#next")
        assert (page.locator("article:visible").count(), page.text_content("#position")) == (6, "21–26 of 26")
        assert page.is_disabled("#next")
        page.select_option("select[name=split]", "test")
        assert page.text_content("#position") == "1–1 of 1"
        page.fill("input[name=words]", "nothing like this")
        assert page.text_content("#position") == "no sample matches"
        browser.close()
    assert not errors


@given(st.lists(st.integers(0, 60), min_size=1, max_size=4), st.integers(1, 50))
def test_browsed_samples_are_spread_over_each_split(sizes, limit):
    splits = {str(number): list(range(size)) for number, size in enumerate(sizes)}
    selected = select_browsed_samples(splits, limit)
    assert sum(map(len, selected.values())) <= limit + len(sizes)
    for split, samples in splits.items():
        assert len(set(selected[split])) == len(selected[split])
        assert set(selected[split]) <= set(samples)
        assert bool(selected[split]) == bool(samples)
        if sum(sizes) <= limit:
            assert selected[split] == samples


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
    assert [format_value(value) for value in (5533, 53.27, 8.0, 0)] == ["5,533", "53.3", "8", "0"]


def test_the_command(workplace, summarised):
    done = workplace.run("stats", summarised, "--html", "page.html", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["total"]["samples"] == 3
    assert (workplace.folder / "page.html").is_file()
    missing = workplace.run("stats", "nowhere")
    assert missing.returncode == 2
    assert "no data set here" in missing.stderr
    assert "Traceback" not in missing.stderr
