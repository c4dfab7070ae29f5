"""Plugins whose options are not what their stage takes are refused by name."""

import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from runner.errors import PluginError
from runner.stages import ModelOptions, Options
from runner.stages.registry import Plugin


class Unsaid(ModelOptions):
    """Options that do not say which weights they name."""


class Said(ModelOptions):
    """Options that do."""

    def exact_revision(self):
        return "random"


@pytest.fixture
def plugin(monkeypatch):
    """A model plugin whose options are a given class."""

    def plugin(options):
        module = ModuleType("made_up")
        module.Chosen = options
        monkeypatch.setitem(sys.modules, "made_up", module)
        entry = EntryPoint("new", "made_up:Chosen", "runner.model.options")
        return Plugin("model", "new", entry, entry)

    return plugin


def test_options_that_say_all_are_taken(plugin):
    assert plugin(Said).options_class() is Said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options, r"model plugin 'new' .*made_up:Chosen is no subclass of runner\.stages\.ModelOptions"),
        (Unsaid, r"model plugin 'new' .*made_up:Chosen lacks exact_revision"),
        (len, "no subclass"),
    ],
)
def test_options_of_another_kind_are_named(plugin, options, message):
    with pytest.raises(PluginError, match=message):
        plugin(options).options_class()


def test_options_that_cannot_be_imported_are_named(plugin):
    entry = EntryPoint("new", "made_up:Other", "runner.model.options")
    with pytest.raises(PluginError, match="cannot be imported"):
        Plugin("model", "new", entry, plugin(Said).entry).options_class()
