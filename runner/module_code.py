"""The code of a module as definitions: what each of them uses, and a digest of what it does."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from runner.errors import PluginError
from runner.files import cached_json, user_cache_dir
from runner.imported_modules import check_unedited

FORMAT = 3
"""Version of the cached definitions, to be raised whenever `read_module_code` changes."""

Target = tuple[str, str | None]
"""What an import binds: a module and a name in it; the name is None for the module itself."""


@dataclass(frozen=True)
class Definition:
    """A statement at the top level of a module, or a method of a class.

    Attributes:
        digest: SHA-256 of its syntax tree, without comments, docstrings and formatting.
        names: The names that it uses. After the name of an import come the attributes that are used of it
            (`helpers.f`), and after `self` and `cls` one attribute.
        imports: What it imports itself.
        decorators: Of `names`, those that decorate a function or class, and so run when the module is imported.
        bases: Of `names`, the base classes of a class, without those of the classes within it.
        methods: Of a class: its methods by name. They are not part of the digest.
    """

    digest: str
    names: frozenset[str]
    imports: frozenset[Target]
    decorators: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()
    methods: Mapping[str, Definition] = field(default_factory=dict)

    def as_json(self) -> list[Any]:
        """The definition as plain data."""
        methods = {name: method.as_json() for name, method in self.methods.items()}
        imports = [[*target] for target in self.imports]
        return [self.digest, sorted(self.names), imports, self.decorators, self.bases, methods]

    @classmethod
    def from_json(cls, data: Sequence[Any]) -> Definition:
        """Read what `as_json` returned."""
        digest, names, imports, decorators, bases, methods = data
        return cls(
            digest,
            frozenset(names),
            frozenset((module, name) for module, name in imports),
            tuple(decorators),
            tuple(bases),
            {name: cls.from_json(method) for name, method in methods.items()},
        )


@dataclass(frozen=True)
class ModuleCode:
    """The definitions of a module.

    Attributes:
        definitions: The statements that bind each name; a name that is bound twice has two.
        imports: What each import at the top level binds; an import that depends on a condition may bind several.
        stars: The modules of which all names are imported.
        loaded: What is imported together with this module.
        effects: Statements that do more than bind names when the module is imported.
    """

    definitions: Mapping[str, tuple[Definition, ...]]
    imports: Mapping[str, tuple[Target, ...]]
    stars: tuple[str, ...]
    loaded: tuple[Target, ...]
    effects: tuple[Definition, ...]

    def binds(self, name: str | None) -> bool:
        """Whether a statement or an import of this module binds a name."""
        return name in self.definitions or name in self.imports

    def as_json(self) -> dict[str, Any]:
        """The definitions as plain data."""
        return {
            "definitions": {name: [part.as_json() for part in parts] for name, parts in self.definitions.items()},
            "imports": {name: [[*target] for target in targets] for name, targets in self.imports.items()},
            "stars": self.stars,
            "loaded": [[*target] for target in self.loaded],
            "effects": [effect.as_json() for effect in self.effects],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModuleCode:
        """Read what `as_json` returned."""
        return cls(
            {name: tuple(map(Definition.from_json, parts)) for name, parts in data["definitions"].items()},
            {
                name: tuple((module, attribute) for module, attribute in targets)
                for name, targets in data["imports"].items()
            },
            tuple(data["stars"]),
            tuple((module, name) for module, name in data["loaded"]),
            tuple(map(Definition.from_json, data["effects"])),
        )


def read_module_code(source: str | bytes, module: str, *, is_package: bool) -> ModuleCode:
    """Split a module into its definitions.

    Args:
        source: The text of the module.
        module: Its dotted name, from which relative imports start.
        is_package: Whether it is the `__init__.py` of a package.

    Raises:
        SyntaxError: The text is not valid Python.
    """
    tree = ast.parse(source)
    package = module if is_package else module.rpartition(".")[0]
    statements = _Normalised(package, keep_docstrings=_reads_docstrings(source)).block(tree.body)
    imports: dict[str, tuple[Target, ...]] = {}
    stars: list[str] = []
    loaded: list[Target] = []
    for statement in statements:
        for imported in _imports_on_load(statement):
            loaded += imported.loaded
            for bound, target in imported.bound:
                imports[bound] = (*imports.get(bound, ()), target)
            stars += imported.stars
    definitions: dict[str, tuple[Definition, ...]] = {}
    effects: list[Definition] = []
    for statement in statements:
        if isinstance(statement, _Imports):
            continue
        definition = _definition(statement, imports.keys())
        for name in set(_bound_names(statement)):
            definitions[name] = (*definitions.get(name, ()), definition)
        if not _only_binds(statement):
            effects.append(definition)
    return ModuleCode(definitions, imports, tuple(stars), tuple(loaded), tuple(effects))


def _reads_docstrings(source: str | bytes) -> bool:
    """Whether a module may use its docstrings as texts, for example as prompts."""
    words: Sequence[Any] = ("__doc__", "getdoc") if isinstance(source, str) else (b"__doc__", b"getdoc")
    return any(word in source for word in words)


class _Imports(ast.stmt):
    """Consecutive import statements, whose order and format have no effect.

    Attributes:
        text: What they import, sorted.
        bound: Each name that they bind, with what it stands for.
        stars: The modules of which all names are imported.
        loaded: The imported modules and names.
    """

    _fields = ("text",)

    def __init__(self, package: str, statements: Sequence[ast.Import | ast.ImportFrom]) -> None:
        super().__init__()
        self.bound: list[tuple[str, Target]] = []
        self.stars: list[str] = []
        self.loaded: list[Target] = []
        for statement in statements:
            if isinstance(statement, ast.Import):
                for alias in statement.names:
                    self.loaded.append((alias.name, None))
                    top = alias.name.partition(".")[0]
                    self.bound.append((alias.asname, (alias.name, None)) if alias.asname else (top, (top, None)))
                continue
            parts = package.split(".")
            parents = parts[: len(parts) - (statement.level - 1)] if statement.level else []
            module = ".".join([*parents, *([statement.module] if statement.module else [])])
            for alias in statement.names:
                if alias.name == "*":
                    self.stars.append(module)
                    self.loaded.append((module, None))
                elif module != "__future__":
                    self.bound.append((alias.asname or alias.name, (module, alias.name)))
                    self.loaded.append((module, alias.name))
        self.text = repr(sorted({*map(repr, self.bound), *map(repr, self.loaded), *self.stars}))

    @property
    def used(self) -> Iterator[Target]:
        """What code that runs these imports may use."""
        yield from (target for _, target in self.bound)
        yield from ((module, None) for module in self.stars)
        yield from (target for target in self.loaded if target[1] is None)


class _Normalised:
    """Removes from statements what has no effect on what they do.

    That is: docstrings and other texts that are statements, code for type checkers, annotations of local variables, and
    the order of imports. Expressions are left as they are.
    """

    def __init__(self, package: str, *, keep_docstrings: bool) -> None:
        self._package, self._keep_docstrings = package, keep_docstrings
        self._in_function = False

    def block(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        """Normalise a list of statements and all statements within them."""
        kept: list[ast.stmt] = []
        imports: list[ast.Import | ast.ImportFrom] = []
        for statement in self._kept(statements):
            if isinstance(statement, ast.Import | ast.ImportFrom):
                imports.append(statement)
                continue
            if imports:
                kept.append(_Imports(self._package, imports))
                imports = []
            self._visit(statement)
            kept.append(statement)
        return [*kept, _Imports(self._package, imports)] if imports else kept

    def _visit(self, node: ast.AST) -> None:
        outer = self._in_function
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            self._in_function = not isinstance(node, ast.ClassDef)
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                setattr(node, name, self.block(block) or ([ast.Pass()] if name == "body" else []))
        for child in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
            self._visit(child)
        self._in_function = outer

    def _kept(self, statements: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
        for statement in statements:
            chosen = _without_type_checking(statement)
            if chosen is not None:
                yield from self._kept(chosen)
            elif self._in_function and isinstance(statement, ast.AnnAssign):
                if statement.value is not None:
                    yield ast.Assign([statement.target], statement.value)
            elif isinstance(statement, ast.Pass) or (_is_text(statement) and not self._keep_docstrings):
                continue
            else:
                yield statement


def _statements(statement: ast.AST) -> Iterator[ast.AST]:
    """Yield a statement and all statements within it; expressions hold none."""
    yield statement
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        block = getattr(statement, name, None)
        for child in block if isinstance(block, list) else ():
            yield from _statements(child)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _without_type_checking(statement: ast.stmt) -> list[ast.stmt] | None:
    """Return what runs of a condition for type checkers; None for another statement."""
    if not isinstance(statement, ast.If):
        return None
    test, chosen = statement.test, statement.orelse
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        test, chosen = test.operand, statement.body
    name = test.id if isinstance(test, ast.Name) else test.attr if isinstance(test, ast.Attribute) else None
    return chosen if name == "TYPE_CHECKING" else None


def _imports_on_load(statement: ast.AST) -> Iterator[_Imports]:
    """Yield the imports that run when the module is imported: all but those in functions."""
    if isinstance(statement, _Imports):
        yield statement
    elif not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.expr):
        for child in ast.iter_child_nodes(statement):
            yield from _imports_on_load(child)


def _bound_names(statement: ast.stmt) -> Iterator[str]:
    """Yield the names that a top-level statement binds."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
        return
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, _Imports):
            yield from (bound for bound, _ in node.bound)


