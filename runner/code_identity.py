"""Identity of code: a hash of the definitions that a plugin or a step of the engine can run, by module."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from runner.errors import RequirementError
from runner.files import cached_json, user_cache_dir

ENGINE = "runner"
"""The package of the engine. Of its modules, only `COMPUTING_MODULES` can change a result."""

COMPUTING_MODULES = frozenset(
    {
        "runner.dataset.folder_reader",
        "runner.dataset.folder_writer",
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
    "nltk": "nltk",
    "numpy": "numpy",
    "peft": "peft",
    "rouge_score": "rouge-score",
    "tokenizers": "tokenizers",
    "torch": "torch",
    "transformers": "transformers",
    "vllm": "vllm",
}
"""Packages whose version can change a result: name of the import to name of the distribution."""

COMPUTES_WITH = {"transformers": ("tokenizers", "pillow", "numpy"), "torch": ("numpy",)}
"""Packages that a package computes with, by distribution."""


FORMAT = 1
"""Version of the cached definitions, to be raised whenever `read_module_code` changes."""


@dataclass(frozen=True)
class Definition:
    """A statement at the top level of a module, or a method of a class.

    Attributes:
        digest: SHA-256 of its syntax tree, without comments, docstrings and formatting.
        names: The names of the module that it uses.
        imports: What it imports itself, as pairs of module and name; the name is None for the module itself.
        methods: Of a class: its methods by name. They are not part of the digest.
    """

    digest: str
    names: frozenset[str]
    imports: frozenset[tuple[str, str | None]]
    methods: Mapping[str, Definition] = field(default_factory=dict)

    def as_json(self) -> list[Any]:
        """The definition as plain data."""
        methods = {name: method.as_json() for name, method in self.methods.items()}
        return [self.digest, sorted(self.names), [[*target] for target in self.imports], methods]

    @classmethod
    def from_json(cls, data: Sequence[Any]) -> Definition:
        """Read what `as_json` returned."""
        digest, names, imports, methods = data
        targets = frozenset((module, name) for module, name in imports)
        return cls(digest, frozenset(names), targets, {name: cls.from_json(method) for name, method in methods.items()})


@dataclass(frozen=True)
class ModuleCode:
    """The definitions of a module.

    Attributes:
        definitions: The statements that bind each name; a name that is bound twice has two.
        imports: The module and the name behind each imported name; the name is None for a module.
        effects: Statements that bind no name and run when the module is imported.
    """

    definitions: Mapping[str, tuple[Definition, ...]]
    imports: Mapping[str, tuple[str, str | None]]
    effects: tuple[Definition, ...]

    def as_json(self) -> dict[str, Any]:
        """The definitions as plain data."""
        return {
            "definitions": {name: [part.as_json() for part in parts] for name, parts in self.definitions.items()},
            "imports": {name: [*target] for name, target in self.imports.items()},
            "effects": [effect.as_json() for effect in self.effects],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModuleCode:
        """Read what `as_json` returned."""
        return cls(
            {name: tuple(map(Definition.from_json, parts)) for name, parts in data["definitions"].items()},
            {name: (module, attribute) for name, (module, attribute) in data["imports"].items()},
            tuple(map(Definition.from_json, data["effects"])),
        )


def read_module_code(source: str, module: str, *, is_package: bool) -> ModuleCode:
    """Split a module into its definitions.

    Args:
        source: The text of the module.
        module: Its dotted name, from which relative imports start.
        is_package: Whether it is the `__init__.py` of a package.

    Raises:
        SyntaxError: The text is not valid Python.
    """
    package = module if is_package else module.rpartition(".")[0]
    definitions: dict[str, tuple[Definition, ...]] = {}
    imports: dict[str, tuple[str, str | None]] = {}
    effects: list[Definition] = []
    for statement in _without_docstrings(ast.parse(source)).body:
        if _is_type_checking(statement):
            continue
        bound = set(_bound_names(statement))
        imported = dict(_imports(statement, package))
        imports |= imported
        if isinstance(statement, ast.Import | ast.ImportFrom):
            continue
        definition = _definition(statement, package)
        for name in bound | imported.keys():
            definitions[name] = (*definitions.get(name, ()), definition)
        if not bound and not imported:
            effects.append(definition)
    return ModuleCode(definitions, imports, tuple(effects))


def _without_docstrings(tree: ast.Module) -> ast.Module:
    """Remove docstrings, also those below an assignment: a text that is a statement has no effect."""
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                kept = [statement for statement in block if not _is_text(statement)]
                setattr(node, name, kept or ([ast.Pass()] if block and name == "body" else []))
        if isinstance(node, ast.Constant):
            node.kind = None
    return tree


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_type_checking(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.If) and isinstance(statement.test, ast.Name) and statement.test.id == "TYPE_CHECKING"
    )


def _bound_names(statement: ast.stmt) -> Iterator[str]:
    """Yield the names that a top-level statement binds, imports aside."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
        return
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name


