"""`runner review` in a real browser: by key and by click, over reloads and kills, for two reviewers at once."""

import json
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass

import pytest

from runner.dataset.review.decisions import Decision, decide, now, read_decisions
from runner.dataset.review.queue import open_review
from runner.dataset.review.session import Session

CHROMIUM = shutil.which("chromium")
playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's package chromium"),
]
SECONDS = 120_000
"""Milliseconds that the browser waits for what should come; a busy machine is slow."""


@dataclass
class Served:
    """A review that is served, and can be killed and served again."""

    workplace: object
    waiting: object
    port: int
    server: subprocess.Popen | None = None

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}/"

    def start(self):
        # NiceGUI takes a process for a test of its own where pytest has set this.
        self.workplace.environment.pop("PYTEST_CURRENT_TEST", None)
        self.server = self.workplace.start("review", self.waiting.dataset, "--port", self.port, "--reviewer", "ann")
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline and self.server.poll() is None:
            try:
                with urllib.request.urlopen(self.address, timeout=5):
                    return
            except OSError:
                time.sleep(0.3)
        raise AssertionError("the page is not served")

    def stop(self, number=signal.SIGINT):
        self.server.send_signal(number)
        return self.server.communicate(timeout=600)

    def decisions(self):
        """Sample to what stands of it: the decision, the reviewer's summary, and who."""
        standing = read_decisions(self.waiting.work.decisions)
        return {name: (last.decision, last.summary, last.who) for name, (*_, last) in standing.items()}


@pytest.fixture
def served(workplace, six):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served = Served(workplace, six, port)
    served.start()
    yield served
    if served.server.poll() is None:
        served.stop()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def tab(browser, served):
    """Opens a page; what it asks of any other address, and its errors, fail the test."""
    contexts, wrong = [], []

    def tab(query="", **options):
        context = browser.new_context(**options)
        context.set_default_timeout(SECONDS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda asked: None if is_here(asked.url) else wrong.append(asked.url))
        page.goto(served.address + query)
        expect(page.locator(".picture")).to_be_visible(timeout=SECONDS)
        return page

    def is_here(url):
        return url.startswith((served.address, served.address.replace("http", "ws"), "data:", "blob:"))

    expect.set_options(timeout=SECONDS)
    yield tab
    for context in contexts:
        context.close()
    assert not wrong


def shows(page, sample):
    expect(page.locator(".picture")).to_have_attribute("data-sample", sample)


def opened_editor(page):
    """The field of a summary, once the page has put the caret at its end: what is written before lands there too."""
    field = page.locator(".editor textarea")
    expect(field).to_be_focused()
    return field


def test_edits_rejects_and_undoes_by_key_are_found_after_a_reload(served, tab):
    page = tab()
    shows(page, "1")
    expect(page.locator(".frame > img")).to_have_js_property("naturalWidth", 60)
    page.keyboard.press("a")
    shows(page, "2")
    page.keyboard.press("e")
    opened_editor(page)
    page.keyboard.press("Control+a")
    page.keyboard.press("Backspace")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text("a summary needs a word at least")).to_be_visible()
    expect(page.locator(".editor textarea")).to_be_focused()
    page.keyboard.type("A red square, no more.")
    page.keyboard.press("Control+Enter")
    # Keys belong to the next sample from here on.
    assert not page.evaluate("document.activeElement === editor()")
    shows(page, "3")
    page.keyboard.press("r")
    shows(page, "4")
    page.keyboard.press("r")
    shows(page, "5")
    page.keyboard.press("u")
    shows(page, "4")
    expect(page.locator(".state")).to_have_text("undecided")
    expected = {
        "1": ("accept", None, "ann"),
        "2": ("edit", "A red square, no more.", "ann"),
        "3": ("reject", None, "ann"),
    }
    assert served.decisions() == expected
    page.reload()
    shows(page, "4")
    expect(page.locator(".counts")).to_contain_text("3 of 6 decided")
    page.keyboard.press("u")
    shows(page, "3")
    page.keyboard.press("Control+z")
    shows(page, "2")
    expect(page.locator(".summary")).to_have_text("Picture 2 shows a red square.")
    assert served.decisions() == {"1": expected["1"]}


def test_the_same_by_click_with_filters(served, tab):
    page = tab("?reviewer=bob")
    page.get_by_role("button", name="Reject").click()
    shows(page, "2")
    page.get_by_role("button", name="Edit").click()
    opened_editor(page).fill("Something else.")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".summary")).to_have_text("Picture 2 shows a red square.")
    page.get_by_role("button", name="Edit").click()
    opened_editor(page).fill("A square.")
    page.get_by_role("button", name="Save").click()
    shows(page, "3")
    choose(page, "flag", "any flag")
    shows(page, "4")
    choose(page, "show", "all")
    page.get_by_role("button", name="Back").click()
    shows(page, "2")
    expect(page.locator(".summary")).to_have_text("A square.")
    page.reload()
    shows(page, "2")
    page.keyboard.press("ArrowRight")
    shows(page, "4")
    page.keyboard.press("ArrowRight")
    shows(page, "6")
    page.get_by_role("button", name="Accept").click()
    expect(page.get_by_text("there is no summary to accept")).to_be_visible()
    page.keyboard.press("?")
    expect(page.locator(".key-list")).to_be_visible()
    assert served.decisions() == {"1": ("reject", None, "bob"), "2": ("edit", "A square.", "bob")}


