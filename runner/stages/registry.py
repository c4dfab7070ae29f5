"""Finds plugins by stage and name among the entry points of the installed distributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, cached_property
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from inspect import isabstract
from typing import Any, cast, get_args

from runner.errors import PluginError
from runner.stages import GeneratorOptions, MetricOptions, ModelOptions, Options, Stage, TrainerOptions

STAGES: tuple[Stage, ...] = get_args(Stage)

BASES: dict[str, type[Options]] = {
    "generator": GeneratorOptions,
    "model": ModelOptions,
    "trainer": TrainerOptions,
}
"""What the options of a stage derive from, where that is more than `Options`."""


@dataclass(frozen=True)
class Plugin:
    """An installed plugin, not yet imported."""

    stage: Stage
    name: str
    options_entry: EntryPoint
    entry: EntryPoint

    @cached_property
    def distribution(self) -> str:
        """The distribution it came with and its version: `mmre-runner 0.1.0`; its metadata is parsed once."""
        dist = self.entry.dist
        return f"{dist.name} {dist.version}" if dist else "unknown"

    def options_class(self) -> type[Options]:
        """Import the options alone, which is light.

        Raises:
            PluginError: It cannot be imported or is no `Options`.
        """
        loaded = _load(self.options_entry)
        base = BASES.get(self.stage, Options)
        if not (isinstance(loaded, type) and issubclass(loaded, base)):
            raise PluginError(
                f"{self.stage} plugin {self.name!r} ({self.distribution}): {self.options_entry.value} is no "
                f"subclass of runner.stages.{base.__name__}"
            )
        if isabstract(loaded):
            missing = ", ".join(sorted(loaded.__abstractmethods__))
            raise PluginError(
                f"{self.stage} plugin {self.name!r} ({self.distribution}): {self.options_entry.value} lacks {missing}"
            )
        return loaded

    def implementation(self) -> Any:
        """Import the plugin's class, which may be heavy.

        Raises:
            PluginError: It cannot be imported.
        """
        return _load(self.entry)

    def figures(self) -> Sequence[str]:
        """The names of a metric's figures; without importing it, where its options say them."""
        options = self.options_class()
        return options.figures if issubclass(options, MetricOptions) else self.implementation().names


def _load(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise PluginError(f"plugin {entry.name!r} ({entry.value}) cannot be imported: {error}") from error


@cache
def installed(stage: Stage) -> dict[str, Plugin]:
    """List a stage's plugins by name, sorted.

    Raises:
        PluginError: Two distributions offer the same name, or an entry point lacks its other half.
    """
    options = _unique(stage, f"runner.{stage}.options")
    entries = _unique(stage, f"runner.{stage}")
    for name in options.keys() ^ entries.keys():
        group = f"runner.{stage}" if name in options else f"runner.{stage}.options"
        raise PluginError(f"{stage} plugin {name!r} has no entry point in the group {group!r}")
    return {name: Plugin(stage, name, options[name], entries[name]) for name in sorted(entries)}


@cache
def _entry_points() -> EntryPoints:
    """All entry points; reading them means opening a file of each installed distribution, so once is enough."""
    return cast("EntryPoints", entry_points())


def _unique(stage: str, group: str) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for entry in _entry_points().select(group=group):
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise PluginError(
                f"{stage} plugin {entry.name!r} is offered twice: {other.value} and {entry.value}; "
                "uninstall one of the two distributions"
            )
    return found


def find(stage: Stage, name: str) -> Plugin:
    """Get one plugin.

    Raises:
        PluginError: There is none of that name; the message names the nearest one.
    """
    plugins = installed(stage)
    if name not in plugins:
        raise PluginError(unknown_plugin(stage, name))
    return plugins[name]


def unknown_plugin(stage: Stage, name: str) -> str:
    """The message for a name that no plugin has: its new name where it was renamed, else the nearest."""
    plugins = installed(stage)
    renamed = [each.name for each in plugins.values() if name in each.options_class().former_types]
    return f"no {stage} plugin {name!r}" + (f"; it is now called {renamed[0]!r}" if renamed else nearest(name, plugins))


def nearest(name: str, valid: Any) -> str:
    """Phrase the nearest valid name, or all of them where none is near: `; did you mean 'sft'?`."""
    names = [str(each) for each in valid]
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; valid: {', '.join(names)}" if names else ""
