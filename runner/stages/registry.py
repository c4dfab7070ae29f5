"""Finds plugins by stage and name among the entry points of the installed distributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, cached_property
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from inspect import isabstract, isfunction
from traceback import walk_tb
from typing import Any, cast, get_args

from runner.errors import PluginError
from runner.imported_modules import note_imported
from runner.stages import (
    Adapter,
    Annotator,
    Data,
    Generator,
    GeneratorOptions,
    Metric,
    MetricOptions,
    Model,
    ModelOptions,
    Optimizer,
    Options,
    Source,
    Stage,
    Tracker,
    Trainer,
    TrainerOptions,
)

STAGES: tuple[Stage, ...] = get_args(Stage)

BASES: dict[str, type[Options]] = {
    "generator": GeneratorOptions,
    "model": ModelOptions,
    "trainer": TrainerOptions,
}
"""The base class of a stage's options, if it is not `Options` itself."""

PROTOCOLS: dict[str, type] = {
    "data": Data,
    "source": Source,
    "annotator": Annotator,
    "adapter": Adapter,
    "model": Model,
    "optimizer": Optimizer,
    "trainer": Trainer,
    "generator": Generator,
    "metric": Metric,
    "tracker": Tracker,
}
"""The methods that a plugin of each stage must have."""


@dataclass(frozen=True)
class Plugin:
    """An installed plugin that is not imported yet."""

    stage: Stage
    name: str
    options_entry: EntryPoint
    entry: EntryPoint

    @cached_property
    def distribution(self) -> str:
        """Name and version of the plugin's distribution, such as `mmre-runner 0.1.0`."""
        dist = self.entry.dist
        return f"{dist.name} {dist.version}" if dist else "unknown"

    def options_class(self) -> type[Options]:
        """Import only the options, which is fast.

        Raises:
            PluginError: The class cannot be imported or has the wrong base class.
        """
        loaded = self._load(self.options_entry)
        base = BASES.get(self.stage, Options)
        if not (isinstance(loaded, type) and issubclass(loaded, base)):
            raise PluginError(
                f"{self.stage} plugin {self.name!r} ({self.distribution}): {self.options_entry.value} is not a "
                f"subclass of runner.stages.{base.__name__}"
            )
        if isabstract(loaded):
            missing = ", ".join(sorted(loaded.__abstractmethods__))
            raise PluginError(
                f"{self.stage} plugin {self.name!r} ({self.distribution}): {self.options_entry.value} does not "
                f"implement {missing}"
            )
        return loaded

    def implementation(self) -> Any:
        """Import the plugin's class, which may import heavy packages.

        Raises:
            PluginError: The class cannot be imported, or lacks a method of its stage.
        """
        loaded = self._load(self.entry)
        methods = (name for name, member in vars(PROTOCOLS[self.stage]).items() if isfunction(member))
        missing = [name for name in methods if not name.startswith("_") and not hasattr(loaded, name)]
        if missing:
            raise PluginError(
                f"{self.stage} plugin {self.name!r} ({self.distribution}): {self.entry.value} does not implement "
                f"{', '.join(missing)}; see runner.stages.{PROTOCOLS[self.stage].__name__}"
            )
        return loaded

    def options_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the options.

        Raises:
            PluginError: The class cannot be imported, or has no schema.
        """
        options = self.options_class()
        try:
            return options.model_json_schema()
        except Exception as error:  # pydantic, or code of the plugin
            raise PluginError(f"{self}: its options have no JSON Schema: {type(error).__name__}: {error}") from error

    def __str__(self) -> str:
        """Name the plugin: `metric plugin 'length' (some-package 1.0)`."""
        return f"{self.stage} plugin {self.name!r} ({self.distribution})"

    def _load(self, entry: EntryPoint) -> Any:
        try:
            loaded = entry.load()
        except (Exception, SystemExit) as error:  # a module can raise anything when it is imported
            raise PluginError(
                f"{self}: {entry.value} cannot be imported: {type(error).__name__}: {error}. Repair or uninstall "
                f"{self.entry.dist.name if self.entry.dist else 'the package of this plugin'}"
            ) from error
        note_imported([entry.module.partition(".")[0]])
        return loaded

    def metric_names(self) -> Sequence[str]:
        """Return the names of a metric; the plugin itself is not imported if its options list them."""
        options = self.options_class()
        return options.metric_names if issubclass(options, MetricOptions) else self.implementation().metric_names


def installed_plugins(stage: Stage) -> dict[str, Plugin]:
    """Return the plugins of a stage, sorted by name, without those of `wrongly_installed_plugins`."""
    return _read_plugins(stage)[0]


def wrongly_installed_plugins(stage: Stage) -> dict[str, str]:
    """Return the plugins that two distributions provide, or that have only one of their two entry points.

    Returns:
        The error message by name.
    """
    return _read_plugins(stage)[1]


@cache
def _read_plugins(stage: Stage) -> tuple[dict[str, Plugin], dict[str, str]]:
    groups = (f"runner.{stage}.options", f"runner.{stage}")
    problems: dict[str, str] = {}
    options, entries = (_unique(stage, group, problems) for group in groups)
    for name in options.keys() ^ entries.keys():
        group = groups[1] if name in options else groups[0]
        problems.setdefault(name, f"{stage} plugin {name!r} has no entry point in the group {group!r}")
    names = sorted((options.keys() & entries.keys()) - problems.keys())
    return {name: Plugin(stage, name, options[name], entries[name]) for name in names}, problems


@cache
def _entry_points() -> EntryPoints:
    """Read all entry points once, because this opens a file of each installed distribution."""
    return cast("EntryPoints", entry_points())


def _unique(stage: str, group: str, problems: dict[str, str]) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name; a name that occurs twice is added to the problems."""
    by_name: dict[str, EntryPoint] = {}
    for entry in _entry_points().select(group=group):
        other = by_name.setdefault(entry.name, entry)
        if other.value != entry.value:
            problems[entry.name] = (
                f"{stage} plugin {entry.name!r} is installed twice: {other.value} and {entry.value}; "
                "uninstall one of the two distributions"
            )
    return by_name


