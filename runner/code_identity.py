"""Identity of code: a hash of the definitions that a plugin or a step of the engine can run, by module."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import (
    Distribution,
    PackageNotFoundError,
    distribution,
    packages_distributions,
    requires,
    version,
)
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from runner.errors import PluginError
from runner.files import cached_json, user_cache_dir
from runner.imported_modules import ENGINE, SHIPPED, check_unedited

COMPUTING_MODULES = frozenset(
    {
        "runner.dataset.folder_reader",
        "runner.dataset.folder_writer",
        "runner.dataset.leaks",
        "runner.images",
        "runner.prompt_rendering",
        "runner.records",
        "runner.stages",
        "runner.stages.adapter_and_model",
        "runner.stages.data_and_annotator",
        "runner.stages.generator_and_metric",
        "runner.stages.optimizer_and_trainer",
        "runner.trial.generate",
        "runner.trial.score",
        "runner.trial.train",
        "runner.trial.trial_components",
        "runner.trial.validation_generator",
    }
)
"""The modules of the engine that compute. The others read specs, place, log, cache, check and display: an edit of them
cannot change weights, answers or metrics."""

COMPUTING_PACKAGES = {
    "PIL": "pillow",
    "accelerate": "accelerate",
    "imagehash": "ImageHash",
    "nltk": "nltk",
    "numpy": "numpy",
    "pandas": "pandas",
    "peft": "peft",
    "rouge_score": "rouge-score",
    "scipy": "scipy",
    "tokenizers": "tokenizers",
    "torch": "torch",
    "transformers": "transformers",
    "vllm": "vllm",
}
"""Of the packages that the runner requires, those whose version can change a result: name of the import to name of the
distribution."""

COMPUTES_WITH = {
    "ImageHash": ("numpy", "pillow", "scipy"),
    "torch": ("numpy",),
    "transformers": ("tokenizers", "pillow", "numpy"),
}
"""Packages that a package computes with, by distribution."""

FORMAT = 2
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
    path = _module_path(module)
    return path if path is not None and path.suffix == ".py" else None


def _module_path(module: str) -> Path | None:
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


def own_packages(module: str, dist: Distribution | None) -> frozenset[str]:
    """The top-level packages whose source belongs to a plugin: that of its module, and those of its distribution."""
    # Only setuptools writes `top_level.txt`, and an editable installation lists no source files.
    listed = (dist.read_text("top_level.txt") or "").split() if dist else []
    listed += [file.parts[0].removesuffix(".py") for file in (dist.files or () if dist else ()) if file.suffix == ".py"]
    return frozenset({module.partition(".")[0], SHIPPED, *listed} - {ENGINE, ".."})


@cache
def _required_distributions() -> frozenset[str]:
    """The normalised names of the distributions that the runner requires."""
    names = (re.match(r"[\w.-]+", requirement) for requirement in requires("mmre-runner") or ())
    return frozenset(_normalised(name[0]) for name in names if name)


def _normalised(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


@cache
def _installed_distributions(package: str) -> tuple[str, ...]:
    """The distributions that a package was installed with; empty for source in place, such as an editable one."""
    if _normalised(package) in _required_distributions():
        return (package,)
    names = _all_packages().get(package, ())
    origins = (json.loads(distribution(name).read_text("direct_url.json") or "{}") for name in names)
    is_editable = any(origin.get("dir_info", {}).get("editable", False) for origin in origins)
    return () if is_editable else tuple(sorted(set(names)))


@cache
def _all_packages() -> Mapping[str, Sequence[str]]:
    return packages_distributions()  # reads several files of each installed distribution


class CodeWalk:
    """Follows the names that definitions use, through the modules of some packages and of the engine.

    A package that is neither installed nor part of Python, such as a module beside the plugin, is followed too.

    Attributes:
        reached: For each module, the digests of its definitions and imports that can be used.
        versions: The distributions whose code is used but not followed.
    """

    def __init__(self, packages: Collection[str], without_modules: Collection[str]) -> None:
        """Take the top-level packages to follow besides the engine, and modules that are not followed."""
        self._packages, self._without_modules = frozenset(packages), frozenset(without_modules)
        self._seen: set[tuple[str, str | None, tuple[str, ...]]] = set()
        self._pending: list[tuple[str, str | None, tuple[str, ...]]] = []
        self._loaded: set[str] = set()
        # Each file is read once a walk, so that one walk sees one state of the code.
        self._module_code = cache(module_code)
        self._module_path = cache(_module_path)
        self.reached: dict[str, dict[str, str]] = {}
        self.versions: set[str] = set()

    def follow(self, module: str, name: str, without_methods: Collection[str] = (), *, unless_called: bool) -> None:
        """Follow a definition, such as a plugin's class.

        Args:
            module: The module of the definition, or one that imports the definition.
            name: The name; of a nested class (`Outer.Inner`), the outer class is followed.
            without_methods: Methods of this class and its base classes that are left out.
            unless_called: Whether methods that the others call on `self` are not left out.
        """
        classes = self._with_bases(*self._home(module, name.partition(".")[0]))
        left_out = set(without_methods)
        while unless_called and (called := left_out & self._called_methods(classes, left_out)):
            left_out -= called
        self._seen |= {(*place, ()) for place in classes}
        for place in classes:
            self._visit(*place, (), left_out)
        while self._pending:
            item = self._pending.pop()
            if item not in self._seen:
                self._seen.add(item)
                self._visit(*item)

    def _home(self, module: str, name: str) -> tuple[str, str]:
        """Find the module that defines a name which another module imports, such as the `__init__.py` of a package."""
        seen: set[tuple[str, str]] = set()
        while (code := self._module_code(module)) and name not in code.definitions and (module, name) not in seen:
            seen.add((module, name))
            self._load(module)
            self._reach_import(module, name, code)
            targets = [*code.imports.get(name, ()), *((star, name) for star in code.stars)]
            places = ((target, attribute) for target, attribute in targets if attribute and self._is_followed(target))
            module, name = next(places, (module, name))
        return module, name

    def _with_bases(self, module: str, name: str) -> list[tuple[str, str]]:
        """List a class and all its base classes that are followed."""
        classes = [(module, name)]
        for place in classes:
            code = self._module_code(place[0])
            for definition in code.definitions.get(place[1], ()) if code else ():
                for base in definition.bases:
                    found = self._place_of(place[0], base)
                    classes += [found] if found and found not in classes else []
        return classes

    def _place_of(self, module: str, used: str) -> tuple[str, str] | None:
        """Find the definition behind a name that a module uses; None if it is not in a module that is followed."""
        code = self._module_code(module)
        root, *attributes = used.split(".")
        if code is None:
            return None
        if root in code.definitions and root not in code.imports:
            return module, root
        for target, name in code.imports.get(root, ()):
            path = [*target.split("."), *([name] if name else []), *attributes]
            for count in range(len(path) - 1, 0, -1):
                place = ".".join(path[:count])
                if self._is_followed(place) and self._module_code(place) is not None:
                    return self._home(place, path[count])
        return next((self._home(star, root) for star in code.stars if self._is_followed(star)), None)

    def _called_methods(self, classes: Iterable[tuple[str, str]], left_out: Collection[str]) -> set[str]:
        called: set[str] = set()
        for module, name in classes:
            code = self._module_code(module)
            for definition in code.definitions.get(name, ()) if code else ():
                methods = [method for key, method in definition.methods.items() if key not in left_out]
                used = (each.partition(".") for method in methods for each in method.names)
                called |= {attribute for root, _, attribute in used if root in {"self", "cls"}}
        return called

    def _visit(
        self, module: str, name: str | None, attributes: tuple[str, ...], without_methods: Collection[str] = ()
    ) -> None:
        code = self._module_code(module)
        if code is None:
            return
        self._load(module)
        for bound in [*code.definitions, *code.imports] if name is None else [name]:
            self._reach_import(module, bound, code)
            for target in code.imports.get(bound, ()):
                self._use(module, *target, attributes)
            for index, definition in enumerate(code.definitions.get(bound, ())):
                parts = {"": definition, **definition.methods}
                for part, content in parts.items():
                    if part not in without_methods:
                        self._reach(module, f"{bound}.{part}.{index}", content)
        if name is None or not code.binds(name):
            for star in code.stars:
                self._use(module, star, name, attributes)
            if "__getattr__" in code.definitions:
                self._pending.append((module, "__getattr__", ()))

    def _load(self, module: str) -> None:
        """Follow what runs when a module is imported: effects of the module, its packages, and what it imports."""
        pending = [module]
        while pending:
            for part in _with_ancestors(pending.pop()):
                if part in self._loaded or not self._is_followed(part):
                    continue
                self._loaded.add(part)
                code = self._module_code(part)
                if code is None:
                    continue
                for index, effect in enumerate(code.effects):
                    self._reach(part, f"effect {index}", effect)
                self._pending += [(part, name, ()) for name in code.definitions if self._is_registered(part, name)]
                for target, name in code.loaded:
                    submodule = f"{target}.{name}"
                    if self._is_followed(target):
                        is_module = name is not None and self._module_path(submodule) is not None
                        pending.append(submodule if is_module else target)

    def _is_registered(self, module: str, name: str) -> bool:
        """Whether importing a module hands a definition to other code that is followed, which may keep it in a table.

        A decorator does that, and `__init_subclass__` of a base class or the `__new__` or `__init__` of its metaclass.
        """
        code = self._module_code(module)
        assert code is not None
        definitions = code.definitions[name]
        if any(self._place_of(module, used) for part in definitions for used in part.decorators):
            return True
        if not any(part.bases for part in definitions):
            return False
        return any(self._registers_subclasses(*base) for base in self._with_bases(module, name)[1:])

    def _registers_subclasses(self, module: str, name: str) -> bool:
        code = self._module_code(module)
        parts = code.definitions.get(name, ()) if code else ()
        is_metaclass = any("type" in part.bases for part in parts)
        hooks = {"__new__", "__init__"} if is_metaclass else {"__init_subclass__"}
        return any(hooks & part.methods.keys() for part in parts)

    def _reach(self, module: str, label: str, definition: Definition) -> None:
        self.reached.setdefault(module, {})[label] = definition.digest
        code = self._module_code(module)
        assert code is not None
        for used in definition.names:
            root, *attributes = used.split(".")
            if code.binds(root) or code.stars:
                self._pending.append((module, root, tuple(attributes)))
        if "globals" in definition.names:
            self._pending.append((module, None, ()))
        for target in definition.imports:
            self._use(module, *target)

    def _reach_import(self, module: str, name: str, code: ModuleCode) -> None:
        if name in code.imports:
            self.reached.setdefault(module, {})[f"{name} import"] = repr(code.imports[name])

    def _use(self, user: str, module: str, name: str | None, attributes: tuple[str, ...] = ()) -> None:
        """Follow an import: of a module with the attributes used of it, of a name, or of a module of a package."""
        if module.partition(".")[0] != ENGINE and not self._is_followed_package(module.partition(".")[0]):
            self._use_package(user, module.partition(".")[0])
            return
        if name is None and attributes:
            name, attributes = attributes[0], attributes[1:]
        code = self._module_code(module)
        submodule = f"{module}.{name}"
        # `from . import name` in a package binds the name to its submodule.
        binds = code is not None and code.binds(name) and (module, name) not in code.imports.get(str(name), ())
        if name is not None and not binds and self._module_path(submodule) is not None:
            self._use(user, submodule, None, attributes)
        elif self._is_followed(module):
            self._pending.append((module, name, attributes))
            if name is None:
                # Code that has the package itself can use each of its modules that the user has imported.
                loaded = getattr(self._module_code(user), "loaded", ())
                self._pending += [(other, None, ()) for other, _ in loaded if other.startswith(f"{module}.")]

    def _use_package(self, user: str, package: str) -> None:
        """Note that a package is used. Which packages the runner itself computes with is known."""
        if package in COMPUTING_PACKAGES:
            self.versions.add(COMPUTING_PACKAGES[package])
        elif user.partition(".")[0] not in {ENGINE, SHIPPED} and package not in sys.stdlib_module_names:
            names = _installed_distributions(package) or (package,)
            self.versions.update(name for name in names if _normalised(name) not in _required_distributions())

    def _is_followed(self, module: str) -> bool:
        if module in self._without_modules:
            return False
        top = module.partition(".")[0]
        return module in COMPUTING_MODULES if top == ENGINE else self._is_followed_package(top)

    def _is_followed_package(self, package: str) -> bool:
        if package in self._packages or package in COMPUTING_PACKAGES or package in sys.stdlib_module_names:
            return package in self._packages
        # The runner's own code uses no package in place.
        if not self._packages or self._packages == {SHIPPED}:
            return False
        return not _installed_distributions(package) and self._module_path(package) is not None


def code_identity(
    roots: Iterable[tuple[str, str]],
    packages: Collection[str] = (),
    *,
    without_methods: Collection[str] = (),
    unless_called: bool = True,
    without_modules: Collection[str] = (),
) -> dict[str, str]:
    """Hash the code that can run when some definitions are used.

    From each root, the names that a definition uses are followed through the modules of the given packages and of
    `COMPUTING_MODULES`. What a name refers to is decided by the text of the modules, without importing them, so code
    that is found by a computed name (`getattr`, `import_module`) is not followed.

    Args:
        roots: Module and name of each definition to start from, such as a plugin's class.
        packages: The top-level packages whose modules are followed, besides the engine.
        without_methods: Methods of the roots and their base classes that are not used.
        unless_called: Whether those of them count that another method calls on `self`.
        without_modules: Modules that are not followed.

    Returns:
        For each module the first 16 digits of a SHA-256 over its reached definitions, and for each of
        `COMPUTING_PACKAGES` that these definitions use, its version.
    """
    walk = CodeWalk(packages, without_modules)
    for module, name in roots:
        walk.follow(module, name, without_methods, unless_called=unless_called)
    return {**_module_hashes(walk.reached), **_package_versions(walk.versions)}


def changed_modules(before: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Describe how the code of plugins and engine differs between two plans, each module and package once.

    Args:
        before: `Pins.code` of one plan: for each plugin, modules and packages with their hash or version.
        now: `Pins.code` of the other plan. Plugins that only one of both plans uses are not compared.
    """
    changes: dict[str, str] = {}
    for unit in before.keys() & now.keys():
        for name in before[unit].keys() | now[unit].keys():
            old, new = before[unit].get(name), now[unit].get(name)
            if old != new:
                is_module = any(re.fullmatch("[0-9a-f]{16}", value) for value in (old, new) if value)
                changes[name] = f"the code of {name} has changed" if is_module else f"{name} was {old} and is now {new}"
    return [changes[name] for name in sorted(changes)]


def _with_ancestors(module: str) -> Iterator[str]:
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        yield ".".join(parts[:count])


def _module_hashes(reached: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    return {
        module: hashlib.sha256(
            "".join(f"{label} {digest}\n" for label, digest in sorted(parts.items())).encode()
        ).hexdigest()[:16]
        for module, parts in sorted(reached.items())
    }


def _package_versions(distributions: Iterable[str]) -> dict[str, str]:
    names = set(distributions)
    names |= {other for name in names for other in COMPUTES_WITH.get(name, ())}
    return {name: _version(name) for name in sorted(names)}


def _version(name: str) -> str:
    """Return the version of a distribution.

    The local part of a computing package's version (after `+`) is omitted: it names the device that a build of torch is
    for, which may differ between the machine that resolves a plan and a worker.
    """
    try:
        installed = version(name)
    except PackageNotFoundError:
        return "not installed"
    return installed.partition("+")[0] if name in COMPUTING_PACKAGES.values() else installed
