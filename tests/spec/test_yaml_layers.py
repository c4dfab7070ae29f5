"""YAML with marks: values, errors and their locations."""

import contextlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from yaml.reader import Reader

from runner.errors import SpecError
from runner.spec.yaml_layers import MAX_BYTES, MAX_DEPTH, MAX_DIGITS, parse_tree, read_tree

HERE = Path(".")


def parse(text):
    return parse_tree(text, "spec.yaml", HERE)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1.0e-5", 1e-5),
        ("2E6", 2e6),
        (".5", 0.5),
        ("-3", -3),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("0x10", "0x10"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("'1e-5'", "1e-5"),
        ("2026-11-23", "2026-11-23"),
    ],
)
def test_scalars_have_the_intended_types(text, value):
    read = parse(f"a: {text}").value["a"]
    assert read == value
    assert isinstance(read, bool) == isinstance(value, bool)
    assert isinstance(read, str) == isinstance(value, str)


def test_every_value_has_the_mark_of_its_key():
    tree = parse("a: 1\nb:\n  - c: 2\n    d: 3\n")
    assert (tree.marks[("b", 0, "d")].line, tree.marks[("b", 0, "d")].column) == (4, 5)
    assert tree.mark(("b", 0, "nowhere")) == tree.marks[("b", 0)]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: 2\na: 3", 3, "duplicate key 'a' (first on line 1)"),
        ("a: !!python/object:os.system 1", 1, "tag"),
        ("a: 1\nb: !!bool maybe", 2, "'maybe' is not of the type bool"),
        ("a: !!int 1.5", 1, "'1.5' is not of the type int"),
        ("a: !!float text", 1, "'text' is not of the type float"),
        ("a: !!null text", 1, "'text' is not of the type null"),
        ("a: !!str {b: 1}", 1, "tag"),
        (f"a: 1\nb: {'9' * 5000}", 2, "has too many digits"),
        (f"a: 1\nb: -{'9' * (MAX_DIGITS + 1)}", 2, "has too many digits"),
        ("a:\n  ? [1]\n  : 2", 2, "plain word"),
    ],
)
def test_ambiguous_yaml_is_a_problem_with_its_line(text, line, message):
    [problem] = parse(text).problems
    assert problem.line == line
    assert message in problem.message


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "a: &x [*x]", "\tb: 1", "a: *missing"])
def test_invalid_yaml_is_an_error(text):
    with pytest.raises(SpecError, match=r"spec\.yaml"):
        parse(text)


def test_deep_nesting_is_an_error_with_its_place():
    levels = MAX_DEPTH - 1
    assert parse(f"a: {'[' * levels}{']' * levels}").value
    with pytest.raises(SpecError, match=rf"spec\.yaml:2:{4 + levels}: is nested more than {MAX_DEPTH} levels deep"):
        parse(f"b: 1\na: {'[' * (levels + 1)}{']' * (levels + 1)}")


def test_aliases_that_expand_deeply_or_without_end_are_errors_with_their_place():
    chain = "".join(f"x{level}: &x{level} [*x{level - 1}]\n" for level in range(1, MAX_DEPTH + 2))
    with pytest.raises(SpecError, match=rf"spec\.yaml:1:5: aliases expand to more than {MAX_DEPTH} levels"):
        parse(f"x0: &x0 [1]\n{chain}")
    with pytest.raises(SpecError, match=r"spec\.yaml:2:4: a\.0: contains itself through an alias"):
        parse("b: 1\na: &x [*x]")


def test_large_file_is_refused(tmp_path):
    file = tmp_path / "spec.yaml"
    with file.open("wb") as opened:
        opened.truncate(MAX_BYTES + 1)
    with pytest.raises(SpecError, match=r"has more than 5,000,000 bytes, the largest size of a spec"):
        read_tree(file)


def test_a_pipe_is_read_up_to_the_limit(tmp_path):
    reader, writer = os.pipe()
    with ThreadPoolExecutor() as threads, os.fdopen(writer, "wb") as file:
        threads.submit(file.write, b" " * (MAX_BYTES + 1))
        with pytest.raises(SpecError, match="has more than"):
            read_tree(Path(f"/dev/fd/{reader}"))
        os.close(reader)


@given(st.text(), st.sampled_from("\0\a\x1b\x7f\udcff"))
def test_a_character_that_yaml_does_not_allow_is_an_error_with_line_and_column(before, character):
    before = Reader.NON_PRINTABLE.sub("", before)
    line, column = before.count("\n") + 1, len(before.rpartition("\n")[2]) + 1
    message = f"spec.yaml:{line}:{column}: is not YAML: the character {character!a} is not allowed; remove it"
    with pytest.raises(SpecError, match=re.escape(message)):
        parse(before + character)


def test_bytes_that_are_not_utf8_are_an_error_with_line_and_column(tmp_path):
    file = tmp_path / "spec.yaml"
    file.write_bytes("a: 1\nb: Zo\xeb".encode("latin-1"))
    with pytest.raises(SpecError, match=r"spec\.yaml:2:6: is not UTF-8 text: byte 0xeb; save the file as UTF-8"):
        read_tree(file)
    file.write_bytes(b"\xef\xbb\xbfa: 1")
    assert read_tree(file).value == {"a": 1}


def test_exponential_aliases_are_an_error():
    layers = "".join(f"{name}: &{name} [{','.join(['*' + before] * 9)}]\n" for before, name in pairwise("abcdefgh"))
    with pytest.raises(SpecError, match="aliases expand"):
        parse("a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + layers)


# YAML 1.1, which PyYAML writes and libyaml scans, folds some control characters as line breaks.
words = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]))
keys = words.filter(bool)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(1 - 10**MAX_DIGITS, 10**MAX_DIGITS - 1)
    | st.floats(allow_nan=False)
    | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=20,
)


class Quoting(yaml.SafeDumper):
    """Quotes every string: PyYAML would write `0E0` bare, text in its version of YAML and a number in ours."""


Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


@given(st.dictionaries(keys, plain, max_size=5))
@example({"0": "0E0"})
def test_output_of_pyyaml_is_read_back(value):
    text = yaml.dump(value, Dumper=Quoting, allow_unicode=True, sort_keys=False)
    assert _same(parse(text).value, value)


def _same(read, written):
    if isinstance(written, dict):
        return list(read) == list(written) and all(_same(read[key], written[key]) for key in written)
    if isinstance(written, list):
        return len(read) == len(written) and all(map(_same, read, written))
    return read == written and isinstance(read, str) == isinstance(written, str)


@given(st.text())
def test_any_text_is_parsed_or_raises_a_spec_error(text):
    with contextlib.suppress(SpecError):
        parse(text)
