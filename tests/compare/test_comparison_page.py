"""The comparison page is self-contained, safe and folded, and fits a phone."""

import json
import re
import shutil

import pytest

from runner.compare import comparison_page
from runner.compare.comparison import CompareOptions, compare
from runner.compare.comparison_page import mark_answer, write_page
from runner.compare.comparison_plots import curve_plots
from runner.compare.resampling import Resampling
from runner.errors import RequirementError
from runner.records import Answer, GroundedEntity
from runner.trial.run_directory_and_events import EventLog

FAST = Resampling(100)


@pytest.fixture(scope="module")
def page(ablation, tmp_path_factory):
    options = CompareOptions(mre=True, num_disagreements=12, resampling=Resampling(200))
    file = tmp_path_factory.mktemp("page") / "new" / "page.html"
    write_page(file, compare(["swept"], ablation.runs, options))
    return file


def written(storage, names, **options):
    file = storage.folder / "page.html"
    write_page(file, compare(names, storage.runs, CompareOptions(resampling=FAST, **options)))
    return file.read_text(encoding="utf-8")


def test_nothing_is_loaded_from_elsewhere(page):
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert "@import" not in text
    assert len(text) < 2_000_000


def test_it_has_tables_plots_curves_and_samples_with_pictures(page):
    text = page.read_text(encoding="utf-8")
    assert "ner alone" in text
    assert "train/loss by step, log scale" in text
    assert text.count("<svg") == 8 + 8 + 1  # a difference and a value of each metric, and one curve
    num_samples = text.count('<details class="sample"')
    assert 12 <= num_samples <= 36
    assert text.count("data:image/jpeg") > num_samples
    assert "train/lr" not in text


def test_every_section_is_folded_and_the_long_ones_are_closed(page):
    text = page.read_text(encoding="utf-8")
    sections = dict(re.findall(r'<details class="section" id="(\w+)"( open)?>', text))
    assert sections == {
        "groups": " open",
        "differences": " open",
        "metrics": "",
        "curves": "",
        "subgroups": "",
        "samples": " open",
    }
    assert text.count("<h2>") == len(sections)
    assert '<details class="sample" open' not in text


def test_a_long_table_of_differences_is_closed(ablation, tmp_path, monkeypatch):
    comparison = compare(
        ["swept"], ablation.runs, CompareOptions(by="arm", metrics=["bleu", "ner_f1"], resampling=FAST)
    )
    for max_rows, opening in ((len(comparison.tests), 'id="differences" open>'), (1, 'id="differences">')):
        monkeypatch.setattr(comparison_page, "MAX_OPEN_ROWS", max_rows)
        write_page(tmp_path / "page.html", comparison)
        assert opening in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_change_is_written_from_the_baseline_to_the_group(storage):
    storage.run(experiment="good")
    storage.run("generator.num_few_shot=1", experiment="bad", error_rate=0.9)
    text = written(storage, ["good", "bad"], by="experiment", baseline="bad", metrics=["ner_f1"])
    assert "bad → good:" in text
    assert 'ner_f1 <span class="better">0.00 → 1.00</span>' in text
    (change,) = set(re.findall(r'data-heading="b → a" class="number">(0\.\d{4} → 1\.0000)</td>', text)[:1])
    assert change < "0.5"


def test_wrong_and_missing_pairs_of_an_answer_are_marked(storage):
    storage.run(experiment="good")
    storage.run("generator.num_few_shot=1", experiment="bad", error_rate=0.9)
    text = written(storage, ["good", "bad"], by="experiment", metrics=["ner_f1"])
    for verdict, symbol in (("correct", "✓"), ("wrong", "✗"), ("missing", "∅")):
        assert re.search(rf'<li class="{verdict}" title="{verdict}">{symbol} \w+: \w+', text)
    assert "✗ a = " in text


def test_without_the_adapter_the_generated_text_is_shown(storage):
    for number in (1, 2):
        run = storage.run(f"generator.num_few_shot={number}", experiment=f"run{number}", error_rate=number / 3)
        plan = json.loads(run.plan.read_text())
        run.plan.write_text(json.dumps({**plan, "adapter": {**plan["adapter"], "type": "unknown"}}))
    text = written(storage, ["run1", "run2"], by="experiment")
    assert "not marked: " in text
    assert '<details class="folded" open><summary>generated text' in text


def test_marks_compare_pairs_and_segments_with_the_reference():
    answer = Answer(None, frozenset({("person", "Ann"), ("other", "Bob")}), {"a": "Ann", "b": "Eve"})
    reference = {"summary": None, "pairs": [["person", "Ann"], ["person", "Bob"]], "mapping": {"a": "Ann", "b": "Bob"}}
    assert [(item.text, item.verdict) for item in mark_answer(answer, reference)] == [
        ("other: Bob", "wrong"),
        ("person: Ann", "correct"),
        ("person: Bob", "missing"),
        ("a = Ann", "correct"),
        ("b = Eve", "wrong"),
        ("b = Bob", "missing"),
    ]
    assert not list(mark_answer(answer, {"summary": "a cross", "pairs": None, "mapping": None}))


def test_boxes_of_an_answer_are_marked():
    def entity(text, *boxes):
        return GroundedEntity("person", text, boxes)

    found = (entity("Ann", (0, 0, 10, 9)), entity("Bob", (50, 50, 60, 60)), GroundedEntity("person", "Eve", None))
    right = (entity("Ann", (0, 0, 10, 10), (90, 90, 99, 99)), entity("Bob", (0, 0, 10, 10)), entity("Cid"))
    reference = {"summary": None, "pairs": [], "mapping": None, "grounded": [each.as_json() for each in right]}
    items = mark_answer(Answer(None, frozenset(), None, found), reference)
    assert [(item.text, item.verdict) for item in items] == [
        ("person: Ann ([0, 0, 10, 9])", "correct"),
        ("person: Bob ([50, 50, 60, 60])", "wrong"),
        ("person: Eve (no readable box)", "wrong"),
        ("person: Bob ([0, 0, 10, 10])", "missing"),
        ("person: Cid (no box)", "missing"),
    ]


