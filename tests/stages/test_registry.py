"""Plugins with an invalid options class are errors that name the plugin."""

import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from runner.errors import PluginError
from runner.stages import ModelOptions, Options
from runner.stages.registry import Plugin


class AbstractOptions(ModelOptions):
    """Options without `exact_revision`."""


class ConcreteOptions(ModelOptions):
    """Options with `exact_revision`."""

    def exact_revision(self):
        return "random"


@pytest.fixture
def plugin(monkeypatch):
    """A model plugin whose options are a given class."""

    def plugin(options):
        module = ModuleType("fake_plugin")
        module.Chosen = options
        monkeypatch.setitem(sys.modules, "fake_plugin", module)
        entry = EntryPoint("new", "fake_plugin:Chosen", "runner.model.options")
        return Plugin("model", "new", entry, entry)

    return plugin


def test_valid_options_class_is_returned(plugin):
    assert plugin(ConcreteOptions).options_class() is ConcreteOptions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options, r"model plugin 'new' .*fake_plugin:Chosen is not a subclass of runner\.stages\.ModelOptions"),
        (AbstractOptions, r"model plugin 'new' .*fake_plugin:Chosen does not implement exact_revision"),
        (len, "not a subclass"),
    ],
)
def test_invalid_options_class_is_an_error(plugin, options, message):
    with pytest.raises(PluginError, match=message):
        plugin(options).options_class()


def test_options_that_cannot_be_imported_are_an_error(plugin):
    entry = EntryPoint("new", "fake_plugin:Other", "runner.model.options")
    with pytest.raises(PluginError, match="cannot be imported"):
        Plugin("model", "new", entry, plugin(ConcreteOptions).entry).options_class()
