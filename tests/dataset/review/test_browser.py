"""`runner review` in a real browser: keys, clicks, reloads, kills, and two reviewers at once."""

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
from urllib.parse import urlencode, urljoin

import pytest

from runner.dataset.review.access import review_token
from runner.dataset.review.decisions import Decision, append_decision, read_decisions, utc_now
from runner.dataset.review.queue import open_review
from runner.dataset.review.session import Session

CHROMIUM = shutil.which("chromium")
playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's package chromium"),
]
TIMEOUT_MS = 120_000
"""Timeout of the browser in milliseconds; long because a busy machine is slow."""


@dataclass
class ReviewServer:
    """A running review server that can be killed and restarted."""

    workplace: object
    pending_review: object
    port: int
    process: subprocess.Popen | None = None

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}/"

    @property
    def token(self):
        return review_token(self.pending_review.dataset)

    def url(self, path="", **query):
        return f"{self.address}{path}?{urlencode({'token': self.token, **query})}"

    def start(self):
        # With this variable, which pytest sets, NiceGUI would run in its own test mode.
        self.workplace.environment.pop("PYTEST_CURRENT_TEST", None)
        self.process = self.workplace.start(
            "review", self.pending_review.dataset, "--port", self.port, "--reviewer", "ann"
        )
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(self.url(), timeout=5):
                    return
            except OSError:
                time.sleep(0.3)
        raise AssertionError("the page is not served")

    def stop(self, number=signal.SIGINT):
        self.process.send_signal(number)
        return self.process.communicate(timeout=600)

    def decisions(self):
        """Return the current decision of each sample: verdict, reviewer's summary, and reviewer."""
        decisions = read_decisions(self.pending_review.work.decisions)
        return {name: (last.decision, last.summary, last.who) for name, (*_, last) in decisions.items()}


@pytest.fixture
def review_server(workplace, six_samples):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    review_server = ReviewServer(workplace, six_samples, port)
    review_server.start()
    yield review_server
    if review_server.process.poll() is None:
        review_server.stop()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


@pytest.fixture
def tab(browser, review_server):
    """Return a function that opens a page; script errors and requests to other addresses fail the test."""
    contexts, errors = [], []

    def tab(reviewer="ann", **options):
        context = browser.new_context(**options)
        context.set_default_timeout(TIMEOUT_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda sent: None if is_own_address(sent.url) else errors.append(sent.url))
        page.goto(review_server.url(reviewer=reviewer))
        expect(page.locator(".image-panel")).to_be_visible(timeout=TIMEOUT_MS)
        return page

    def is_own_address(url):
        return url.startswith((review_server.address, review_server.address.replace("http", "ws"), "data:", "blob:"))

    expect.set_options(timeout=TIMEOUT_MS)
    yield tab
    for context in contexts:
        context.close()
    assert not errors


def expect_sample(page, sample):
    expect(page.locator(".image-panel")).to_have_attribute("data-sample", sample)


def reload(page, sample):
    """Reload the page when its address, which changes after the content, has the sample."""
    expect(page).to_have_url(re.compile(rf"[?&]sample={re.escape(sample)}(&|$)"))
    page.reload()
    expect_sample(page, sample)


def opened_editor(page):
    """Return the text field once it has the focus; the page sets its text and the caret before that."""
    field = page.locator(".editor textarea")
    expect(field).to_be_focused()
    return field


def test_keyboard_decisions_survive_a_reload(review_server, tab):
    page = tab()
    expect_sample(page, "1")
    expect(page.locator(".frame > img")).to_have_js_property("naturalWidth", 60)
    page.keyboard.press("a")
    expect_sample(page, "2")
    page.keyboard.press("e")
    opened_editor(page)
    page.keyboard.press("Control+a")
    page.keyboard.press("Backspace")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text("A summary needs at least one word")).to_be_visible()
    expect(page.locator(".editor textarea")).to_be_focused()
    page.keyboard.type("A red square, no more.")
    page.keyboard.press("Control+Enter")
    # From here on, keys apply to the next sample.
    assert not page.evaluate("document.activeElement === editor()")
    expect_sample(page, "3")
    page.keyboard.press("r")
    expect_sample(page, "4")
    page.keyboard.press("r")
    expect_sample(page, "5")
    page.keyboard.press("u")
    expect_sample(page, "4")
    expect(page.locator(".state")).to_have_text("undecided")
    expected = {
        "1": ("accept", None, "ann"),
        "2": ("edit", "A red square, no more.", "ann"),
        "3": ("reject", None, "ann"),
    }
    assert review_server.decisions() == expected
    reload(page, "4")
    expect(page.locator(".counts")).to_contain_text("3 of 6 decided")
    page.keyboard.press("u")
    expect_sample(page, "3")
    page.keyboard.press("Control+z")
    expect_sample(page, "2")
    expect(page.locator(".summary")).to_have_text("Picture 2 shows a red square.")
    assert review_server.decisions() == {"1": expected["1"]}


