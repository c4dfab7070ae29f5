"""Merging of `extends`, `--set` and environment variables."""

from functools import reduce
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import SpecError
from runner.spec.yaml_layers import MAX_LAYERS, Mark, Tree, apply_overrides, merge_trees, read_layers

keys = st.sampled_from(["a", "b", "type"])
trees = st.recursive(st.integers(0, 3), lambda inner: st.dictionaries(keys, inner, max_size=3), max_leaves=8)


def paths_of(value, prefix=()):
    """The paths of a value and of the values in it."""
    yield prefix
    for key, item in value.items() if isinstance(value, dict) else ():
        yield from paths_of(item, (*prefix, key))


def at(value, path):
    return reduce(lambda inner, key: inner[key], path, value)


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def read(path, **environment):
    return read_layers(path, path.name, environment)


def test_spec_is_merged_over_the_file_it_extends(write):
    write("base.yaml", "trainer: {type: sft, epochs: 3}\nmetrics: [1, 2]\nseed: 1\n")
    tree = read(write("top.yaml", "extends: base.yaml\ntrainer: {epochs: 1}\nmetrics: [3]\n"))
    assert tree.value == {"trainer": {"type": "sft", "epochs": 1}, "metrics": [3], "seed": 1}
    assert tree.marks[("trainer", "epochs")].file == "top.yaml"
    assert tree.marks[("trainer", "type")].file == "base.yaml"
    assert ("metrics", 1) not in tree.marks


def test_section_with_another_type_replaces_the_whole_section(write):
    write("base.yaml", "optimizer: {type: adamw, lr: 1, betas: [1, 2]}\n")
    tree = read(write("top.yaml", "extends: base.yaml\noptimizer: {type: muon, lr: 2}\n"))
    assert tree.value == {"optimizer": {"type": "muon", "lr": 2}}


def test_paths_are_relative_to_their_own_file(write, tmp_path):
    write("deep/base.yaml", "a: x.txt\n")
    tree = read(write("top.yaml", "extends: deep/base.yaml\nb: y.txt\n"))
    assert tree.value["a"].folder == tmp_path / "deep"
    assert tree.value["b"].folder == tmp_path


def test_circular_extends_is_an_error(write):
    write("a.yaml", "extends: b.yaml\n")
    with pytest.raises(SpecError, match="extends itself"):
        read(write("b.yaml", "extends: a.yaml\n"))


@pytest.mark.parametrize(
    ("base", "reason"),
    [("n" * 300, "File name too long"), ("loop", "Symlink loop from"), ('"a\\0b"', "embedded null byte")],
)
def test_a_base_whose_path_cannot_be_used_is_an_error_with_its_line(write, tmp_path, base, reason):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(SpecError, match=rf"^top\.yaml:2:1: extends: '.*' cannot be read: {reason}"):
        read(write("top.yaml", f"a: 1\nextends: {base}\n"))


def test_a_long_chain_is_merged_and_a_longer_one_is_an_error_with_its_line(write):
    write("0.yaml", "a: 0\nfirst: 1\n")
    for number in range(1, MAX_LAYERS + 1):
        write(f"{number}.yaml", f"a: {number}\nextends: {number - 1}.yaml\n")
    last = MAX_LAYERS - 1
    tree = read(write(f"{last}.yaml", f"extends: {last - 1}.yaml\na: {last}\n"))
    assert tree.value == {"a": last, "first": 1}
    assert tree.marks["first",].file == "0.yaml"
    with pytest.raises(SpecError, match=rf"^1\.yaml:2:1: extends: is the {MAX_LAYERS}th file in a chain"):
        read(write(f"{MAX_LAYERS}.yaml", f"extends: {last}.yaml\n"))


@given(st.lists(st.dictionaries(st.sampled_from("abc"), trees, max_size=3), min_size=1, max_size=4))
def test_marks_of_merged_trees_are_those_of_their_values(values):
    layers = [Tree(value, dict.fromkeys(paths_of(value), Mark(str(index)))) for index, value in enumerate(values)]
    merged = reduce(merge_trees, layers)
    assert merged.marks.keys() == set(paths_of(merged.value))
    for path, mark in merged.marks.items():
        layer = layers[int(mark.file)]
        assert path in layer.marks
        if not isinstance(at(merged.value, path), dict):
            assert at(layer.value, path) == at(merged.value, path)


def test_missing_base_file_is_an_error_with_its_line(write):
    with pytest.raises(SpecError, match=r"top\.yaml:2:1.*no such file"):
        read(write("top.yaml", "seed: 1\nextends: none.yaml\n"))


def test_environment_values_are_parsed_as_yaml(write):
    path = write("s.yaml", "lr: ${env:LR}\ntext: '${env:HOME_DIR}/x'\nother: ${env:NOT_SET:3}\nempty: ${env:NONE:}\n")
    tree = read(path, LR="1e-5", HOME_DIR="/data")
    assert tree.value == {"lr": 1e-5, "text": "/data/x", "other": 3, "empty": None}


@pytest.mark.parametrize(
    "text", ["[1, 2", "@home", "{a: 1}", "*x", "&x", "!!int 3", "- 1", "# no", "a: b", "|", "%", '"']
)
def test_text_of_the_environment_is_text_whatever_it_begins_with(write, text):
    assert read(write("s.yaml", "a: ${env:A}\n"), A=text).value == {"a": text}


def test_number_of_the_environment_with_too_many_digits_names_the_variable(write):
    [problem] = read(write("s.yaml", "b: 1\na: ${env:A}\n"), A="9" * 5000).problems
    assert problem.line == 2
    assert problem.message.startswith("the environment variable A: '999")


def test_path_from_the_environment_is_relative_to_the_current_folder(write, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    path = write("s.yaml", "given: ${env:DATA:x}\ndefault: ${env:NONE:x}\n")
    tree = read(path, DATA="raw")
    assert tree.value["given"].folder == elsewhere
    assert tree.value["default"].folder == tmp_path


def test_all_unset_environment_variables_are_reported(write):
    tree = read(write("s.yaml", "a: ${env:ONE}\nb: ${env:TWO}\nc: ${home}\n"))
    assert [(problem.line, problem.path) for problem in tree.problems] == [
        (1, ("a",)),
        (2, ("b",)),
        (3, ("c",)),
    ]


def test_overrides_reach_into_mappings_and_lists(write):
    tree = read(write("s.yaml", "optimizer: {groups: {vision: {lr: 1}}}\nmetrics: [{type: a}, {type: b}]\n"))
    changed = apply_overrides(
        tree, ["optimizer.groups.vision.lr=2e-6", "metrics.1.type=c", "trainer.epochs=1"], Path.cwd()
    )
    assert changed.value["optimizer"]["groups"]["vision"]["lr"] == 2e-6
    assert changed.value["metrics"] == [{"type": "a"}, {"type": "c"}]
    assert changed.value["trainer"] == {"epochs": 1}
    assert changed.marks[("optimizer", "groups", "vision", "lr")].file == "--set optimizer.groups.vision.lr=2e-6"
    assert tree.value["metrics"][1] == {"type": "b"}, "the tree itself is not changed"


def test_all_invalid_overrides_are_reported(write):
    tree = read(write("s.yaml", "seed: 1\nmetrics: [1]\n"))
    with pytest.raises(SpecError) as caught:
        apply_overrides(tree, ["seed", "seed.deep=1", "metrics.4=2", "a=[1"], Path.cwd())
    assert len(caught.value.problems) == 4
