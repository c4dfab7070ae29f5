"""Lays trees over one another: `extends`, `--set`, and the environment's values."""

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


def read_layers(path: Path, shown: str, environment: Mapping[str, str] = os.environ) -> Tree:
    """Read a spec file over the one it extends, and that one over its own, environment values filled in.

    A mapping is laid over a mapping key by key; any other value replaces what was there, and so does a section
    whose `type` differs, since its options belong to another plugin.

    Raises:
        SpecError: A file cannot be read, or extends itself.
    """
    return _read(path, shown, environment, ())


def _read(path: Path, shown: str, environment: Mapping[str, str], below: tuple[Path, ...]) -> Tree:
    tree = read_tree(path, shown)
    if "extends" not in tree.value:
        return _with_environment(tree, environment)
    mark = tree.marks[("extends",)]
    base = tree.value.pop("extends")
    if not isinstance(base, str):
        raise SpecError([mark.problem("names one file, such as `extends: base.yaml`", ("extends",))])
    base_path = (path.resolve().parent / base).resolve()
    chain = (*below, path.resolve())
    if base_path in chain:
        names = " → ".join(each.name for each in (*chain, base_path))
        raise SpecError([mark.problem(f"extends itself: {names}", ("extends",))])
    if not base_path.is_file():
        raise SpecError([mark.problem(f"no such file: {base_path}", ("extends",))])
    base_tree = _read(base_path, str(Path(shown).parent / base), environment, chain)
    return lay_over(base_tree, _with_environment(tree, environment))


def lay_over(base: Tree, top: Tree) -> Tree:
    """Lay one tree over another, marks and problems included; neither is changed."""
    marks = dict(base.marks)
    value = _merge(base.value, top.value, (), marks, top.marks)
    return Tree(value, marks | top.marks, [*base.problems, *top.problems])


def _merge(base: Any, top: Any, path: SpecPath, marks: dict[SpecPath, Mark], top_marks: dict[SpecPath, Mark]) -> Any:
    both = isinstance(base, dict) and isinstance(top, dict)
    if both and top.get("type", base.get("type")) == base.get("type"):
        merged = {
            key: _merge(base[key], top[key], (*path, key), marks, top_marks)
            if key in base and key in top
            else top.get(key, base.get(key))
            for key in (*base, *(key for key in top if key not in base))
        }
        return merged
    for gone in [key for key in marks if key[: len(path)] == path]:
        del marks[gone]
    return top


def apply_overrides(tree: Tree, overrides: Sequence[str], folder: Path) -> Tree:
    """Lay `PATH=VALUE` assignments over a tree, in order.

    Args:
        tree: The spec.
        overrides: Such as `optimizer.groups.vision.lr=2e-6`; values are YAML, list items are named by number.
        folder: What relative paths in values are relative to: where the user typed them.

    Raises:
        SpecError: An assignment is not of that form, or its path cannot hold a value; all of them at once.
    """
    problems: list[Problem] = []
    for text in overrides:
        shown = f"--set {text}"
        name, equals, value = text.partition("=")
        path = parts(name)
        if not equals or not all(str(part) for part in path):
            problems.append(Problem("write PATH=VALUE, such as trainer.epochs=1", file=shown))
            continue
        try:
            leaf = parse_tree(value, shown, folder, lined=False)
            tree = assign(tree, path, leaf)
        except SpecError as error:
            problems.extend(error.problems)
    if problems:
        raise SpecError(problems)
    return tree


def assign(tree: Tree, path: SpecPath, leaf: Tree) -> Tree:
    """Put a value at a place of a tree, which is not changed.

    Args:
        tree: The spec.
        path: The place; mappings on the way that are not there are made.
        leaf: The value, whose marks say where it was written.

    Raises:
        SpecError: The place cannot hold a value.
    """
    mark = leaf.marks[()]
    marks = {key: known for key, known in tree.marks.items() if key[: len(path)] != path}
    for depth in range(1, len(path)):
        marks.setdefault(path[:depth], mark)
    marks |= {(*path, *below): known for below, known in leaf.marks.items()}
    value = _with_value(tree.value, path, leaf.value, mark, ())
    return Tree(value, marks, [*tree.problems, *leaf.problems])


def parts(name: str) -> SpecPath:
    """Take a dotted path apart; list items are named by number."""
    return tuple(int(part) if part.isdigit() else part for part in name.split("."))


def _with_value(value: Any, path: SpecPath, leaf: Any, mark: Mark, above: SpecPath) -> Any:
    if not path:
        return leaf
    key, *rest = path
    if isinstance(value, list):
        if not isinstance(key, int) or key >= len(value):
            raise SpecError([mark.problem(f"has {len(value)} items; name one by its number, from 0", above)])
        return [
            *value[:key],
            _with_value(value[key], tuple(rest), leaf, mark, (*above, key)),
            *value[key + 1 :],
        ]
    if value is not None and not isinstance(value, dict):
        raise SpecError([mark.problem(f"is {value!r}, which has nothing named {key!r} inside", above)])
    known = value or {}
    return {**known, str(key): _with_value(known.get(str(key)), tuple(rest), leaf, mark, (*above, key))}


def _with_environment(tree: Tree, environment: Mapping[str, str]) -> Tree:
    """Fill in `${env:NAME}` and `${env:NAME:default}`; a whole value is then read as YAML would read it.

    A path that the environment gave is relative to the current folder, as whoever typed it meant; a default is
    part of the file, and relative to it.
    """
    filled = Tree(None, tree.marks, list(tree.problems))
    filled.value = _fill(tree.value, (), filled, environment)
    return filled


def _fill(value: Any, path: SpecPath, tree: Tree, environment: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _fill(each, (*path, key), tree, environment) for key, each in value.items()}
    if isinstance(value, list):
        return [_fill(each, (*path, index), tree, environment) for index, each in enumerate(value)]
    if not isinstance(value, LocatedStr) or "${" not in value:
        return value

    def look_up(found: re.Match[str]) -> str:
        body = _ENV_BODY.fullmatch(found["body"])
        if body is None:
            tree.problems.append(
                tree.marks[path].problem(
                    f"{found[0]!r} is not understood; write ${{env:NAME}} or ${{env:NAME:default}}", path
                )
            )
            return found[0]
        if body["name"] in environment:
            given.append(body["name"])
            return environment[body["name"]]
        if body["default"] is None:
            tree.problems.append(
                tree.marks[path].problem(
                    f"the environment has no {body['name']}; set it, or give a default: "
                    f"${{env:{body['name']}:default}}",
                    path,
                )
            )
            return found[0]
        return body["default"][1:]

    given: list[str] = []
    text = _ENV.sub(look_up, value)
    located = LocatedStr(text, Path.cwd() if given else value.folder)
    if _ENV.fullmatch(value):
        whole = parse_tree(text, "", value.folder).value
        return whole if isinstance(whole, int | float) or whole is None else located
    return located
