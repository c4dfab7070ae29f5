"""Published results beside the runs: read from files with errors by line, shown in every format, never tested."""

import json
import re
from decimal import Decimal
from importlib.metadata import entry_points

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from runner.cli.comparison_display import comparison_tables
from runner.compare import tables as paper_tables
from runner.compare.comparison import CompareOptions, compare
from runner.compare.comparison_page import write_page
from runner.compare.published import GROUP, read_published
from runner.compare.resampling import Resampling
from runner.errors import SpecError
from tests.command import run_in_process

TABLE = """\
title: Drawn tweets & more
split: test split of a paper
num_samples: 1500
unit: percent
caveats: [Scored by another rule.]
sources:
  Author 2025: Author et al., A Paper, 2025, table 1
methods:
  - {name: Old_Method, source: Author 2025, metrics: {ner_f1: 56.41, gmner_f1: 48.5}}
  - {name: New, source: Author 2025, metrics: {ner_f1: 58.60}, caveat: larger model}
"""


@pytest.fixture
def table(tmp_path):
    file = tmp_path / "published.yaml"
    file.write_text(TABLE)
    return file


def compared(ablation, *published, **options):
    request = CompareOptions(by="arm", baseline="joint", resampling=Resampling(100), published=published, **options)
    return compare(["swept"], ablation.runs, request)


@pytest.mark.parametrize("name", sorted(entry_points(group=GROUP).names))
def test_every_installed_table_is_valid_and_names_its_split_and_caveats(name):
    [table] = read_published([name])
    assert table.results.split
    assert table.results.caveats
    assert set(table.metric_names) <= {"gmner_f1", "mner_f1", "eeg_f1"}
    assert all(Decimal("0.3") < value < 1 for values in table.values for value in values.values())


def test_the_table_of_gmner_has_the_values_of_the_papers():
    [table] = read_published(["gmner"])
    values = {method.name: row for method, row in zip(table.results.methods, table.values, strict=True)}
    assert values["H-Index"] == {
        "gmner_f1": Decimal("0.5641"),
        "mner_f1": Decimal("0.7973"),
        "eeg_f1": Decimal("0.6118"),
    }
    assert values["E2E-GMNER"] == {"gmner_f1": Decimal("0.6394")}


@given(st.decimals(0, 100, places=2), st.sampled_from(["percent", "fraction"]))
def test_a_value_keeps_its_digits_whatever_its_unit(tmp_path_factory, value, unit):
    number = value if unit == "percent" else value / 100
    file = tmp_path_factory.getbasetemp() / "digits.yaml"
    metrics = {"a": float(number), "b": 50.0 if unit == "percent" else 0.5}
    method = {"name": "m", "source": "s", "metrics": metrics}
    document = {"title": "t", "split": "s", "unit": unit, "sources": {"s": "S"}, "methods": [method]}
    file.write_text(json.dumps(document))
    [table] = read_published([str(file)])
    assert table.values[0]["a"] == value / 100


def test_every_format_separates_published_values_from_those_of_the_runs(ablation, table):
    comparison = compared(ablation, str(table))
    groups = [group.label for group in comparison.groups]
    [shown] = paper_tables.published_tables(comparison)
    assert [row[0] for row in shown.rows] == [*groups, "Old_Method", "New"]
    assert shown.num_own_rows == len(groups)
    assert shown.headings == ["", "source", "ner_f1", "gmner_f1"]
    assert shown.rows[-2:] == [
        ["Old_Method", "Author 2025", "0.5641", "0.485"],
        ["New", "Author 2025", "0.586", paper_tables.MISSING],
    ]
    mean = paper_tables.format_value(comparison.group_metrics[0]["ner_f1"].seeds.mean)
    assert shown.rows[0] == ["joint", "this comparison", mean, paper_tables.MISSING]
    markdown = paper_tables.markdown(comparison).splitlines()
    assert markdown.index("| *published* |  |  |  |") + 1 == markdown.index(
        "| Old_Method | Author 2025 | 0.5641 | 0.485 |"
    )
    assert "\\midrule\n    Old\\_Method & Author 2025 & 0.5641" in paper_tables.latex(comparison)
    [*_, terminal] = comparison_tables(comparison, full=False, samples=False, width=100)
    assert [row.end_section for row in terminal.rows] == [False] * (len(groups) - 1) + [True, False, False]


def test_nothing_is_tested_against_published_values(ablation, table):
    plain, beside = compared(ablation), compared(ablation, str(table))
    assert beside.tests == plain.tests
    document = beside.as_json()
    [published] = document.pop("published")
    warnings = document["warnings"]
    assert document == plain.as_json()
    assert not any("published" in warning for warning in warnings)
    assert published["methods"][0]["metrics"] == {"ner_f1": 0.5641, "gmner_f1": 0.485}
    assert not {"low", "high", "p_value"} & {key for method in published["methods"] for key in method}


