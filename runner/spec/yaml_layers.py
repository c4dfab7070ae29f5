"""Reads YAML with source positions, and merges `extends`, `--set` and environment variables into one tree."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.reader import Reader

from runner.errors import Problem, SpecError, SpecPath
from runner.files import describe_decode_error
from runner.stages import LocatedStr

MAX_BYTES = 5_000_000
"""Upper limit for the size of a spec file."""
MAX_VALUES = 100_000
"""Upper limit for the values of a spec, against files whose aliases expand without end."""
MAX_DEPTH = 50
"""Upper limit for the nesting of a spec; each level takes space on the stack of the parser."""
MAX_DIGITS = 18
"""Upper limit for the digits of an integer: estimates multiply integers with fractions, which hold up to 308 digits."""
MAX_LAYERS = 100
"""Upper limit for the number of files in a chain of `extends`."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A YAML loader with the scalars of YAML 1.2: `1e-5` is a number; `no`, `on` and `1:30` are text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own attribute


@dataclass(frozen=True)
class _Scalar:
    """A type of plain scalars: its pattern, the characters that it can begin with, and its conversion."""

    pattern: re.Pattern[str]
    first: Sequence[str]
    convert: Callable[[str], Any]


def _to_int(text: str) -> int:
    digits = text.lstrip("+-0")
    if len(digits) > MAX_DIGITS:
        raise ValueError
    return int(text)


_NUMBER = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
_SCALARS = {
    "null": _Scalar(re.compile("~|null|Null|NULL|"), ["~", "n", "N", ""], lambda _: None),
    "bool": _Scalar(re.compile("true|True|TRUE|false|False|FALSE"), list("tTfF"), lambda text: text.lower() == "true"),
    "int": _Scalar(re.compile("[-+]?[0-9]+"), list("-+0123456789"), _to_int),
    "float": _Scalar(
        re.compile(rf"{_NUMBER}|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"),
        list("-+0123456789."),
        lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
    ),
}
"""The scalars of YAML 1.2, in the order in which a plain scalar is compared with them."""

for _tag, _scalar in _SCALARS.items():
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_scalar.pattern.pattern})$"), list(_scalar.first)
    )


def _convert(kind: str, text: str) -> Any:
    """Convert the text of a scalar.

    Raises:
        ValueError: The text is not of this kind, or has too many digits.
    """
    if not _SCALARS[kind].pattern.fullmatch(text):
        raise ValueError(f"{_abbreviate(text)} is not of the type {kind}")
    try:
        return _SCALARS[kind].convert(text)
    except ValueError as error:
        raise ValueError(f"{_abbreviate(text)} has too many digits") from error


def _abbreviate(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}…")


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
        with path.open("rb") as file:
            # The size is not known before: a pipe has none, a device such as /dev/zero has no end.
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SpecError([Problem(f"cannot be read: {error.strerror}", file=display_name)]) from error
    if len(content) > MAX_BYTES:
        message = f"has more than {MAX_BYTES:,} bytes, the largest size of a spec"
        raise SpecError([Problem(message, file=display_name)])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column, message = describe_decode_error(error)
        raise SpecError([Mark(display_name, line, column).problem(message)]) from error
    tree = parse_tree(text, display_name, path.resolve().parent)
    if not isinstance(tree.value, dict):
        message = "a spec must be a mapping of sections, such as `data: {type: mmre}`"
        raise SpecError([Mark(display_name, 1, 1).problem(message)])
    return tree


def parse_tree(text: str, display_name: str, folder: Path, *, has_lines: bool = True) -> Tree:
    """Parse YAML text; see `read_tree`. With `has_lines` false, marks have no line and column (for `--set`)."""
    builder = _TreeBuilder(display_name, folder, has_lines=has_lines)
    loader = None
    try:
        _check_characters(text, builder)
        _check_depth(text, builder)
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return Tree(None, {(): Mark(display_name, 1, 1)})
        value = builder.build(node, ())
    except yaml.MarkedYAMLError as error:
        raise SpecError([builder.syntax_problem(error)]) from error
    except yaml.YAMLError as error:
        raise SpecError([Problem(f"is not YAML: {error}", file=display_name)]) from error
    finally:
        if loader is not None:
            loader.dispose()
    return Tree(value, builder.marks, builder.problems)


def _check_characters(text: str, builder: _TreeBuilder) -> None:
    """Refuse characters that YAML does not allow; the parser would say their position in bytes, without a line.

    Raises:
        SpecError: The text has a control character or half of a surrogate pair.
    """
    if match := Reader.NON_PRINTABLE.search(text):
        name, before = builder.display_name, text[: match.start()]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        mark = Mark(name, line, column) if builder.has_lines else Mark(name)
        raise SpecError([mark.problem(f"is not YAML: the character {match[0]!a} is not allowed; remove it")])


def _check_depth(text: str, builder: _TreeBuilder) -> None:
    """Refuse deep nesting, because the parser's function that builds the tree of nodes calls itself.

    Raises:
        SpecError: The text is nested too deeply.
        YAMLError: The text is not YAML.
    """
    loader, depth = _Loader(text), 0
    try:
        while loader.check_event():
            event = loader.get_event()
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > MAX_DEPTH:
                message = f"is nested more than {MAX_DEPTH} levels deep"
                raise SpecError([builder.to_mark(event.start_mark).problem(message)])
    finally:
        loader.dispose()