def test_a_loss_has_a_logarithmic_axis_and_other_metrics_do_not(storage):
    log = EventLog(storage.run(experiment="one").events)
    for step, loss in enumerate((900.0, 30.0, 0.02)):
        log.metrics(step, {"validation/loss": loss, "validation/ner_f1": 0.5, "validation/odd_loss": loss - 30.0})
    comparison = compare(["one"], storage.runs, CompareOptions(resampling=FAST))
    plots = {plot.title: plot.svg for plot in curve_plots(comparison)}
    assert set(plots) == {
        "train/loss by step, log scale",
        "validation/loss by step, log scale",
        "validation/ner_f1 by step",
        "validation/odd_loss by step",  # has values that a logarithmic axis cannot show
    }
    ticks = {float(text) for text in re.findall(r">([\d.]+)</text>", plots["validation/loss by step, log scale"])}
    assert len(ticks & {0.1, 1.0, 10.0, 100.0}) >= 2
    assert len(re.findall(r">[\d.]+</text>", plots["train/loss by step, log scale"])) >= 4


def test_the_text_names_the_tests_that_are_used(page):
    text = page.read_text(encoding="utf-8")
    assert "the p-values compare each difference with its standard error" in text
    assert "the interval of Welch's t-test for a difference" in text
    assert "p-value of seeds" not in text


def test_an_answer_that_is_missing_in_the_file_is_not_shown_as_an_empty_answer(storage):
    run = storage.run(experiment="one", error_rate=0.0)
    storage.run("generator.num_few_shot=1", experiment="two", error_rate=0.9)
    run.predictions.write_text("".join(run.predictions.read_text().splitlines(keepends=True)[:3]))
    assert "not marked: predictions.jsonl has no answer to this sample" in written(storage, ["one", "two"])


def test_html_in_labels_and_answers_is_escaped(storage):
    for seed, answer in ((1, "<b>x"), (2, "$y$$")):
        storage.run(f"seed={seed}", f"generator.answer={answer}", experiment="tiny")
    text = written(storage, ["tiny"], by="generator.answer")
    assert "<b>x" not in text
    assert "&lt;b&gt;x" in text


def test_html_in_predictions_and_references_is_escaped(storage):
    attack = "</script><script>alert(1)</script>"
    storage.run(experiment="one")
    run = storage.run("generator.num_few_shot=1", experiment="two", error_rate=0.9)
    for file in (run.predictions, run.scores):
        file.write_text(file.read_text().replace("person", f"person {attack}"))
    text = written(storage, ["one", "two"], by="experiment")
    assert "alert(1)" in text
    assert attack not in text


def test_without_the_data_set_the_page_gives_the_reason(storage):
    storage.run("generator.num_few_shot=1", experiment="one", error_rate=0.3)
    storage.run(experiment="two")
    shutil.rmtree(storage.folder / "data")
    text = written(storage, ["one", "two"])
    assert re.search(r"Texts, pictures and marks are not available: \S+data does not exist", text)
    assert "generated text" in text
    assert not (storage.folder / "data").exists()


def test_a_comparison_generates_no_data_set(storage):
    storage.run("generator.num_few_shot=1", experiment="one", error_rate=0.3)
    storage.run(experiment="two")
    for folder in (storage.folder / "data").glob("[!.]*"):
        shutil.rmtree(folder)
    left = sorted((storage.folder / "data").iterdir())
    text = written(storage, ["one", "two"])
    assert "Texts, pictures and marks are not available" in text
    assert sorted((storage.folder / "data").iterdir()) == left


def test_a_comparison_does_not_generate_a_damaged_data_set_again(storage):
    storage.run("generator.num_few_shot=1", experiment="one", error_rate=0.3)
    storage.run(experiment="two")
    [file] = (storage.folder / "data").glob("*/test.jsonl")
    file.write_text("notes of the user")
    assert "Texts, pictures and marks are not available" in written(storage, ["one", "two"])
    assert file.read_text() == "notes of the user"


def test_a_file_that_cannot_be_written_is_an_error(ablation, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RequirementError, match=r"--html .*cannot be written"):
        write_page(
            tmp_path / "file" / "page.html",
            compare(["swept"], ablation.runs, CompareOptions(metrics=["bleu"], resampling=FAST)),
        )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
def test_the_page_fits_a_phone_and_samples_can_be_filtered_and_paged(page):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 375, "height": 800})
        errors = []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto(page.as_uri())
        assert tab.evaluate("document.documentElement.scrollHeight") < 5000
        samples = tab.locator(".sample:visible")
        num_samples = tab.locator(".sample").count()
        assert samples.count() == min(10, num_samples)
        assert num_samples > 10
        tab.click("#next")
        assert samples.count() == num_samples - 10
        assert tab.locator("#position").inner_text() == f"11–{num_samples} of {num_samples}"
        tab.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
        assert tab.evaluate("document.documentElement.scrollWidth") == 375
        wide = (
            "[...document.querySelectorAll('svg, table, .sample')].filter((e) => e.getBoundingClientRect().right > 375)"
        )
        assert tab.evaluate(f"{wide}.length") == 0
        tab.select_option("select[name=direction]", "-1")
        assert 0 < samples.count() < num_samples
        tab.fill("input[name=search]", "no answer has these words")
        assert samples.count() == 0
        assert tab.locator("#position").inner_text() == "no sample matches"
        assert not errors
        browser.close()
