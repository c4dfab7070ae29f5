"""Cache keys of trainings and generated answers, and which metrics of a reused training remain valid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner.fingerprint import fingerprint, identity
from runner.spec.experiment_spec import VALIDATION, ExperimentSpec, Section
from runner.stages.registry import find

BEFORE_ANSWERS = ("data", "adapter", "model", "optimizer", "trainer")
"""The sections that decide what a model has become when it is asked."""


def training_key(spec: ExperimentSpec) -> str:
    """Hash what a training is made of.

    That is the content of the data, the exact weights it begins with, the options and versions of the plugins from
    `data` to `trainer`, the seed, and the number of solved samples before a question, which the proof looks at. Where
    samples kept aside are answered, it is the generator too, and the metric that decides, if one does.
    """
    return fingerprint(_training(spec))


def generation_key(spec: ExperimentSpec) -> str:
    """Hash what answers are made of: the training, or the model as it is, and the generator."""
    return fingerprint({"training": _training(spec), "generator": plugin_identity(spec, spec.generator)})


def _training(spec: ExperimentSpec) -> dict[str, Any]:
    assert spec.pinned is not None
    return {
        "seed": spec.seed,
        "data": spec.pinned.data,
        "model": spec.pinned.model,
        "examples": spec.generator_options.num_few_shot,
        "stages": [plugin_identity(spec, getattr(spec, stage)) for stage in BEFORE_ANSWERS],
        "examined_by": _examined_by(spec),
    }


def _examined_by(spec: ExperimentSpec) -> list[Any]:
    """What answers while it is trained, and measures the answers so that the measure decides."""
    options = spec.trainer_options
    if options is None or not options.generates_validation:
        return []
    deciding = options.selection_metric.metric.removeprefix(VALIDATION) if options.selection_metric else None
    metrics = [each for each in spec.metrics if deciding in find(each.stage, each.type).figures()]
    return [plugin_identity(spec, each) for each in (spec.generator, *metrics)]


def plugin_identity(spec: ExperimentSpec, section: Section | None) -> Any:
    """A plugin as it is: its name, its options that can change a number, and its version; None of a section `none`."""
    if section is None:
        return None
    assert spec.pinned is not None
    version = spec.pinned.plugins[f"{section.stage}.{section.type}"]
    return {"type": section.type, "options": identity(section.options), "plugin": version}


def validation_metrics(spec: ExperimentSpec) -> dict[str, Any]:
    """By plugin, the metrics that measure the samples kept aside; none where those are not answered."""
    options = spec.trainer_options
    if options is None or not options.generates_validation:
        return {}
    return {each.type: plugin_identity(spec, each) for each in spec.metrics}


class ReusedMetrics:
    """Sorts the figures of a training that was measured by metrics which may have changed since."""

    def __init__(self, spec: ExperimentSpec, before: Mapping[str, Any]) -> None:
        """Take the spec that reuses the training, and what `validation_metrics` said of the one that made it."""
        now = validation_metrics(spec)
        self._changed = now != before
        same = [name for name in now if before.get(name) == now[name]]
        self._own = set(spec.trainer_options.own_metrics if spec.trainer_options else ())
        self._kept = {f"{VALIDATION}{figure}" for name in same for figure in find("metric", name).figures()}
        self.lacking = [name for name in now if name not in same]

    def still_right(self, values: Mapping[str, float | None]) -> dict[str, float | None]:
        """Leave out what a metric measured that has changed, or is no longer asked for."""
        return {name: value for name, value in values.items() if self._is_right(name)}

    def _is_right(self, name: str) -> bool:
        return not (self._changed and name.startswith(VALIDATION)) or name in self._own | self._kept