def _imports(node: ast.AST, package: str) -> Iterator[tuple[str, tuple[str, str | None]]]:
    """Yield the imports in a statement: the bound name, with module and name behind it."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield alias.asname or alias.name.partition(".")[0], (alias.name, None)
        elif isinstance(child, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - (child.level - 1)] if child.level else []
            module = ".".join([*parents, *([child.module] if child.module else [])])
            for alias in child.names:
                yield alias.asname or alias.name, (module, None if alias.name == "*" else alias.name)


def _definition(statement: ast.stmt, package: str) -> Definition:
    methods: dict[str, Definition] = {}
    if isinstance(statement, ast.ClassDef):
        functions = [node for node in statement.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        for function in functions:
            # A property has several functions of one name.
            parts = [_definition(node, package) for node in functions if node.name == function.name]
            methods[function.name] = _joined(parts)
        statement.body = [node for node in statement.body if node not in functions] or [ast.Pass()]
    names = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
    imports = frozenset(target for _, target in _imports(statement, package))
    digest = hashlib.sha256(ast.dump(statement).encode()).hexdigest()
    return Definition(digest, frozenset(names), imports, methods)


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
    """
    file = module_file(module)
    if file is None:
        return None
    source = file.read_text(encoding="utf-8")
    _check_loaded(module, file, source)
    return _cached_module_code(source, module, is_package=file.name == "__init__.py")


_LOADED: dict[str, tuple[object, str]] = {}
"""The modules that this process had imported when their text was first read: the spec of the import, and the text."""


def _check_loaded(module: str, file: Path, source: str) -> None:
    """Refuse a module that was edited after its import: Python goes on running the text that it imported."""
    if module not in sys.modules:
        return
    import_spec = sys.modules[module].__spec__
    known_spec, known_source = _LOADED.setdefault(module, (import_spec, source))
    if known_spec is not import_spec:  # `importlib.reload` creates a new spec.
        _LOADED[module] = (import_spec, source)
    elif known_source != source:
        raise RequirementError(
            f"{file} was edited after this process imported it, so the code that runs here is not the code in the "
            "file; restart the process (in a notebook, the kernel)"
        )


@cache
def _cached_module_code(source: str, module: str, *, is_package: bool) -> ModuleCode:
    def compute() -> dict[str, Any]:
        return read_module_code(source, module, is_package=is_package).as_json()

    folder = user_cache_dir("code")
    if folder is None:
        return ModuleCode.from_json(compute())
    key = hashlib.sha256(f"{FORMAT} {sys.version_info[:2]} {module} {is_package}\n{source}".encode()).hexdigest()
    content = cached_json(folder / f"{key}.json", compute, keep=lambda _: True, max_files=MAX_CACHED_MODULES)
    return ModuleCode.from_json(content)