class _TreeBuilder:
    """Converts YAML nodes to values, records marks and collects problems."""

    def __init__(self, display_name: str, folder: Path, *, has_lines: bool) -> None:
        self.display_name, self.folder, self.has_lines = display_name, folder, has_lines
        self.marks: dict[SpecPath, Mark] = {}
        self.problems: list[Problem] = []
        self._parents: list[yaml.Node] = []

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
        if isinstance(node, yaml.ScalarNode):
            return self.build_scalar(node, path)
        if any(parent is node for parent in self._parents):
            raise SpecError([self.to_mark(node.start_mark).problem("contains itself through an alias", path)])
        if len(self._parents) >= MAX_DEPTH:
            message = f"aliases expand to more than {MAX_DEPTH} levels"
            raise SpecError([self.to_mark(node.start_mark).problem(message)])
        self._parents.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return self.build_mapping(node, path)
            self.check_tag(node, path, "seq")
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        finally:
            self._parents.pop()

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
            try:
                return _convert(kind, node.value)
            except ValueError as error:
                self.add_problem(node, path, str(error))
                return None
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
    return _read(path, display_name, environment)


def _read(path: Path, display_name: str, environment: Mapping[str, str]) -> Tree:
    """Read the files of a chain of `extends`, and merge them from the last one on."""
    layers: list[Tree] = []
    chain: list[Path] = []
    while True:
        tree = read_tree(path, display_name)
        chain.append(path.resolve())
        base = tree.value.pop("extends", None)
        layers.append(_fill_environment(tree, environment))
        if base is None and ("extends",) not in tree.marks:
            break
        mark = tree.marks[("extends",)]
        path = _base_path(base, mark, chain)
        display_name = str(Path(display_name).parent / base)
    merged = layers.pop()
    while layers:
        merged = merge_trees(merged, layers.pop())
    return merged


def _base_path(base: object, mark: Mark, chain: Sequence[Path]) -> Path:
    """Return the file that the last file of a chain extends.

    Raises:
        SpecError: There is no such file, or it is in the chain, or the chain is too long.
    """
    if not isinstance(base, str):
        raise SpecError([mark.problem("must name one file, such as `extends: base.yaml`", ("extends",))])
    try:
        path = (chain[-1].parent / base).resolve()
        exists = path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # a name of 300 characters, or a loop of links, for example
        reason = error.strerror if isinstance(error, OSError) else error
        raise SpecError([mark.problem(f"{_abbreviate(base)} cannot be read: {reason}", ("extends",))]) from error
    if path in chain:
        names = " → ".join(file.name for file in (*chain[chain.index(path) :], path))
        raise SpecError([mark.problem(f"extends itself: {names}", ("extends",))])
    if not exists:
        raise SpecError([mark.problem(f"no such file: {path}", ("extends",))])
    if len(chain) == MAX_LAYERS:
        message = f"is the {MAX_LAYERS}th file in a chain of `extends`; at most {MAX_LAYERS} are allowed"
        raise SpecError([mark.problem(message, ("extends",))])
    return path


def merge_trees(base: Tree, top: Tree) -> Tree:
    """Merge one tree over another, including marks and problems; neither is changed."""
    replaced: set[SpecPath] = set()
    value = _merge(base.value, top.value, (), replaced)
    kept = {
        path: mark
        for path, mark in base.marks.items()
        if not any(path[:length] in replaced for length in range(len(path) + 1))
    }
    return Tree(value, kept | top.marks, [*base.problems, *top.problems])


def _merge(base: Any, top: Any, path: SpecPath, replaced: set[SpecPath]) -> Any:
    """Return the merged value, and add the paths of the base's values that the top replaces."""
    are_mappings = isinstance(base, dict) and isinstance(top, dict)
    if not are_mappings or top.get("type", base.get("type")) != base.get("type"):
        replaced.add(path)
        return top
    merged = {**base, **top}
    for key in base.keys() & top.keys():
        merged[key] = _merge(base[key], top[key], (*path, key), replaced)
    return merged


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
    """Split a dotted path into its parts; an index of a list, of up to nine digits, becomes an int."""
    return tuple(int(part) if re.fullmatch("[0-9]{1,9}", part) else part for part in name.split("."))


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
    """Fill in `${env:NAME}` and `${env:NAME:default}`; if that is the whole value, numbers, booleans and null are read.

    Any other text stays a text, whatever it begins with.

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
    filled = LocatedStr(text, Path.cwd() if names_used else value.folder, names_used)
    kind = next((kind for kind, scalar in _SCALARS.items() if scalar.pattern.fullmatch(text.strip())), None)
    if kind is None or not _ENV.fullmatch(value):
        return filled
    try:
        return _convert(kind, text.strip())
    except ValueError as error:
        source = f"the environment variable {names_used[0]}" if names_used else "the default"
        tree.problems.append(tree.marks[path].problem(f"{source}: {error}", path))
        return None
