"""The page stands alone, holds what was compared, and can be read on a telephone."""

import re
import shutil

import pytest

from runner.compare.comparison import CompareOptions, compare
from runner.compare.comparison_page import write_page
from runner.compare.resampling import Resampling
from runner.errors import RequirementError


@pytest.fixture(scope="module")
def page(ablation, tmp_path_factory):
    question = CompareOptions(mre=True, samples=5, resampling=Resampling(200))
    file = tmp_path_factory.mktemp("page") / "new" / "page.html"
    write_page(file, compare(["swept"], ablation.runs, question))
    return file


def test_nothing_is_loaded_from_elsewhere(page):
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert "@import" not in text
    assert len(text) < 2_000_000


def test_it_has_tables_figures_curves_and_samples_with_pictures(page):
    text = page.read_text(encoding="utf-8")
    assert "ner alone" in text
    assert "train/loss, by step" in text
    assert text.count("<svg") == 8 + 8 + 1  # a difference and a value of each figure, and one curve
    assert 5 <= text.count("<article") <= 15
    assert text.count("data:image/jpeg") > text.count("<article")
    assert "train/lr" not in text


def test_a_label_that_is_html_is_shown_as_it_is_written(storage):
    for seed, answer in ((1, "<b>x"), (2, "$y$$")):
        storage.run(f"seed={seed}", f"generator.answer={answer}", experiment="told")
    question = CompareOptions(by="generator.answer", resampling=Resampling(100))
    write_page(storage.folder / "page.html", compare(["told"], storage.runs, question))
    text = (storage.folder / "page.html").read_text(encoding="utf-8")
    assert "<b>x" not in text
    assert "&lt;b&gt;x" in text


def test_without_the_data_set_it_says_so(storage):
    storage.run("generator.num_few_shot=1", experiment="one", spoilt=0.3)
    storage.run(experiment="two")
    shutil.rmtree(storage.folder / "data")
    write_page(
        storage.folder / "page.html", compare(["one", "two"], storage.runs, CompareOptions(resampling=Resampling(100)))
    )
    text = (storage.folder / "page.html").read_text(encoding="utf-8")
    assert re.search(r"without texts and pictures: \S+data is not here", text)
    assert not (storage.folder / "data").exists()


def test_a_place_that_cannot_be_written_is_said(ablation, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RequirementError, match=r"--html .*cannot be written"):
        write_page(
            tmp_path / "file" / "page.html",
            compare(["swept"], ablation.runs, CompareOptions(metrics=["bleu"], resampling=Resampling(100))),
        )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
def test_on_a_telephone_nothing_is_cut_off_and_samples_can_be_chosen(page):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 375, "height": 800})
        errors = []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto(page.as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") == 375
        wide = (
            "[...document.querySelectorAll('svg, table, article')].filter((e) => e.getBoundingClientRect().right > 375)"
        )
        assert tab.evaluate(f"{wide}.length") == 0
        everything = tab.locator("article:visible").count()
        tab.select_option("select[name=kind]", "-1")
        assert 0 < tab.locator("article:visible").count() < everything
        tab.fill("input[name=words]", "no answer has these words")
        assert tab.locator("article:visible").count() == 0
        assert not errors
        browser.close()