def module_file(module: str) -> Path | None:
    """Find the source file of a module in its package's folder; None if there is none."""
    top, *parts = module.split(".")
    spec = find_spec(top)
    if spec is None or (spec.origin is None and not spec.submodule_search_locations):
        return None
    if not parts and spec.origin is not None:
        return Path(spec.origin) if spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        path = Path(folder, *parts)
        for candidate in (path.with_suffix(".py"), path / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


def own_packages(module: str, distribution: Distribution | None) -> frozenset[str]:
    """The top-level packages whose source belongs to a plugin: that of its module, and those of its distribution."""
    listed = (distribution.read_text("top_level.txt") or "").split() if distribution else []
    return frozenset({module.partition(".")[0], *listed})


class CodeWalk:
    """Follows the names that definitions use, through the modules of some packages and of the engine."""

    def __init__(self, packages: Collection[str], without_modules: Collection[str]) -> None:
        """Take the top-level packages to follow besides the engine, and modules that are not followed."""
        self._packages, self._without_modules = frozenset(packages), frozenset(without_modules)
        self._seen: set[tuple[str, str | None]] = set()
        self._pending: list[tuple[str, str | None]] = []
        # Each file is read once a walk, so that one walk sees one state of the code.
        self._module_code = cache(module_code)
        self._module_file = cache(module_file)
        self.reached: dict[str, dict[str, str]] = {}
        self.external: set[str] = set()

    def follow(self, module: str, name: str, without_methods: Collection[str] = ()) -> None:
        """Follow a definition, such as a plugin's class, except for some of its methods."""
        self._seen.add((module, name))
        self._visit(module, name, without_methods)
        while self._pending:
            item = self._pending.pop()
            if item not in self._seen:
                self._seen.add(item)
                self._visit(*item)

    def _visit(self, module: str, name: str | None, without_methods: Collection[str] = ()) -> None:
        code = self._module_code(module)
        if code is None:
            return
        self._visit_effects(module)
        for bound in [*code.definitions, *code.imports] if name is None else [name]:
            if bound in code.imports:
                self._use(*code.imports[bound])
            for index, definition in enumerate(code.definitions.get(bound, ())):
                parts = {"": definition, **definition.methods}
                for part, content in parts.items():
                    if part not in without_methods:
                        self._reach(module, f"{bound}.{part}.{index}", content)

    def _visit_effects(self, module: str) -> None:
        """Importing a module runs the statements of its packages and its own that bind no name."""
        for ancestor in _with_ancestors(module):
            code = self._module_code(ancestor) if self._is_followed(ancestor) else None
            for index, effect in enumerate(code.effects if code else ()):
                self._reach(ancestor, f"effect {index}", effect)

    def _reach(self, module: str, label: str, definition: Definition) -> None:
        self.reached.setdefault(module, {})[label] = definition.digest
        code = self._module_code(module)
        assert code is not None
        self._pending += [
            (module, name) for name in definition.names if name in code.definitions or name in code.imports
        ]
        for target in definition.imports:
            self._use(*target)

    def _use(self, module: str, name: str | None) -> None:
        """Follow an import: of a module, of a name, or of a module of a package."""
        top = module.partition(".")[0]
        if top != ENGINE and top not in self._packages:
            self.external.add(top)
            return
        code = self._module_code(module)
        is_bound = code is not None and (name in code.definitions or name in code.imports)
        if name is not None and not is_bound and self._module_file(f"{module}.{name}") is not None:
            module, name = f"{module}.{name}", None
        if self._is_followed(module):
            self._pending.append((module, name))

    def _is_followed(self, module: str) -> bool:
        if module in self._without_modules:
            return False
        top = module.partition(".")[0]
        return module in COMPUTING_MODULES if top == ENGINE else top in self._packages


def code_identity(
    roots: Iterable[tuple[str, str]],
    packages: Collection[str] = (),
    *,
    without_methods: Collection[str] = (),
    without_modules: Collection[str] = (),
) -> dict[str, str]:
    """Hash the code that can run when some definitions are used.

    From each root, the names that a definition uses are followed through the modules of the given packages and of
    `COMPUTING_MODULES`. What a name refers to is decided by the text of the modules, without importing them, so code
    that is found by a computed name (`getattr`, `import_module`) is not followed.

    Args:
        roots: Module and name of each definition to start from, such as a plugin's class.
        packages: The top-level packages whose modules are followed, besides the engine.
        without_methods: Methods of the roots that are not used.
        without_modules: Modules that are not followed.

    Returns:
        For each module the first 16 digits of a SHA-256 over its reached definitions, and for each of
        `COMPUTING_PACKAGES` that these definitions use, its version.
    """
    walk = CodeWalk(packages, without_modules)
    for module, name in roots:
        walk.follow(module, name, without_methods)
    return {**_module_hashes(walk.reached), **_package_versions(walk.external)}


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
                is_package = name in COMPUTING_PACKAGES.values()
                changes[name] = (
                    f"{name} was {old} and is now {new}" if is_package else f"the code of {name} has changed"
                )
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


def _package_versions(imported: Iterable[str]) -> dict[str, str]:
    names = {COMPUTING_PACKAGES[name] for name in imported if name in COMPUTING_PACKAGES}
    names |= {other for name in names for other in COMPUTES_WITH.get(name, ())}
    return {name: _version(name) for name in sorted(names)}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
