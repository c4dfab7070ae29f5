"""Finds plugins by stage and name among the entry points of the installed distributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, cached_property
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from inspect import isabstract, isfunction
from typing import Any, cast, get_args

from runner.code_identity import note_imported
from runner.errors import PluginError
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
        loaded = _load(self.options_entry)
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
        loaded = _load(self.entry)
        methods = (name for name, member in vars(PROTOCOLS[self.stage]).items() if isfunction(member))
        missing = [name for name in methods if not name.startswith("_") and not hasattr(loaded, name)]
        if missing:
            raise PluginError(
                f"{self.stage} plugin {self.name!r} ({self.distribution}): {self.entry.value} does not implement "
                f"{', '.join(missing)}; see runner.stages.{PROTOCOLS[self.stage].__name__}"
            )
        return loaded

    def metric_names(self) -> Sequence[str]:
        """Return the names of a metric; the plugin itself is not imported if its options list them."""
        options = self.options_class()
        return options.metric_names if issubclass(options, MetricOptions) else self.implementation().metric_names


def _load(entry: EntryPoint) -> Any:
    try:
        loaded = entry.load()
    except (ImportError, AttributeError) as error:
        raise PluginError(f"plugin {entry.name!r} ({entry.value}) cannot be imported: {error}") from error
    note_imported([entry.module.partition(".")[0]])
    return loaded


@cache
def installed_plugins(stage: Stage) -> dict[str, Plugin]:
    """Return the plugins of a stage, sorted by name.

    Raises:
        PluginError: Two distributions provide the same name, or a plugin has only one of its two entry points.
    """
    options = _unique(stage, f"runner.{stage}.options")
    entries = _unique(stage, f"runner.{stage}")
    for name in options.keys() ^ entries.keys():
        group = f"runner.{stage}" if name in options else f"runner.{stage}.options"
        raise PluginError(f"{stage} plugin {name!r} has no entry point in the group {group!r}")
    return {name: Plugin(stage, name, options[name], entries[name]) for name in sorted(entries)}


@cache
def _entry_points() -> EntryPoints:
    """Read all entry points once, because this opens a file of each installed distribution."""
    return cast("EntryPoints", entry_points())


def _unique(stage: str, group: str) -> dict[str, EntryPoint]:
    by_name: dict[str, EntryPoint] = {}
    for entry in _entry_points().select(group=group):
        other = by_name.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise PluginError(
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
    plugins = installed_plugins(stage)
    renamed = [plugin.name for plugin in plugins.values() if name in plugin.options_class().former_types]
    hint = f"; it is now called {renamed[0]!r}" if renamed else suggestion(name, plugins)
    return f"no {stage} plugin {name!r}{hint}"


def suggestion(name: str, valid: Any) -> str:
    """Return `; did you mean 'sft'?` with the most similar valid name, or a list of all if none is similar."""
    names = [str(option) for option in valid]
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; valid: {', '.join(names)}" if names else ""
