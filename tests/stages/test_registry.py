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


class MetricWithoutReduce:
    """A metric that lacks a method of its stage."""

    def score(self, prediction, reference):
        return {"points": 1.0}


class WholeMetric(MetricWithoutReduce):
    """A metric with all methods of its stage."""

    def reduce(self, counts):
        return {"points": 1.0}


def test_class_that_lacks_a_method_of_its_stage_is_named(monkeypatch):
    module = ModuleType("fake_plugin")
    module.Half, module.Whole = MetricWithoutReduce, WholeMetric
    monkeypatch.setitem(sys.modules, "fake_plugin", module)
    half, whole = (EntryPoint("new", f"fake_plugin:{name}", "runner.metric") for name in ("Half", "Whole"))
    assert Plugin("metric", "new", whole, whole).implementation() is WholeMetric
    with pytest.raises(PluginError, match=r"metric plugin 'new' .*fake_plugin:Half does not implement reduce; see"):
        Plugin("metric", "new", half, half).implementation()
