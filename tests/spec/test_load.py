"""Loading: kinds of specs, starters, and errors that are found later."""

from pathlib import Path

import pytest

from runner.errors import Problem, SpecError
from runner.spec.dataset_spec import DatasetSpec
from runner.spec.load import load, load_spec
from runner.spec.starter_and_shipped_specs import write_starter

SPECS = Path(__file__).parent.parent.parent / "specs"


def test_spec_of_the_other_kind_is_one_error_that_names_the_command():
    with pytest.raises(SpecError, match=r"gmner_dataset\.yaml:\d+:1: .*runner build") as caught:
        load_spec(SPECS / "gmner_dataset.yaml")
    assert len(caught.value.problems) == 1
    with pytest.raises(SpecError, match=r"tiny_mmre\.yaml:\d+:1: .*runner launch"):
        load(SPECS / "tiny_mmre.yaml", DatasetSpec)


def test_starter_is_a_valid_spec_with_its_schema(tmp_path):
    path = write_starter("first", tmp_path)
    assert load_spec(path).spec.name == "first"
    schema = path.read_text().splitlines()[0].rpartition("=")[2]
    assert (tmp_path / schema).is_file()
    with pytest.raises(SpecError, match="exists already"):
        write_starter("first", tmp_path)


def test_starter_with_an_invalid_name_leaves_no_file(tmp_path):
    with pytest.raises(SpecError):
        write_starter("no spaces", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_late_error_gets_its_line():
    loaded = load_spec(SPECS / "qwen_mmre.yaml")
    error = SpecError([Problem("wins nothing", ("optimizer", "groups", "vision", "match"))])
    [problem] = loaded.with_locations(error).problems
    line = (SPECS / "qwen_mmre.yaml").read_text().splitlines()[problem.line - 1]
    assert line.strip().startswith("vision:")
    assert problem.message == "wins nothing"