def choose(page, label, option):
    page.get_by_label(label, exact=True).click()
    page.get_by_role("option", name=re.compile(rf"^{option}")).click()
    expect(page.get_by_role("listbox")).to_have_count(0)


def test_decisions_and_what_is_being_typed_survive_a_kill(served, tab):
    page = tab()
    page.keyboard.press("a")
    shows(page, "2")
    page.keyboard.press("e")
    opened_editor(page).fill("Half a sent")
    served.stop(signal.SIGKILL)
    with served.waiting.work.decisions.open("ab") as file:
        file.write(b'{"sample": "3", "dec')
    served.start()
    # The page comes back by itself, where it was.
    expect(page.locator(".editor textarea")).to_be_hidden()
    shows(page, "2")
    page.keyboard.press("e")
    expect(opened_editor(page)).to_have_value("Half a sent")
    page.keyboard.type("ence.")
    page.keyboard.press("Control+Enter")
    shows(page, "3")
    _, said = served.stop()
    assert "cut off, as by a kill: line 2" in said
    assert "Traceback" not in said
    assert served.decisions() == {"1": ("accept", None, "ann"), "2": ("edit", "Half a sentence.", "ann")}


def test_two_reviewers_at_once_lose_nothing_and_see_each_other(served, tab):
    ann, bob = tab("?reviewer=ann"), tab("?reviewer=bob")
    ann.keyboard.press("a")
    expect(bob.locator(".state")).to_contain_text("accepted by ann")
    bob.keyboard.press("ArrowRight")
    shows(bob, "2")
    bob.keyboard.press("r")
    shows(bob, "3")
    expect(ann.locator(".counts")).to_contain_text("2 of 6 decided")
    # A third one, in a process of their own.
    Session(open_review(served.waiting.dataset), "eve", start="3").accept()
    expect(bob.locator(".state")).to_contain_text("accepted by eve")
    ann.keyboard.press("u")
    shows(ann, "1")
    assert served.decisions() == {"2": ("reject", None, "bob"), "3": ("accept", None, "eve")}


def test_a_key_that_was_meant_for_another_sample_decides_nothing(served, tab):
    page = tab()
    stale = {"action": "accept", "mark": page.locator(".picture").get_attribute("data-mark"), "sample": "1", "text": ""}
    page.keyboard.press("ArrowRight")
    shows(page, "2")
    page.evaluate(f"emitEvent('review', {json.dumps(stale)})")
    page.keyboard.press("r")
    shows(page, "3")
    assert served.decisions() == {"2": ("reject", None, "ann")}


def test_a_finished_review_says_so(served, tab):
    for name in "12345":
        Session(open_review(served.waiting.dataset), "eve", start=name).accept()
    page = tab()
    shows(page, "6")
    page.keyboard.press("r")
    expect(page.locator(".picture")).to_contain_text("Every one of the 6 samples is decided.")
    # Another's undo is seen too.
    Session(open_review(served.waiting.dataset), "eve").undo()
    shows(page, "5")
    page.keyboard.press("u")
    shows(page, "6")


def test_only_the_data_sets_pictures_are_served_and_to_this_machine_alone(served, tab):
    page = tab()
    source = page.locator(".frame > img").get_attribute("src")
    base = source.rsplit("/", 2)[0]
    for path in (
        f"{base}/0/..%2F..%2Fsecret",
        f"{base}/99/main",
        f"{base}/-1/main",
        "/pictures/0/main",
        f"{base}/../x",
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(served.address.rstrip("/") + path)
        assert refused.value.code in {404, 422}
    stranger = urllib.request.Request(served.address, headers={"Host": "elsewhere.example"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(stranger)


@pytest.mark.parametrize("width", [375, 1440])
def test_the_page_fits_its_window_and_does_not_jump(tab, width):
    page = tab(viewport={"width": width, "height": 800})
    keys = page.locator(".keys:visible").bounding_box()
    text = page.locator(".text").bounding_box()
    for sample in "23":
        page.keyboard.press("ArrowRight")
        shows(page, sample)
        assert page.locator(".keys:visible").bounding_box() == keys
        assert page.locator(".text").bounding_box() == text
    page.keyboard.press("e")
    opened_editor(page)
    assert page.locator(".text").bounding_box()["y"] == pytest.approx(text["y"], abs=2)
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_thousands_of_samples_open_as_fast_as_a_few(tab, served):
    row = served.waiting.rows[0]
    served.waiting.rows = [{**row, "id": f"{number}", "flags": []} for number in range(5_533)]
    served.waiting.write()
    served.stop()
    for number in range(0, 5_000, 25):
        decide(served.waiting.work.decisions, Decision(f"{number}", "accept", row["annotation"], None, "eve", now()))
    served.start()
    page = tab()
    expect(page.locator(".counts")).to_contain_text("200 of 5,533 decided")
    assert page.evaluate("document.querySelectorAll('*').length") < 400
    page.keyboard.press("a")
    expect(page.locator(".counts")).to_contain_text("201 of 5,533 decided")
