"""Reads a YAML file into plain values with file, line and column, and rejects ambiguous YAML."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from runner.errors import Problem, SpecError, SpecPath
from runner.stages import LocatedStr

MAX_VALUES = 100_000
"""Upper limit for the values of a spec, against files whose aliases expand without end."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A YAML loader with the scalars of YAML 1.2: `1e-5` is a number; `no`, `on` and `1:30` are text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own attribute


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+0123456789.")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


_SCALARS: dict[str, Callable[[str], Any]] = {
    "null": lambda _: None,
    "bool": lambda text: text.lower() == "true",
    "int": int,
    "float": lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
}


@dataclass(frozen=True)
class Mark:
    """The source location of a value (PyYAML's term). Line and column count from 1; they are None for `--set`."""

    file: str
    line: int | None = None
    column: int | None = None

    def problem(self, message: str, path: SpecPath = ()) -> Problem:
        """Create a problem at this location."""
        return Problem(message, path, self.file, self.line, self.column)


@dataclass
class Tree:
    """Plain values and their source locations.

    Attributes:
        value: Dictionaries, lists and scalars; strings are `LocatedStr`.
        marks: The mark of each path; a value in a mapping has the mark of its key.
        problems: Problems found while reading, which are reported together with those of the validation.
    """

    value: Any
    marks: dict[SpecPath, Mark] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def mark(self, path: SpecPath) -> Mark | None:
        """Return the mark of a path, or of its nearest parent that has one.

        Parts of the path that are not in the tree (names that pydantic adds for unions) are skipped.
        """
        known: SpecPath = ()
        for part in path:
            if (*known, part) in self.marks:
                known = (*known, part)
        return self.marks.get(known)


def read_tree(path: Path, display_name: str | None = None) -> Tree:
    """Read one YAML or JSON file.

    Args:
        path: The file.
        display_name: The name of the file in error messages, usually as the user typed it.

    Raises:
        SpecError: The file cannot be read, is not YAML, or is not a mapping.
    """
    display_name = display_name or str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError([Problem(f"cannot be read: {error.strerror}", file=display_name)]) from error
    except UnicodeDecodeError as error:
        raise SpecError([Problem(f"is not UTF-8 text (byte {error.start})", file=display_name)]) from error
    tree = parse_tree(text, display_name, path.resolve().parent)
    if not isinstance(tree.value, dict):
        message = "a spec must be a mapping of sections, such as `data: {type: mmre}`"
        raise SpecError([Mark(display_name, 1, 1).problem(message)])
    return tree


def parse_tree(text: str, display_name: str, folder: Path, *, has_lines: bool = True) -> Tree:
    """Parse YAML text; see `read_tree`. With `has_lines` false, marks have no line and column (for `--set`)."""
    builder = _TreeBuilder(display_name, folder, has_lines=has_lines)
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return Tree(None, {(): Mark(display_name, 1, 1)})
        value = builder.build(node, ())
    except yaml.MarkedYAMLError as error:
        raise SpecError([builder.syntax_problem(error)]) from error
    except yaml.YAMLError as error:
        raise SpecError([Problem(f"is not YAML: {error}", file=display_name)]) from error
    except RecursionError as error:
        raise SpecError([Problem("is nested too deeply, or an alias contains itself", file=display_name)]) from error
    finally:
        loader.dispose()
    return Tree(value, builder.marks, builder.problems)


class _TreeBuilder:
    """Converts YAML nodes to values, records marks and collects problems."""

    def __init__(self, display_name: str, folder: Path, *, has_lines: bool) -> None:
        self.display_name, self.folder, self.has_lines = display_name, folder, has_lines
        self.marks: dict[SpecPath, Mark] = {}
        self.problems: list[Problem] = []

    def syntax_problem(self, error: yaml.MarkedYAMLError) -> Problem:
        mark = error.problem_mark or error.context_mark
        text = ", ".join(part for part in (error.context, error.problem) if part)
        return (self.to_mark(mark) if mark else Mark(self.display_name)).problem(f"is not YAML: {text}")

    def to_mark(self, mark: yaml.Mark) -> Mark:
        if not self.has_lines:
            return Mark(self.display_name)
        return Mark(self.display_name, mark.line + 1, mark.column + 1)

    def add_problem(self, node: yaml.Node, path: SpecPath, message: str) -> None:
        self.problems.append(self.to_mark(node.start_mark).problem(message, path))

    def build(self, node: yaml.Node, path: SpecPath) -> Any:
        if len(self.marks) > MAX_VALUES:
            message = f"aliases expand to more than {MAX_VALUES:,} values"
            raise SpecError([self.to_mark(node.start_mark).problem(message)])
        self.marks.setdefault(path, self.to_mark(node.start_mark))
        if isinstance(node, yaml.MappingNode):
            return self.build_mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            self.check_tag(node, path, "seq")
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self.build_scalar(node, path)

    def check_tag(self, node: yaml.Node, path: SpecPath, expected: str) -> None:
        if node.tag != f"tag:yaml.org,2002:{expected}":
            self.add_problem(node, path, f"the tag {node.tag!r} is not allowed; write plain values")

    def build_mapping(self, node: yaml.MappingNode, path: SpecPath) -> dict[str, Any]:
        self.check_tag(node, path, "map")
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode):
                self.add_problem(key_node, path, "a key must be a plain word")
            elif key in values:
                first = self.marks[(*path, key)]
                location = f" (first on line {first.line})" if first.line else ""
                self.add_problem(key_node, (*path, key), f"duplicate key {key!r}{location}; keep one")
            else:
                self.marks[(*path, key)] = self.to_mark(key_node.start_mark)
                values[key] = self.build(value_node, (*path, key))
        return values

    def build_scalar(self, node: yaml.ScalarNode, path: SpecPath) -> Any:
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if kind in _SCALARS:
            return _SCALARS[kind](node.value)
        if kind != "str":
            self.add_problem(node, path, f"the tag {node.tag!r} is not allowed; write plain values")
        return LocatedStr(node.value, self.folder)
