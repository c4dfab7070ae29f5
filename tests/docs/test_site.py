"""The documentation site builds without warnings, contains every option, and loads nothing from other hosts."""

import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from html import unescape
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import takewhile
from threading import Thread
from typing import get_args
from urllib.parse import urlsplit

import pytest
import typer
from pydantic import BaseModel

from plugins.trainer.sft_options import SftOptions
from runner.cli.main import app
from runner.spec.dataset_spec import DatasetSpec
from runner.spec.experiment_spec import ExperimentSpec
from runner.stages import field_descriptions
from runner.stages.registry import STAGES, installed_plugins
from tests.conftest import ROOT

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site; the strict mode makes broken links, anchors and snippets fail."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class ParsedPage(HTMLParser):
    """The addresses that a browser fetches for a page, and the texts of the headings."""

    def __init__(self, page):
        super().__init__()
        self.addresses, self.headings, self._heading = [], [], False
        self.feed(page.read_text())

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag in {"script", "img", "iframe", "source"} and attributes.get("src"):
            self.addresses.append(attributes["src"])
        if tag == "link" and attributes.get("rel") in {"stylesheet", "icon", "preconnect", "preload"}:
            self.addresses.append(attributes["href"])
        if tag in {"h1", "h2", "h3"}:
            self._heading = True
            self.headings.append("")

    def handle_endtag(self, tag):
        self._heading = self._heading and tag not in {"h1", "h2", "h3"}

    def handle_data(self, data):
        if self._heading:
            self.headings[-1] += data


def headings(page):
    return {heading.removesuffix("¶").strip() for heading in ParsedPage(page).headings}


def documented_options(page):
    """Return the options on a page of the reference: the last names of their paths, without types."""
    return {heading.partition(" with ")[0].rpartition(".")[2] for heading in headings(page)}