def test_mouse_decisions_with_filters(review_server, tab):
    page = tab("bob")
    page.get_by_role("button", name="Reject").click()
    expect_sample(page, "2")
    page.get_by_role("button", name="Edit").click()
    opened_editor(page).fill("Something else.")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".summary")).to_have_text("Picture 2 shows a red square.")
    page.get_by_role("button", name="Edit").click()
    opened_editor(page).fill("A square.")
    page.get_by_role("button", name="Save").click()
    expect_sample(page, "3")
    choose(page, "Flag", "any flag")
    expect_sample(page, "4")
    choose(page, "State", "all")
    page.get_by_role("button", name="Back").click()
    expect_sample(page, "2")
    expect(page.locator(".summary")).to_have_text("A square.")
    reload(page, "2")
    page.keyboard.press("ArrowRight")
    expect_sample(page, "4")
    page.keyboard.press("ArrowRight")
    expect_sample(page, "6")
    page.get_by_role("button", name="Accept").click()
    expect(page.get_by_text("There is no summary to accept")).to_be_visible()
    page.keyboard.press("?")
    expect(page.locator(".key-list")).to_be_visible()
    assert review_server.decisions() == {"1": ("reject", None, "bob"), "2": ("edit", "A square.", "bob")}


def choose(page, label, option):
    page.get_by_label(label, exact=True).click()
    page.get_by_role("option", name=re.compile(rf"^{option}")).click()
    expect(page.get_by_role("listbox")).to_have_count(0)


def test_decisions_and_drafts_survive_a_kill(review_server, tab):
    page = tab()
    page.keyboard.press("a")
    expect_sample(page, "2")
    page.keyboard.press("e")
    opened_editor(page).fill("Half a sent")
    review_server.stop(signal.SIGKILL)
    with review_server.pending_review.work.decisions.open("ab") as file:
        file.write(b'{"sample": "3", "dec')
    review_server.start()
    # The page reconnects by itself and shows the same sample.
    expect(page.locator(".editor textarea")).to_be_hidden()
    expect_sample(page, "2")
    page.keyboard.press("e")
    expect(opened_editor(page)).to_have_value("Half a sent")
    page.keyboard.type("ence.")
    page.keyboard.press("Control+Enter")
    expect_sample(page, "3")
    _, messages = review_server.stop()
    assert "truncated, as by a kill: line 2" in messages
    assert "Traceback" not in messages
    assert review_server.decisions() == {"1": ("accept", None, "ann"), "2": ("edit", "Half a sentence.", "ann")}


def test_two_reviewers_see_each_other_and_lose_nothing(review_server, tab):
    ann, bob = tab("ann"), tab("bob")
    ann.keyboard.press("a")
    expect(bob.locator(".state")).to_contain_text("accepted by ann")
    bob.keyboard.press("ArrowRight")
    expect_sample(bob, "2")
    bob.keyboard.press("r")
    expect_sample(bob, "3")
    expect(ann.locator(".counts")).to_contain_text("2 of 6 decided")
    # A third reviewer in another process.
    Session(open_review(review_server.pending_review.dataset), "eve", start="3").accept()
    expect(bob.locator(".state")).to_contain_text("accepted by eve")
    ann.keyboard.press("u")
    expect_sample(ann, "1")
    assert review_server.decisions() == {"2": ("reject", None, "bob"), "3": ("accept", None, "eve")}


def test_outdated_action_is_ignored(review_server, tab):
    page = tab()
    stale = {
        "action": "accept",
        "version": page.locator(".image-panel").get_attribute("data-version"),
        "sample": "1",
        "text": "",
    }
    page.keyboard.press("ArrowRight")
    expect_sample(page, "2")
    page.evaluate(f"emitEvent('review', {json.dumps(stale)})")
    page.keyboard.press("r")
    expect_sample(page, "3")
    assert review_server.decisions() == {"2": ("reject", None, "ann")}


def test_finished_review_shows_a_message(review_server, tab):
    for name in "12345":
        Session(open_review(review_server.pending_review.dataset), "eve", start=name).accept()
    page = tab()
    expect_sample(page, "6")
    page.keyboard.press("r")
    expect(page.locator(".image-panel")).to_contain_text("All 6 samples are decided.")
    # The page also shows the undo of another reviewer.
    Session(open_review(review_server.pending_review.dataset), "eve").undo()
    expect_sample(page, "5")
    page.keyboard.press("u")
    expect_sample(page, "6")


