"""The documentation as a site: it builds without a warning, holds every option, and loads nothing from elsewhere."""

import os
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from itertools import takewhile
from typing import get_args
from urllib.parse import urlsplit

import pytest
import typer
from pydantic import BaseModel

from plugins.trainer.sft_options import SftOptions
from runner.cli.main import app
from runner.spec.dataset_spec import DatasetSpec
from runner.spec.experiment_spec import ExperimentSpec
from runner.stages import descriptions
from runner.stages.registry import STAGES, installed
from tests.conftest import ROOT

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site; strict, so that a broken link, anchor or snippet fails here."""
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


class Fetched(HTMLParser):
    """What a browser fetches for a page, and the texts of its headings."""

    def __init__(self, page):
        super().__init__()
        self.addresses, self.headings, self._heading = [], [], False
        self.feed(page.read_text())

    def handle_starttag(self, tag, attrs):
        told = dict(attrs)
        if tag in {"script", "img", "iframe", "source"} and told.get("src"):
            self.addresses.append(told["src"])
        if tag == "link" and told.get("rel") in {"stylesheet", "icon", "preconnect", "preload"}:
            self.addresses.append(told["href"])
        if tag in {"h1", "h2", "h3"}:
            self._heading = True
            self.headings.append("")

    def handle_endtag(self, tag):
        self._heading = self._heading and tag not in {"h1", "h2", "h3"}

    def handle_data(self, data):
        if self._heading:
            self.headings[-1] += data


def headings(page):
    return {heading.removesuffix("¶").strip() for heading in Fetched(page).headings}


def told_options(page):
    """The options of a page of the reference: the last names of the paths, less the type that some go with."""
    return {heading.partition(" with ")[0].rpartition(".")[2] for heading in headings(page)}


def test_nothing_is_fetched_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    fetched = {address for page in pages for address in Fetched(page).addresses}
    assert any(address.endswith(".css") for address in fetched)
    assert [address for address in fetched if urlsplit(address).netloc] == []
    styles = "".join(file.read_text() for file in site.rglob("*.css"))
    assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", styles)


def models_in(annotation):
    """The models that an annotation names, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models_in(inner)


def options(model, seen=()):
    """The name of every field of a model, and of the models inside it."""
    for name, field in model.model_fields.items():
        yield name
        for inner in models_in(field.annotation):
            if inner not in seen:
                yield from options(inner, (*seen, inner))


def own_sections():
    """Fields of the two kinds of spec that are the engine's own, with the start of their page's name."""
    for kind, folder in ((ExperimentSpec, "experiment"), (DatasetSpec, "dataset")):
        yield from ((kind, folder, name) for name in kind.model_fields if name not in kind.stages())


@pytest.mark.parametrize("stage", STAGES)
def test_every_option_of_every_plugin_is_in_the_reference(site, stage):
    kinds = {"source": "dataset", "annotator": "dataset"}
    section = "metrics" if stage == "metric" else stage
    page = site / "reference" / f"{kinds.get(stage, 'experiment')}-{section}.html"
    for name, plugin in installed(stage).items():
        assert name in headings(page)
        missing = set(options(plugin.options_class())) - told_options(page) - {"type"}
        assert not missing, name


@pytest.mark.parametrize(
    ("kind", "folder", "name"), list(own_sections()), ids=lambda each: getattr(each, "__name__", each)
)
def test_every_setting_of_the_engine_is_in_the_reference(site, kind, folder, name):
    assert name in headings(site / "reference" / f"{folder}.html")
    for model in models_in(kind.model_fields[name].annotation):
        missing = set(options(model)) - told_options(site / "reference" / f"{folder}-{name}.html") - {"type"}
        assert not missing, name


def test_type_default_and_docstring_of_an_option_are_told(site):
    page = unescape(re.sub(r"<[^>]+>", "", (site / "reference" / "experiment-trainer.html").read_text()))
    docstring = descriptions(SftOptions)["save_total_limit"]
    assert f"save_total_limit¶\nwhole number, above 0; default 1\n{docstring}\n" in page


def test_every_shipped_spec_has_a_page(site):
    for spec in (ROOT / "specs").glob("*.yaml"):
        page = unescape(re.sub(r"<[^>]+>", "", (site / "specs" / f"{spec.stem}.html").read_text()))
        assert spec.read_text().strip() in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere_on_github_too(page):
    prose = FENCE.sub("", page.read_text())
    for target in LINK.findall(prose):
        file = target.partition("#")[0]
        if file and "://" not in file:
            assert (page.parent / file).exists(), target


def commands(page):
    """The `runner` commands of a page, as words; what a shell or a reader would put in stays as it is written."""
    text = page.read_text().replace("\\\n", " ")
    blocks = [line for language, block in FENCE.findall(text) if not language for line in block.splitlines()]
    inline = re.findall(r"`((?:\w+=\S+ )*runner [a-z][^`]*)`", FENCE.sub("", text))
    for line in (*blocks, *inline):
        found = re.match(r"^(?:\$ )?(?:\w+=\S+ )*(?:\S*/)?runner (?P<rest>[a-z].*)$", line.strip())
        if found:
            words = found["rest"].split()
            yield list(takewhile(lambda word: word not in {"|", "&", "&&", "#", ">", "2>"}, words))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_has_the_options_it_is_shown_with(page):
    known_commands = typer.main.get_command(app).commands
    for words in commands(page):
        assert words[0] in known_commands, words
        known = {name for each in known_commands[words[0]].params for name in (*each.opts, *each.secondary_opts)}
        asked = [word.lstrip("[") for word in words[1:]]
        used = {re.split(r"[=\]|\\]", word)[0] for word in asked if word.startswith("-")}
        assert used <= known | {"--help"}, words