def test_nothing_is_fetched_from_other_hosts(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    fetched = {address for page in pages for address in ParsedPage(page).addresses}
    assert any(address.endswith(".css") for address in fetched)
    assert [address for address in fetched if urlsplit(address).netloc] == []
    styles = "".join(file.read_text() for file in site.rglob("*.css"))
    assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", styles)


def models_in(annotation):
    """Yield the models in an annotation at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models_in(inner)


def option_names(model, seen=()):
    """Yield the names of all fields of a model and of its nested models."""
    for name, field in model.model_fields.items():
        yield name
        for inner in models_in(field.annotation):
            if inner not in seen:
                yield from option_names(inner, (*seen, inner))


def engine_sections():
    """Yield the fields of both kinds of spec that are not plugins, with the prefix of their page."""
    for kind, folder in ((ExperimentSpec, "experiment"), (DatasetSpec, "dataset")):
        yield from ((kind, folder, name) for name in kind.model_fields if name not in kind.stages())


@pytest.mark.parametrize("stage", STAGES)
def test_every_option_of_every_plugin_is_in_the_reference(site, stage):
    kinds = {"source": "dataset", "annotator": "dataset"}
    section = "metrics" if stage == "metric" else stage
    page = site / "reference" / f"{kinds.get(stage, 'experiment')}-{section}.html"
    for name, plugin in installed_plugins(stage).items():
        assert name in headings(page)
        missing = set(option_names(plugin.options_class())) - documented_options(page) - {"type"}
        assert not missing, name


@pytest.mark.parametrize(
    ("kind", "folder", "name"), list(engine_sections()), ids=lambda value: getattr(value, "__name__", value)
)
def test_every_setting_of_the_engine_is_in_the_reference(site, kind, folder, name):
    assert name in headings(site / "reference" / f"{folder}.html")
    for model in models_in(kind.model_fields[name].annotation):
        missing = set(option_names(model)) - documented_options(site / "reference" / f"{folder}-{name}.html") - {"type"}
        assert not missing, name


def test_type_default_and_docstring_of_an_option_are_shown(site):
    page = unescape(re.sub(r"<[^>]+>", "", (site / "reference" / "experiment-trainer.html").read_text()))
    docstring = field_descriptions(SftOptions)["save_total_limit"]
    assert f"save_total_limit¶\nwhole number, above 0; default 2\n{docstring}\n" in page


def test_every_shipped_spec_has_a_page(site):
    for spec in (ROOT / "specs").glob("*.yaml"):
        page = unescape(re.sub(r"<[^>]+>", "", (site / "specs" / f"{spec.stem}.html").read_text()))
        assert spec.read_text().strip() in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_also_work_on_github(page):
    prose = FENCE.sub("", page.read_text())
    for target in LINK.findall(prose):
        file = target.partition("#")[0]
        if file and "://" not in file:
            assert (page.parent / file).exists(), target


def commands(page):
    """Yield the `runner` commands of a page as words; placeholders and shell variables stay as written."""
    text = page.read_text().replace("\\\n", " ")
    blocks = [line for language, block in FENCE.findall(text) if not language for line in block.splitlines()]
    inline = re.findall(r"`((?:\w+=\S+ )*runner [a-z][^`]*)`", FENCE.sub("", text))
    for line in (*blocks, *inline):
        match = re.match(r"^(?:\$ )?(?:\w+=\S+ )*(?:\S*/)?runner (?P<rest>[a-z].*)$", line.strip())
        if match:
            words = match["rest"].split()
            yield list(takewhile(lambda word: word not in {"|", "&", "&&", "#", ">", "2>"}, words))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_on_pages_use_existing_options(page):
    known_commands = typer.main.get_command(app).commands
    for words in commands(page):
        assert words[0] in known_commands, words
        known = {name for option in known_commands[words[0]].params for name in (*option.opts, *option.secondary_opts)}
        # After `--` follow options of another program.
        arguments = list(takewhile(lambda word: word != "--", (word.lstrip("[") for word in words[1:])))
        used = {re.split(r"[=\]|\\]", word)[0] for word in arguments if word.startswith("-")}
        assert used <= known | {"--help"}, words


INCLUDED = [
    (page, file) for page in PAGES for file in re.findall(r'^--8<-- "(.+)"$', page.read_text(), flags=re.MULTILINE)
]


@pytest.mark.parametrize(("page", "file"), INCLUDED, ids=lambda value: value if isinstance(value, str) else value.stem)
def test_plugin_pages_contain_their_examples(site, page, file):
    """A formatter can break the include marker of a page, which the page then shows instead of the file."""
    html = (site / page.relative_to(ROOT / "docs").with_suffix(".html")).read_text()
    text = " ".join(unescape(re.sub(r"<[^>]+>", "", html)).split())
    assert " ".join((ROOT / file).read_text().split()) in text


def test_every_kind_of_plugin_has_an_example_on_its_page():
    assert {page.stem for page, _ in INCLUDED} == {*STAGES}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
def test_the_copy_button_copies_commands_without_their_output(site):
    from playwright.sync_api import sync_playwright

    with serve(site) as address, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_context(permissions=["clipboard-read", "clipboard-write"]).new_page()
        page.goto(f"{address}/tutorial.html")
        page.wait_for_selector("[data-clipboard-target]", state="attached")
        copied = []
        for button in page.query_selector_all("[data-clipboard-target]"):
            button.evaluate("button => button.click()")
            page.wait_for_timeout(100)
            copied.append(page.evaluate("navigator.clipboard.readText()"))
        browser.close()
    assert "make demo\nsource .venv/bin/activate" in copied
    assert "runner init first" in copied
    assert not any(text.startswith("$ ") for text in copied)


@contextmanager
def serve(folder):
    """Serve a folder on this machine; gives the address."""
    handler = partial(QuietHandler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files and prints nothing."""

    def log_message(self, *_):
        """Print nothing."""
