"""What software a machine computes with, so that two machines can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint

from runner.provenance import code_hash, packages
from runner.registry import STAGES, installed

Software = Mapping[str, str]
"""Version or hash by the name of a package, a distribution, or the code of one."""


def software() -> dict[str, str]:
    """The software of this machine.

    Of the main packages what stands before a `+` counts: behind it is the device that a build of torch is for, which
    a laptop and a rack need not share.

    Raises:
        PluginError: Two distributions offer the same plugin.
    """
    plugins = [plugin for stage in STAGES for plugin in installed(stage).values()]
    distributions = dict(plugin.distribution.rsplit(" ", 1) for plugin in plugins if " " in plugin.distribution)
    code = {"runner", *(_top(plugin.entry) for plugin in plugins)}
    return {
        **{name: version.split("+")[0] for name, version in packages().items()},
        **distributions,
        **{f"the code of {name}": code_hash(name) for name in sorted(code)},
    }


def differences(ours: Software, theirs: Software) -> list[str]:
    """Name what two machines do not have alike, the first one's version before the second one's."""
    names = [*ours, *(name for name in theirs if name not in ours)]
    return [
        f"{name} {ours.get(name, 'missing')} here and {theirs.get(name, 'missing')} there"
        for name in names
        if ours.get(name) != theirs.get(name)
    ]


def _top(entry: EntryPoint) -> str:
    return entry.module.split(".")[0]