def _only_binds(statement: ast.AST) -> bool:
    """Whether a statement does nothing but bind names, so that it has no effect unless one of the names is used."""
    if isinstance(statement, ast.Assign):
        return all(isinstance(target, ast.Name | ast.Tuple | ast.List) for target in statement.targets)
    if isinstance(statement, ast.AnnAssign | ast.AugAssign):
        return isinstance(statement.target, ast.Name)
    if isinstance(statement, ast.If | ast.Try | ast.With | ast.ExceptHandler):
        children = [
            child for child in ast.iter_child_nodes(statement) if not isinstance(child, ast.expr | ast.withitem)
        ]
        return all(map(_only_binds, children))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Pass, ast.Raise, _Imports)
    return isinstance(statement, kinds) or type(statement).__name__ == "TypeAlias"


def _definition(statement: ast.stmt, imported: Collection[str]) -> Definition:
    methods: dict[str, Definition] = {}
    decorators = getattr(statement, "decorator_list", [])
    bases: list[ast.expr] = []
    if isinstance(statement, ast.ClassDef):
        bases = [*statement.bases, *(keyword.value for keyword in statement.keywords)]
        functions = [node for node in statement.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        for function in functions:
            # A property has several functions of one name.
            parts = [_definition(node, imported) for node in functions if node.name == function.name]
            methods[function.name] = _joined(parts)
        statement.body = [node for node in statement.body if node not in functions] or [ast.Pass()]
    return Definition(
        hashlib.sha256(_text(statement).encode()).hexdigest(),
        frozenset(_used_names(statement, imported)),
        frozenset(target for node in _statements(statement) if isinstance(node, _Imports) for target in node.used),
        tuple(name for node in decorators for name in _used_names(node, imported)),
        tuple(name for node in bases for name in _used_names(node, imported)),
        methods,
    )


def _text(value: Any) -> str:
    """Write a tree as text. `ast.dump` writes other text in other versions of Python, where nodes have more fields."""
    if isinstance(value, ast.AST):
        parts = []
        for name in value._fields:
            item = getattr(value, name, None)
            # The kind of a constant is only the prefix of its text; the value of a constant may be None.
            if item is not None and item != [] and name != "kind":
                parts.append(f"{name}={_text(item)}")
        return f"{type(value).__name__}({', '.join(parts)})"
    return f"[{', '.join([_text(item) for item in value])}]" if isinstance(value, list) else repr(value)


def _used_names(node: ast.AST, imported: Collection[str]) -> list[str]:
    """Return the names that code uses; see `Definition.names`."""
    names: list[str] = []
    _add_used_names(node, imported, names)
    return names


def _add_used_names(node: ast.AST, imported: Collection[str], names: list[str]) -> None:
    if isinstance(node, ast.Attribute | ast.Name):
        attributes: list[str] = []
        root: ast.expr = node
        while isinstance(root, ast.Attribute):
            attributes.append(root.attr)
            root = root.value
        if isinstance(root, ast.Name):
            own = attributes[-1:] if root.id in {"self", "cls"} else []
            names.append(".".join([root.id, *(reversed(attributes) if root.id in imported else own)]))
            return
    for name in node._fields:
        value = getattr(node, name, None)
        for child in value if isinstance(value, list) else (value,):
            if isinstance(child, ast.AST):
                if name in {"annotation", "returns"}:
                    _add_names_in_texts(child, imported, names)
                _add_used_names(child, imported, names)


def _add_names_in_texts(annotation: ast.AST, imported: Collection[str], names: list[str]) -> None:
    """Add the names in the texts of an annotation, such as `"list[Kind]"`."""
    for node in ast.walk(annotation):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            with suppress(SyntaxError):
                _add_used_names(ast.parse(node.value, mode="eval"), imported, names)


def _joined(parts: list[Definition]) -> Definition:
    if len(parts) == 1:
        return parts[0]
    digest = hashlib.sha256("".join(part.digest for part in parts).encode()).hexdigest()
    return Definition(
        digest, frozenset().union(*(part.names for part in parts)), frozenset().union(*(part.imports for part in parts))
    )


MAX_CACHED_MODULES = 1000
"""Number of modules whose definitions the user's cache holds; a module takes a few kilobytes."""


def module_code(module: str) -> ModuleCode | None:
    """Read the code of a module that can be imported, without importing it; None if it is not Python source.

    What was read is cached by the text of the module, because parsing takes a hundred times as long as hashing.

    Raises:
        RequirementError: This process runs an older text of the module.
        PluginError: The text is not valid Python.
    """
    file = module_file(module)
    if file is None:
        return None
    content = file.read_bytes()
    check_unedited(module, file, content)
    try:
        return _cached_module_code(content, module, is_package=file.name == "__init__.py")
    except SyntaxError as error:
        raise PluginError(f"{file} is not valid Python: {error}") from error


@cache
def _cached_module_code(source: bytes, module: str, *, is_package: bool) -> ModuleCode:
    def compute() -> dict[str, Any]:
        return read_module_code(source, module, is_package=is_package).as_json()

    folder = user_cache_dir("code")
    if folder is None:
        return ModuleCode.from_json(compute())
    key = hashlib.sha256(f"{FORMAT} {sys.version_info[:2]} {module} {is_package}\n".encode() + source).hexdigest()
    content = cached_json(folder / f"{key}.json", compute, keep=lambda _: True, max_files=MAX_CACHED_MODULES)
    return ModuleCode.from_json(content)


def module_file(module: str) -> Path | None:
    """Find the source file of a module in its package's folder; None if there is none."""
    path = module_path(module)
    return path if path is not None and path.suffix == ".py" else None


def module_path(module: str) -> Path | None:
    """Find the file of a module, or the folder of a package without `__init__.py`; None if there is neither."""
    top, *parts = module.split(".")
    spec = find_spec(top)
    if spec is None or (spec.origin is None and not spec.submodule_search_locations):
        return None
    if not parts and spec.origin is not None:
        return Path(spec.origin)
    folders = [Path(folder, *parts) for folder in spec.submodule_search_locations or ()]
    for path in folders:
        # Where both exist, Python imports the package.
        for candidate in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if candidate.is_file():
                return candidate
    return next((path for path in folders if path.is_dir()), None)
