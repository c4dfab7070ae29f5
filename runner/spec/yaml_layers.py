"""Reads YAML with source positions, and merges `extends`, `--set` and environment variables into one tree."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
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


_ENV = re.compile(r"\$\{(?P<body>[^{}]*)\}")
_ENV_BODY = re.compile(r"env:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:.*)?", re.DOTALL)


def read_layers(path: Path, display_name: str, environment: Mapping[str, str] = os.environ) -> Tree:
    """Read a spec file, fill in environment variables, and merge it over the files that it extends.

    Mappings are merged key by key. Any other value replaces the base's value. A section whose `type` differs replaces
    the whole section, because its options belong to another plugin.

    Args:
        path: The file.
        display_name: The name of the file in error messages.
        environment: The environment variables.

    Raises:
        SpecError: A file cannot be read, or extends itself.
    """
    return _read(path, display_name, environment, ())


def _read(path: Path, display_name: str, environment: Mapping[str, str], extended_by: tuple[Path, ...]) -> Tree:
    tree = read_tree(path, display_name)
    if "extends" not in tree.value:
        return _fill_environment(tree, environment)
    mark = tree.marks[("extends",)]
    base = tree.value.pop("extends")
    if not isinstance(base, str):
        raise SpecError([mark.problem("must name one file, such as `extends: base.yaml`", ("extends",))])
    base_path = (path.resolve().parent / base).resolve()
    chain = (*extended_by, path.resolve())
    if base_path in chain:
        names = " → ".join(file.name for file in (*chain, base_path))
        raise SpecError([mark.problem(f"extends itself: {names}", ("extends",))])
    if not base_path.is_file():
        raise SpecError([mark.problem(f"no such file: {base_path}", ("extends",))])
    base_tree = _read(base_path, str(Path(display_name).parent / base), environment, chain)
    return merge_trees(base_tree, _fill_environment(tree, environment))


def merge_trees(base: Tree, top: Tree) -> Tree:
    """Merge one tree over another, including marks and problems; neither is changed."""
    marks = dict(base.marks)
    value = _merge(base.value, top.value, (), marks, top.marks)
    return Tree(value, marks | top.marks, [*base.problems, *top.problems])


def _merge(base: Any, top: Any, path: SpecPath, marks: dict[SpecPath, Mark], top_marks: dict[SpecPath, Mark]) -> Any:
    are_mappings = isinstance(base, dict) and isinstance(top, dict)
    if are_mappings and top.get("type", base.get("type")) == base.get("type"):
        return {
            key: _merge(base[key], top[key], (*path, key), marks, top_marks)
            if key in base and key in top
            else top.get(key, base.get(key))
            for key in (*base, *(key for key in top if key not in base))
        }
    for replaced in [key for key in marks if key[: len(path)] == path]:
        del marks[replaced]
    return top


def apply_overrides(tree: Tree, overrides: Sequence[str], folder: Path) -> Tree:
    """Apply `PATH=VALUE` assignments to a tree, in order.

    Args:
        tree: The spec.
        overrides: Assignments such as `optimizer.groups.vision.lr=2e-6`. Values are YAML; list items have an index.
        folder: The folder that relative paths in values refer to: the user's current folder.

    Raises:
        SpecError: Assignments have another form, or their paths cannot hold a value; with all of these problems.
    """
    problems: list[Problem] = []
    for text in overrides:
        display_name = f"--set {text}"
        name, equals, value = text.partition("=")
        path = split_path(name)
        if not equals or not all(str(part) for part in path):
            problems.append(Problem("write PATH=VALUE, such as trainer.epochs=1", file=display_name))
            continue
        try:
            leaf = parse_tree(value, display_name, folder, has_lines=False)
            tree = assign(tree, path, leaf)
        except SpecError as error:
            problems.extend(error.problems)
    if problems:
        raise SpecError(problems)
    return tree


def assign(tree: Tree, path: SpecPath, leaf: Tree) -> Tree:
    """Return a tree in which one value is set; the given tree is not changed.

    Args:
        tree: The spec.
        path: The path of the value. Missing mappings on the path are created.
        leaf: The value, with the marks of where it was written.

    Raises:
        SpecError: The path cannot hold a value.
    """
    mark = leaf.marks[()]
    marks = {key: other for key, other in tree.marks.items() if key[: len(path)] != path}
    for depth in range(1, len(path)):
        marks.setdefault(path[:depth], mark)
    marks |= {(*path, *inner): inner_mark for inner, inner_mark in leaf.marks.items()}
    value = _with_value(tree.value, path, leaf.value, mark, ())
    return Tree(value, marks, [*tree.problems, *leaf.problems])


def split_path(name: str) -> SpecPath:
    """Split a dotted path into its parts; an index of a list becomes an int."""
    return tuple(int(part) if part.isdigit() else part for part in name.split("."))


def _with_value(value: Any, path: SpecPath, leaf: Any, mark: Mark, prefix: SpecPath) -> Any:
    if not path:
        return leaf
    key, *rest = path
    if isinstance(value, list):
        if not isinstance(key, int) or key >= len(value):
            raise SpecError([mark.problem(f"has {len(value)} items; use the index of one, from 0", prefix)])
        return [
            *value[:key],
            _with_value(value[key], tuple(rest), leaf, mark, (*prefix, key)),
            *value[key + 1 :],
        ]
    if value is not None and not isinstance(value, dict):
        raise SpecError([mark.problem(f"is {value!r}, which has no key {key!r}", prefix)])
    mapping = value or {}
    return {**mapping, str(key): _with_value(mapping.get(str(key)), tuple(rest), leaf, mark, (*prefix, key))}


def _fill_environment(tree: Tree, environment: Mapping[str, str]) -> Tree:
    """Fill in `${env:NAME}` and `${env:NAME:default}`; if that is the whole value, the result is parsed as YAML.

    A relative path from an environment variable refers to the current folder, where the user set the variable. A
    default is part of the file, so a relative path in it refers to the file's folder.
    """
    filled = Tree(None, tree.marks, list(tree.problems))
    filled.value = _fill(tree.value, (), filled, environment)
    return filled


def _fill(value: Any, path: SpecPath, tree: Tree, environment: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _fill(item, (*path, key), tree, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, (*path, index), tree, environment) for index, item in enumerate(value)]
    if not isinstance(value, LocatedStr) or "${" not in value:
        return value

    def substitute(match: re.Match[str]) -> str:
        body = _ENV_BODY.fullmatch(match["body"])
        if body is None:
            tree.problems.append(
                tree.marks[path].problem(
                    f"{match[0]!r} is not valid; write ${{env:NAME}} or ${{env:NAME:default}}", path
                )
            )
            return match[0]
        if body["name"] in environment:
            names_used.append(body["name"])
            return environment[body["name"]]
        if body["default"] is None:
            tree.problems.append(
                tree.marks[path].problem(
                    f"the environment has no {body['name']}; set it, or write a default: "
                    f"${{env:{body['name']}:default}}",
                    path,
                )
            )
            return match[0]
        return body["default"][1:]

    names_used: list[str] = []
    text = _ENV.sub(substitute, value)
    filled = LocatedStr(text, Path.cwd() if names_used else value.folder)
    if _ENV.fullmatch(value):
        parsed = parse_tree(text, "", value.folder).value
        return parsed if isinstance(parsed, int | float) or parsed is None else filled
    return filled