def find_plugin(stage: Stage, name: str) -> Plugin:
    """Return a plugin by name.

    Raises:
        PluginError: There is no plugin of this name; the message suggests the most similar name.
    """
    plugins = installed_plugins(stage)
    if name not in plugins:
        raise PluginError(unknown_plugin_message(stage, name))
    return plugins[name]


def unknown_plugin_message(stage: Stage, name: str) -> str:
    """Return the error message for an unknown plugin name, with the new name of a renamed plugin or a suggestion."""
    plugins, problems = installed_plugins(stage), wrongly_installed_plugins(stage)
    if name in problems:
        return problems[name]
    renamed = [plugin.name for plugin in plugins.values() if name in _former_types(plugin)]
    hint = f"; it is now called {renamed[0]!r}" if renamed else suggestion(name, plugins)
    return f"no {stage} plugin {name!r}{hint}"


def _former_types(plugin: Plugin) -> Sequence[str]:
    try:
        return plugin.options_class().former_types
    except PluginError:  # The message is about another plugin; `runner plugins` names this one.
        return ()


def plugin_problems() -> list[str]:
    """Describe the plugins that cannot be used, because they are wrongly installed or cannot be imported."""
    problems: list[str] = []
    for stage in STAGES:
        problems += wrongly_installed_plugins(stage).values()
        for plugin in installed_plugins(stage).values():
            try:
                plugin.options_schema()
            except PluginError as error:
                problems.append(str(error))
    return problems


def describe_error(error: BaseException) -> str:
    """Describe an unexpected exception, with the plugin in whose code it was raised."""
    message = f"{type(error).__name__}: {error}"
    plugin = _raising_plugin(error)
    return f"{plugin} raised {message}" if plugin else message


def _raising_plugin(error: BaseException) -> Plugin | None:
    """Find the plugin of the innermost call whose module, or a package that is not the runner's, is a plugin's."""
    plugins = [plugin for stage in STAGES for plugin in installed_plugins(stage).values()]
    by_module = {entry.module: plugin for plugin in plugins for entry in (plugin.options_entry, plugin.entry)}
    own_packages = {"runner", "plugins"}
    packages = {module.partition(".")[0]: plugin for module, plugin in by_module.items()}
    found = None
    for frame, _ in walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__", ""))
        package = module.partition(".")[0]
        found = by_module.get(module) or (packages.get(package) if package not in own_packages else None) or found
    return found


def suggestion(name: str, valid: Any) -> str:
    """Return `; did you mean 'sft'?` with the most similar valid name, or a list of all if none is similar."""
    names = [str(option) for option in valid]
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; valid: {', '.join(names)}" if names else ""
