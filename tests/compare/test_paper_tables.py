"""The tables of a comparison, as a paper or a terminal takes them."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from runner.cli.tables import LEFT_OUT, comparison_tables
from runner.compare import paper_tables as written
from runner.compare.comparison import CompareOptions, compare
from runner.compare.resampling import Resampling


@pytest.fixture(scope="module")
def found(ablation):
    return compare(["swept"], ablation.runs, CompareOptions(by="arm", baseline="joint", resampling=Resampling(300)))


def printed(found, width, **what):
    console = Console(width=width, file=io.StringIO(), highlight=False)
    for table in comparison_tables(found, width=width, **{"full": False, "samples": False, **what}):
        console.print(table)
    return console.file.getvalue()


def test_markdown_has_a_row_a_test_and_as_many_cells_in_each(found):
    lines = [line for line in written.markdown(found).splitlines() if line.startswith("|")]
    tests = [line for line in lines if "ner_alone – joint" in line and "ner_f1" in line]
    assert len(tests) == 1
    [test] = [test for test in found.tests if (test.pair.a.label, test.metric) == ("ner_alone", "ner_f1")]
    over_samples, over_seeds = (test.low, test.high), (test.seeds.low, test.seeds.high)
    assert all(written.format_interval(low, high) in tests[0] for low, high in (over_samples, over_seeds))
    assert over_samples != over_seeds
    assert "Note: 3 seeds a group say little" in written.markdown(found)
    second = lines[next(place for place, line in enumerate(lines) if "comparison" in line) :]
    assert {line.count("|") for line in second} == {second[0].count("|")}


def test_latex_is_a_booktabs_table_with_nothing_left_unescaped(found):
    text = written.latex(found)
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == text.count(r"\toprule") == 2
    assert r"ner\_alone -- joint & ner\_f1 &" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert all("_" not in line.replace(r"\_", "") and "%" not in line.replace(r"\%", "") for line in rows)


@given(st.text(alphabet="\\&%$#_{}~^ab–±", max_size=12))
def test_every_letter_that_latex_reads_otherwise_is_escaped(text):
    escaped = written._tex(text)
    for command in sorted({*written.TEX.values()}, key=len, reverse=True):
        escaped = escaped.replace(command, "")
    assert set(escaped) <= set("ab ")


def test_intervals_and_parts_stand_in_the_tables_where_they_are_wanted(found):
    each = found.figures[0]["ner_f1"].seeds
    assert f"| joint | ner_f1 | {each.mean:.4f} | {each.std:.4f} | {each.low:.4f} to {each.high:.4f} |" in (
        written.markdown(found, full=True)
    )
    assert "by label and by number of segments" not in written.markdown(found)
    assert "| label person |" in written.markdown(found, full=True)


def test_a_wide_terminal_has_all_columns_and_a_small_one_the_surest(found):
    wide, small = printed(found, 140), printed(found, 80)
    assert all(column in wide for column in LEFT_OUT)
    assert "effect size, over seeds" in small
    assert "image_entity_accuracy" in small
    assert all(len(line) <= 80 for line in small.splitlines())


def test_samples_and_parts_are_listed_on_demand(found):
    plain, all_ = printed(found, 140), printed(found, 140, full=True, samples=True)
    assert "samples on which they disagree most" not in plain
    assert "samples on which they disagree most" in all_
    assert "label person" in all_


def test_one_group_alone_is_shown_with_both_intervals(ablation):
    alone = compare(
        ["swept"], ablation.runs, CompareOptions(by="experiment", resampling=Resampling(200), metrics=["ner_f1"])
    )
    assert "over seeds" in printed(alone, 120)
    assert "over samples" in printed(alone, 120)
