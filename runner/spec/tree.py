"""Reads a YAML file into plain values that remember file, line and column, and refuses what YAML makes ambiguous."""

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
"""A spec of more values than this is a bomb of aliases, not a spec."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML with the scalars of its version 1.2: `1e-5` is a number; `no`, `on` and `1:30` are text."""

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
    """Where a value was written; line and column count from 1 and are None for `--set`."""

    file: str
    line: int | None = None
    column: int | None = None

    def problem(self, message: str, path: SpecPath = ()) -> Problem:
        """Make a problem at this place."""
        return Problem(message, path, self.file, self.line, self.column)


@dataclass
class Tree:
    """Plain values and where each was written.

    Attributes:
        value: Dictionaries, lists and scalars; strings are `LocatedStr`.
        marks: By path; a key in a mapping has the mark of the key.
        problems: What was refused on the way, to be told together with what the schema finds.
    """

    value: Any
    marks: dict[SpecPath, Mark] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def mark(self, path: SpecPath) -> Mark | None:
        """The mark of a path, or of the nearest place above it that has one.

        Parts of the path that stand nowhere in the tree (names that pydantic adds for unions) are passed over.
        """
        known: SpecPath = ()
        for part in path:
            if (*known, part) in self.marks:
                known = (*known, part)
        return self.marks.get(known)


def read_tree(path: Path, shown: str | None = None) -> Tree:
    """Read one YAML (or JSON) file.

    Args:
        path: The file.
        shown: How errors name it; as given by the user, usually.

    Raises:
        SpecError: It cannot be read, is not YAML or is no mapping.
    """
    shown = shown or str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError([Problem(f"cannot be read: {error.strerror}", file=shown)]) from error
    except UnicodeDecodeError as error:
        raise SpecError([Problem(f"is not UTF-8 text (byte {error.start})", file=shown)]) from error
    tree = parse_tree(text, shown, path.resolve().parent)
    if not isinstance(tree.value, dict):
        raise SpecError([Mark(shown, 1, 1).problem("a spec is a mapping of sections, such as `data: {type: mmre}`")])
    return tree


def parse_tree(text: str, shown: str, folder: Path, *, lined: bool = True) -> Tree:
    """Parse YAML text; see `read_tree`. With `lined` false, marks carry no line (for `--set`)."""
    builder = _Builder(shown, folder, lined)
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return Tree(None, {(): Mark(shown, 1, 1)})
        value = builder.build(node, ())
    except yaml.MarkedYAMLError as error:
        raise SpecError([builder.syntax_problem(error)]) from error
    except yaml.YAMLError as error:
        raise SpecError([Problem(f"is not YAML: {error}", file=shown)]) from error
    except RecursionError as error:
        raise SpecError([Problem("is nested too deeply, or an alias holds itself", file=shown)]) from error
    finally:
        loader.dispose()
    return Tree(value, builder.marks, builder.problems)


class _Builder:
    """Turns YAML nodes into values, keeping marks and collecting problems."""

    def __init__(self, shown: str, folder: Path, lined: bool) -> None:
        self.shown, self.folder, self.lined = shown, folder, lined
        self.marks: dict[SpecPath, Mark] = {}
        self.problems: list[Problem] = []

    def syntax_problem(self, error: yaml.MarkedYAMLError) -> Problem:
        mark = error.problem_mark or error.context_mark
        text = ", ".join(part for part in (error.context, error.problem) if part)
        return (self.at(mark) if mark else Mark(self.shown)).problem(f"is not YAML: {text}")

    def at(self, mark: Any) -> Mark:
        return Mark(self.shown, mark.line + 1, mark.column + 1) if self.lined else Mark(self.shown)

    def refuse(self, node: yaml.Node, path: SpecPath, message: str) -> None:
        self.problems.append(self.at(node.start_mark).problem(message, path))

    def build(self, node: yaml.Node, path: SpecPath) -> Any:
        if len(self.marks) > MAX_VALUES:
            raise SpecError([self.at(node.start_mark).problem(f"aliases expand to more than {MAX_VALUES:,} values")])
        self.marks.setdefault(path, self.at(node.start_mark))
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            self.refuse_tag(node, path, "seq")
            return [self.build(each, (*path, index)) for index, each in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self.scalar(node, path)

    def refuse_tag(self, node: yaml.Node, path: SpecPath, expected: str) -> None:
        if node.tag != f"tag:yaml.org,2002:{expected}":
            self.refuse(node, path, f"the tag {node.tag!r} is refused; write plain values")

    def mapping(self, node: yaml.MappingNode, path: SpecPath) -> dict[str, Any]:
        self.refuse_tag(node, path, "map")
        made: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode):
                self.refuse(key_node, path, "a key must be a plain word")
            elif key in made:
                first = self.marks[(*path, key)]
                where = f" (line {first.line})" if first.line else ""
                self.refuse(key_node, (*path, key), f"the key {key!r} stands here twice{where}; keep one")
            else:
                self.marks[(*path, key)] = self.at(key_node.start_mark)
                made[key] = self.build(value_node, (*path, key))
        return made

    def scalar(self, node: yaml.ScalarNode, path: SpecPath) -> Any:
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if kind in _SCALARS:
            return _SCALARS[kind](node.value)
        if kind != "str":
            self.refuse(node, path, f"the tag {node.tag!r} is refused; write plain values")
        return LocatedStr(node.value, self.folder)
