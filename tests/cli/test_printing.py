"""Texts of others are shown on the terminal, and neither obeyed nor lost."""

import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from runner.cli.console import PlainConsole
from runner.cli.printing import print_json, print_text, printable
from runner.cli.progress import Terminal
from runner.cli.results_display import metrics_table
from runner.cli.status_display import status_table

MARKUP = ["[red]x[/red]", "[/]", "[/b]", "a [bold", "[link=https://a.example]b[/link]", ":smile:", "\\[x]", "[1, 2]"]
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@given(st.text(st.characters()))
def test_printable_text_has_no_control_characters_and_loses_nothing_else(text):
    shown = printable(text)
    assert not CONTROL.search(shown)
    shown.encode()
    assert printable(shown) == shown
    if not CONTROL.search(text) and shown == text:
        assert printable(f"{text}\x1b]0;title\x07") == f"{text}\\x1b]0;title\\x07"


def test_lines_and_tabs_stay():
    assert printable("a\tb\nc\r\nd") == "a\tb\nc\nd"
    assert printable("a\rb \x9b31m \u202e \ud800") == "a\\rb \\x9b31m \\u202e \\ud800"


@given(
    st.recursive(
        st.text(st.characters()) | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_json_output_has_no_control_characters_and_the_same_content(document):
    file = io.StringIO()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sys.stdout", file)
        print_json(document)
    assert json.loads(file.getvalue()) == document
    assert file.getvalue().endswith("\n")
    assert not CONTROL.search(file.getvalue())
    file.getvalue().encode()


def test_text_goes_to_a_file():
    file = io.StringIO()
    print_text("a\x1b[31m", end="", file=file)
    assert file.getvalue() == "a\\x1b[31m"


def shown(*renderables, **options):
    file = io.StringIO()
    console = PlainConsole(file=file, width=300, **options)
    for renderable in renderables:
        console.print(renderable)
    return file.getvalue()


@pytest.mark.parametrize("text", MARKUP)
def test_a_table_shows_markup_in_all_its_parts(text):
    table = Table(title=text, caption=text, show_footer=True)
    table.add_column(text, footer=text)
    table.add_row(text)
    table.add_row(Text(text, "red"))
    assert shown(table).count(text) == 6
    assert shown(text) == f"{text}\n"


def test_only_styles_of_the_program_reach_a_terminal():
    table = Table()
    table.add_column("a\x1b[31mb")
    table.add_row(Text("c\x1b]0;x\x07d", "red"))
    output = shown(table, "e\x9bf", force_terminal=True, color_system="standard")
    assert "a\\x1b[31mb" in re.sub(r"\x1b\[[\d;]*m", "", output)
    assert "c\\x1b]0;x" in output
    assert "e\\x9bf" in output
    assert set(re.findall(r"\x1b.{2}", output)) <= {"\x1b[0", "\x1b[1", "\x1b[3"}


@pytest.mark.parametrize("text", [*MARKUP, "a\x1b[31mb"])
def test_messages_and_progress_show_markup(text):
    file = io.StringIO()
    terminal = Terminal(file)
    terminal.say(text)
    terminal.warn(text)
    terminal.problem(text)
    terminal.progress(text, 1, 1, {text: 1.0})
    assert file.getvalue().count(printable(text)) >= 4
    assert "\x1b" not in file.getvalue()


@pytest.mark.parametrize("text", MARKUP)
def test_live_progress_shows_markup(text):
    file = io.StringIO()
    terminal = Terminal(file)
    terminal.console = PlainConsole(file=file, force_terminal=True, width=200, color_system=None)
    terminal.live = True
    terminal.progress("train", 1, 2, {text: 1.0})
    terminal.close()
    assert text in file.getvalue()


@pytest.mark.parametrize("text", MARKUP)
def test_results_and_status_show_markup(text):
    trial = {
        **{"name": text, "status": "running", "error": text, "age": 1000.0, "stage": "train", "done": 1, "total": 2},
        **{
            "eta_seconds": None,
            "trial_eta_seconds": None,
            "resumed_from_step": None,
            "gpu_utilization": None,
            "metrics": {},
        },
    }
    status = shown(status_table({"experiment": text, "trials": [trial]}))
    results = shown(metrics_table(text, [(text, {f"ner_f1/{text}": 1.0, text: None})]))
    word = "".join(text.split())
    assert "".join(status.split()).count(word) == 3
    assert "".join(results.split()).count(word) == 4


def test_commands_print_only_by_these_functions():
    folder = Path(__file__).parent.parent.parent / "runner" / "cli"
    for file in folder.glob("*.py"):
        if file.name not in {"printing.py", "console.py"}:
            text = file.read_text()
            assert not re.search(r"(?<![\w.])print\(|\bConsole\(|sys\.std\w+\.write|typer\.echo|rich\.markup", text), (
                file
            )
