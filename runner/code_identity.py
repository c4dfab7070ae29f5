"""Identity of code: a hash of the definitions that a plugin or a step of the engine can run, by module."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import (
    Distribution,
    PackageNotFoundError,
    distribution,
    packages_distributions,
    requires,
    version,
)

from runner.imported_modules import ENGINE, SHIPPED
from runner.module_code import Definition, ModuleCode, module_code, module_path

COMPUTING_MODULES = frozenset(
    {
        "runner.dataset.folder_reader",
        "runner.dataset.folder_writer",
        "runner.dataset.leaks",
        "runner.images",
        "runner.prompt_rendering",
        "runner.records",
        "runner.regime",
        "runner.spec.regime_section",
        "runner.stages",
        "runner.stages.adapter_and_model",
        "runner.stages.box_frame",
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
    "bitsandbytes": "bitsandbytes",
    "imagehash": "ImageHash",
    "liger_kernel": "liger-kernel",
    "nltk": "nltk",
    "numpy": "numpy",
    "pandas": "pandas",
    "peft": "peft",
    "rouge_score": "rouge-score",
    "scipy": "scipy",
    "tokenizers": "tokenizers",
    "torch": "torch",
    "transformers": "transformers",
}
"""Of the packages that the runner requires, those whose version can change a result: name of the import to name of the
distribution."""

COMPUTES_WITH = {
    "ImageHash": ("numpy", "pillow", "scipy"),
    "torch": ("numpy",),
    "transformers": ("tokenizers", "pillow", "numpy"),
}
"""Packages that a package computes with, by distribution."""


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
        self._module_path = cache(module_path)
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