def test_notes_tell_other_samples_missing_metrics_caveats_and_citations(ablation, table):
    notes = "\n".join(compared(ablation, str(table)).notes)
    for text in (
        "the runs were scored on 40 samples and the methods on 1,500 (test split of a paper)",
        "no run has the metric 'gmner_f1'",
        "Scored by another rule",
        "New: larger model",
        "[Author 2025] Author et al., A Paper, 2025, table 1",
    ):
        assert f"published (Drawn tweets & more): {text}" in notes
    table.write_text(TABLE.replace("num_samples: 1500\n", "num_samples: 40\n").replace("gmner_f1", "ner_f_1"))
    notes = "\n".join(compared(ablation, str(table)).notes)
    assert "scored on 40 samples" not in notes
    assert "no run has the metric 'ner_f_1', and no metric plugin; did you mean 'ner_f1'?" in notes


def test_the_page_has_a_section_of_its_own(ablation, table, tmp_path):
    write_page(tmp_path / "page.html", compared(ablation, str(table), num_disagreements=2))
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    [section] = re.findall(r'id="published1" open>.*?</details>', text, re.DOTALL)
    assert "Drawn tweets &amp; more: not tested" in section
    assert section.index('<tr class="published">') < section.index("Old_Method") < section.index("New")
    assert section.index("this comparison") < section.index('<tr class="published">')
    assert "[Author 2025] Author et al." in section
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", text)


def test_chosen_metrics_limit_the_table(ablation, table):
    [shown] = paper_tables.published_tables(compared(ablation, str(table), metrics=["bleu", "ner_f1"]))
    assert shown.headings == ["", "source", "ner_f1"]
    with pytest.raises(SpecError, match=r"none of the metrics of --metric; it has: ner_f1, gmner_f1"):
        compared(ablation, str(table), metrics=["bleu"])


MISTAKES = [
    ("unit: percent", "unit: percents", r":4:\d+: unit: 'percents' is not valid; did you mean 'percent'"),
    ("caveats:", "caveat:", r":5:\d+: caveat: unknown key 'caveat'; did you mean 'caveats'"),
    (
        "name: New, source: Author 2025",
        "name: New, source: Autor 2025",
        r":10:\d+: methods\.1\.source: no source 'Autor 2025'; did you mean 'Author 2025'",
    ),
    ("ner_f1: 58.60", "ner_f1: 158.60", r":10:\d+: methods\.1\.metrics\.ner_f1: must be between 0 and 100 with `unit"),
    ("name: New", "name: Old_Method", r":10:\d+: methods\.1\.name: 'Old_Method' occurs twice \(first on line 9\)"),
    ("ner_f1: 58.60", "ner_f1: high", r":10:\d+: methods\.1\.metrics\.ner_f1: "),
    ("title: Drawn tweets & more\n", "", r"title: is missing: The name of the benchmark"),
    ("{ner_f1: 58.60}", "{}", r":10:\d+: methods\.1\.metrics: "),
]


@pytest.mark.parametrize(("right", "wrong", "message"), MISTAKES)
def test_a_mistake_is_told_with_line_and_remedy(table, right, wrong, message):
    table.write_text(TABLE.replace(right, wrong))
    with pytest.raises(SpecError, match=message) as caught:
        read_published([str(table)])
    assert str(caught.value).startswith(str(table))


def test_all_mistakes_are_told_at_once(table):
    text = TABLE.replace("ner_f1: 58.60", "ner_f1: -1").replace("Old_Method, source: Author", "Old_Method, source: X")
    table.write_text(text)
    with pytest.raises(SpecError) as caught:
        read_published([str(table)])
    assert [problem.line for problem in caught.value.problems] == [9, 10]


def test_fractions_called_percent_are_refused(table):
    document = yaml.safe_load(TABLE)
    for method in document["methods"]:
        method["metrics"] = {name: value / 100 for name, value in method["metrics"].items()}
    table.write_text(yaml.safe_dump(document, sort_keys=False))
    with pytest.raises(SpecError, match="no value is larger than 1; write `unit: fraction`"):
        read_published([str(table)])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("gmnr", "neither a YAML file nor the name of installed results; did you mean 'gmner'?"),
        ("nowhere.yaml", "nowhere.yaml: "),
    ],
)
def test_an_unknown_table_is_a_user_error(ablation, argument, message):
    done = run_in_process(["compare", "swept", "--published", argument], ablation.folder, {})
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert message in done.stderr


def test_the_command_shows_the_installed_table_below_the_groups(ablation):
    arguments = ["compare", "swept", "--by", "arm", "--baseline", "joint", "--resamples", 100, "--published", "gmner"]
    done = run_in_process([*arguments, "--markdown"], ablation.folder, {})
    assert done.returncode == 0, done.stderr
    assert done.stdout.index("mean ± standard deviation") < done.stdout.index("Twitter GMNER, four entity types")
    assert "| MQSPN | MQSPN 2025 | 0.5876 | 0.8043 | 0.624 |" in done.stdout
    assert "| joint | this comparison | – | – | – |" in done.stdout
