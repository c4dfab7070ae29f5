"""The comparison page in a real browser: claims and arms by tasks on a wide screen and on a phone."""

import shutil

import pytest

from runner.compare.comparison import CompareOptions, compare
from runner.compare.comparison_page import write_page
from runner.compare.resampling import Resampling

CHROMIUM = shutil.which("chromium")
playwright = pytest.importorskip("playwright.sync_api")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's package chromium"),
]


@pytest.fixture(scope="module")
def page_file(claimed, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "page.html"
    write_page(file, compare(["swept"], claimed.runs, CompareOptions(mre=True, resampling=Resampling(200))))
    return file


@pytest.mark.parametrize("width", [1200, 390])
def test_claims_are_readable_without_scrolling_sideways(page_file, width):
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        errors = []
        page.on("pageerror", lambda error: errors.append(error))  # noqa: PLW0108 (playwright marks the function)
        page.goto(page_file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        playwright.expect(page.locator("#claims")).to_contain_text("joint is better than ner_alone on ner_f1")
        verdict = page.locator("#claims tbody tr").nth(1).locator("td").nth(3)
        playwright.expect(verdict).to_have_text("supported")
        shown = verdict.evaluate("cell => getComputedStyle(cell, '::before').content")
        assert (shown == "none") == (width > 600), "on a phone, each cell shows its heading"
        parts = page.get_by_text("joint vs summary_alone").first
        playwright.expect(parts).to_be_hidden()
        page.get_by_text("What each claim consists of", exact=True).click()
        playwright.expect(parts).to_be_visible()
        playwright.expect(page.locator("#reinforcement tbody")).to_contain_text("harms")
        assert errors == []
        browser.close()