def test_only_images_of_the_data_set_are_served_to_this_machine_only(review_server, tab):
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
            urllib.request.urlopen(review_server.url(path.lstrip("/")))
        assert refused.value.code in {404, 422}
    stranger = urllib.request.Request(review_server.url(), headers={"Host": "elsewhere.example"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(stranger)


def test_a_request_needs_the_token_and_comes_from_no_other_page(review_server, tab):
    page = tab()
    image = urljoin(review_server.address, page.locator(".frame > img").get_attribute("src"))
    with urllib.request.urlopen(review_server.url()) as answer:
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Content-Security-Policy"] == "frame-ancestors 'none'"
        cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    header = {"Cookie": cookie.partition(";")[0]}
    with urllib.request.urlopen(urllib.request.Request(image, headers=header)) as answer:
        assert answer.status == 200
    refused = [
        (review_server.address, {}),
        (image, {}),
        (f"{review_server.address}?token={review_server.token[:-1]}", {}),
        (f"{review_server.address}?token=", {"Cookie": header["Cookie"][:-1]}),
        (review_server.url(), {"Origin": "http://elsewhere.example"}),
        (image, {**header, "Origin": "null"}),
    ]
    for url, headers in refused:
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(urllib.request.Request(url, headers=headers))


@pytest.mark.parametrize("width", [375, 1440])
def test_layout_fits_the_window_and_is_stable(tab, width):
    page = tab(viewport={"width": width, "height": 800})
    keys = page.locator(".actions:visible").bounding_box()
    text = page.locator(".text").bounding_box()
    for sample in "23":
        page.keyboard.press("ArrowRight")
        expect_sample(page, sample)
        assert page.locator(".actions:visible").bounding_box() == keys
        assert page.locator(".text").bounding_box() == text
    page.keyboard.press("e")
    opened_editor(page)
    assert page.locator(".text").bounding_box()["y"] == pytest.approx(text["y"], abs=2)
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_boxes_can_be_hidden_and_shown_again_on_a_phone(tab):
    page = tab(viewport={"width": 375, "height": 667}, has_touch=True, is_mobile=True)
    box = page.locator(".box")
    hide = page.get_by_role("button", name="Hide boxes")
    show = page.get_by_role("button", name="Show boxes")
    expect(box).to_be_visible()
    expect(show).to_have_count(0)
    size = hide.bounding_box()
    assert min(size["width"], size["height"]) >= 44
    hide.tap()
    expect(box).to_be_hidden()
    expect(page.locator(".frame > img")).to_be_visible()
    size = show.bounding_box()
    assert min(size["width"], size["height"]) >= 44
    # The next sample keeps the setting.
    page.get_by_role("button", name="Next").tap()
    expect_sample(page, "2")
    expect(box).to_be_hidden()
    show.tap()
    expect(box).to_be_visible()
    page.keyboard.press("b")
    expect(box).to_be_hidden()
    page.keyboard.press("b")
    expect(box).to_be_visible()
    # During an edit, the letter is typed and the button still works.
    page.get_by_role("button", name="Edit").tap()
    opened_editor(page)
    page.keyboard.press("b")
    expect(box).to_be_visible()
    expect(page.locator(".editor textarea")).to_have_value("Picture 2 shows a red square.b")
    size = hide.bounding_box()
    assert min(size["width"], size["height"]) >= 44
    hide.tap()
    expect(box).to_be_hidden()
    expect(page.locator(".editor textarea")).to_have_value("Picture 2 shows a red square.b")


def test_page_stays_small_with_thousands_of_samples(tab, review_server):
    row = review_server.pending_review.rows[0]
    review_server.pending_review.rows = [{**row, "id": f"{number}", "flags": []} for number in range(5_533)]
    review_server.pending_review.write()
    review_server.stop()
    for number in range(0, 5_000, 25):
        append_decision(
            review_server.pending_review.work.decisions,
            Decision(f"{number}", "accept", row["annotation"], None, "eve", utc_now()),
        )
    review_server.start()
    page = tab()
    expect(page.locator(".counts")).to_contain_text("200 of 5,533 decided")
    assert page.evaluate("document.querySelectorAll('*').length") < 400
    page.keyboard.press("a")
    expect(page.locator(".counts")).to_contain_text("201 of 5,533 decided")


def test_a_box_is_flagged_by_click_button_and_key(tab, review_server):
    page = tab()
    expect_sample(page, "1")
    page.locator(".frame .box").click()
    expect(page.locator(".frame .box.wrong")).to_be_visible()
    expect(page.locator(".flag-box")).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".flag")).to_have_text("⚑ wrong box")
    page.locator(".flag-box").click()
    expect(page.locator(".frame .box.wrong")).to_have_count(0)
    page.keyboard.press("1")
    expect(page.locator(".frame .box.wrong")).to_be_visible()
    expect_sample(page, "1")
    lines = review_server.pending_review.work.box_flags.read_text().splitlines()
    assert [json.loads(line)["wrong"] for line in lines] == [True, False, True]
    assert review_server.decisions() == {}
