"""Merges the layers of a spec: `extends`, environment variables and `--set`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.errors import Problem, SpecError, SpecPath
from runner.spec.tree import Mark, Tree, parse_tree, read_tree
from runner.stages import LocatedStr

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
