"""The tables of a comparison in Markdown, LaTeX and on a terminal."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from runner.cli.comparison_display import OMISSIBLE_COLUMNS, comparison_tables
from runner.compare import tables as paper_tables
from runner.compare.comparison import CompareOptions, compare
from runner.compare.resampling import Resampling
from runner.compare.tables import _escape_markdown


@pytest.fixture(scope="module")
def comparison(ablation):
    return compare(["swept"], ablation.runs, CompareOptions(by="arm", baseline="joint", resampling=Resampling(300)))


def printed(comparison, width, **options):
    console = Console(width=width, file=io.StringIO(), highlight=False)
    for table in comparison_tables(comparison, width=width, **{"full": False, "samples": False, **options}):
        console.print(table)
    return console.file.getvalue()


def test_markdown_has_a_row_a_test_and_as_many_cells_in_each(comparison):
    lines = [line for line in paper_tables.markdown(comparison).splitlines() if line.startswith("|")]
    tests = [line for line in lines if "ner_alone vs joint" in line and "ner_f1" in line]
    assert len(tests) == 1
    [test] = [test for test in comparison.tests if (test.pair.a.label, test.metric) == ("ner_alone", "ner_f1")]
    over_samples, over_seeds = (test.low, test.high), (test.seeds.low, test.seeds.high)
    assert all(paper_tables.format_interval(low, high) in tests[0] for low, high in (over_samples, over_seeds))
    assert over_samples != over_seeds
    assert "Note: only 3 seeds per group" in paper_tables.markdown(comparison)
    second = lines[next(place for place, line in enumerate(lines) if "a vs b" in line) :]
    assert {line.count("|") for line in second} == {second[0].count("|")}


def test_latex_is_a_booktabs_table_with_nothing_left_unescaped(comparison):
    text = paper_tables.latex(comparison)
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == text.count(r"\toprule") == 2
    assert r"ner\_alone vs joint & ner\_f1 &" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert all("_" not in line.replace(r"\_", "") and "%" not in line.replace(r"\%", "") for line in rows)


@given(st.text(alphabet="\\&%$#_{}~^ab–±", max_size=12))
def test_every_special_character_of_latex_is_escaped(text):
    escaped = paper_tables._escape_latex(text)
    for command in sorted({*paper_tables.LATEX_ESCAPES.values()}, key=len, reverse=True):
        escaped = escaped.replace(command, "")
    assert set(escaped) <= set("ab ")


def test_intervals_and_subgroups_are_in_the_full_tables(comparison):
    seeds = comparison.group_metrics[0]["ner_f1"].seeds
    assert f"| joint | ner_f1 | {seeds.mean:.4f} | {seeds.std:.4f} | {seeds.low:.4f} to {seeds.high:.4f} |" in (
        paper_tables.markdown(comparison, full=True)
    )
    assert "by label and by number of segments" not in paper_tables.markdown(comparison)
    assert "| label person |" in paper_tables.markdown(comparison, full=True)


def test_a_narrow_terminal_omits_the_p_values_before_the_interval_over_seeds(comparison):
    wide, small = printed(comparison, 190, full=True), printed(comparison, 80)
    assert all(column in wide for column in OMISSIBLE_COLUMNS)
    assert "omitted" not in wide
    assert "omitted: effect size, p, a, b, p (Holm) (see" in small
    tests = small[small.index("differences of means") :]
    seeds = comparison.tests[0].seeds
    assert paper_tables.format_interval(seeds.low, seeds.high) in tests
    assert "image_entity_accuracy" in tests
    assert all(len(line) <= 80 for line in small.splitlines())


def omitted_columns(comparison, width):
    _, table = comparison_tables(comparison, full=False, samples=False, width=width)
    caption = str(table.caption or "")
    return caption.removeprefix("omitted: ").partition(" (see")[0].split(", ") if caption else []


@pytest.mark.parametrize("width", range(40, 170, 10))
def test_columns_are_omitted_in_order_and_no_wider_table_omits_more(comparison, width):
    narrow, wide = (omitted_columns(comparison, each) for each in (width, width + 10))
    if width >= 80:
        _, tests = comparison_tables(comparison, full=False, samples=False, width=width)
        console = Console(width=width, file=io.StringIO())
        console.print(tests)
        assert "…" not in console.file.getvalue()
    assert narrow == list(OMISSIBLE_COLUMNS[: len(narrow)])
    assert len(wide) <= len(narrow)


def test_the_interval_over_both_sources_is_in_the_full_tables(comparison):
    [test] = [test for test in comparison.tests if (test.pair.a.label, test.metric) == ("ner_alone", "ner_f1")]
    interval = paper_tables.format_interval(test.both.low, test.both.high)
    assert interval not in paper_tables.markdown(comparison)
    assert "| 95% over both |" in paper_tables.markdown(comparison, full=True)
    assert interval in paper_tables.markdown(comparison, full=True)
    assert interval in printed(comparison, 190, full=True)
    assert "over both" not in printed(comparison, 40)


def test_samples_and_subgroups_are_listed_on_request(comparison):
    plain, all_ = printed(comparison, 140), printed(comparison, 140, full=True, samples=True)
    assert "samples with the largest disagreement" not in plain
    assert "samples with the largest disagreement" in all_
    assert "label person" in all_


def test_a_single_group_is_shown_with_both_intervals(ablation):
    alone = compare(
        ["swept"], ablation.runs, CompareOptions(by="experiment", resampling=Resampling(200), metrics=["ner_f1"])
    )
    assert "over seeds" in printed(alone, 120)
    assert "over samples" in printed(alone, 120)


def test_markdown_shows_texts_of_others_as_text():
    texts = ["a|b", "[x](https://a.example)", "<img src=x>", "`c`", "two\nlines", "[1, 2]", "ner_f1"]
    shown = [r"a\|b", r"[x]\(https://a.example)", r"\<img src=x>", r"\`c\`", "two lines", "[1, 2]", "ner_f1"]
    assert [_escape_markdown(text) for text in texts] == shown
