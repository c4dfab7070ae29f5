"""Cache keys of trainings and generated answers, and which metrics of a reused training remain valid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner.fingerprint import fingerprint, fingerprinted_options
from runner.spec.experiment_spec import VALIDATION_PREFIX, ExperimentSpec, Section
from runner.stages.registry import find_plugin

TRAINING_STAGES = ("data", "adapter", "model", "optimizer", "trainer")
"""The sections that determine the weights of the trained model."""


def training_key(spec: ExperimentSpec) -> str:
    """Hash everything that a training depends on.

    That is: the content of the data, the exact initial weights, the options and versions of the plugins from `data` to
    `trainer`, the seed, and the number of few-shot examples, because the preflight checks prompts with them. If
    validation samples are answered during training, the generator counts too, and so does the metric that selects the
    best model, if one does.
    """
    return fingerprint(_training_inputs(spec))


def generation_key(spec: ExperimentSpec) -> str:
    """Hash everything that the answers depend on: the training (or the untrained model) and the generator."""
    return fingerprint({"training": _training_inputs(spec), "generator": plugin_identity(spec, spec.generator)})


def _training_inputs(spec: ExperimentSpec) -> dict[str, Any]:
    assert spec.pinned is not None
    return {
        "seed": spec.seed,
        "data": spec.pinned.data,
        "model": spec.pinned.model,
        "examples": spec.generator_options.num_few_shot,
        "stages": [plugin_identity(spec, getattr(spec, stage)) for stage in TRAINING_STAGES],
        "examined_by": _validation_plugins(spec),
    }


def _validation_plugins(spec: ExperimentSpec) -> list[Any]:
    """The generator of validation answers, and the metrics whose values select the best model."""
    options = spec.trainer_options
    if options is None or not options.generates_validation:
        return []
    selection = options.selection_metric
    selected_by = selection.metric.removeprefix(VALIDATION_PREFIX) if selection else None
    metrics = [
        section for section in spec.metrics if selected_by in find_plugin(section.stage, section.type).metric_names()
    ]
    return [plugin_identity(spec, section) for section in (spec.generator, *metrics)]


def plugin_identity(spec: ExperimentSpec, section: Section | None) -> Any:
    """A plugin's name, its options that can change results, and its version; None for a section `none`."""
    if section is None:
        return None
    assert spec.pinned is not None
    version = spec.pinned.plugins[f"{section.stage}.{section.type}"]
    return {"type": section.type, "options": fingerprinted_options(section.options), "plugin": version}


def validation_metric_identities(spec: ExperimentSpec) -> dict[str, Any]:
    """The identities of the metrics that score validation answers, by plugin name; empty if none are generated."""
    options = spec.trainer_options
    if options is None or not options.generates_validation:
        return {}
    return {section.type: plugin_identity(spec, section) for section in spec.metrics}


class ReusedMetrics:
    """Decides which metric values of a reused training are valid for the spec that reuses it.

    Attributes:
        changed_metrics: The metric plugins of the spec that did not score the training, or not as they are now.
    """

    def __init__(self, spec: ExperimentSpec, previous: Mapping[str, Any]) -> None:
        """Compare the metrics of the spec with those that scored the training.

        Args:
            spec: The spec that reuses the training.
            previous: What `validation_metric_identities` returned for the spec that trained.
        """
        current = validation_metric_identities(spec)
        self._has_changes = current != previous
        unchanged = [name for name in current if previous.get(name) == current[name]]
        trainer_metrics = set(spec.trainer_options.validation_metrics if spec.trainer_options else ())
        self._valid = trainer_metrics | {
            f"{VALIDATION_PREFIX}{metric}"
            for name in unchanged
            for metric in find_plugin("metric", name).metric_names()
        }
        self.changed_metrics = [name for name in current if name not in unchanged]

    def keep_valid(self, values: Mapping[str, float | None]) -> dict[str, float | None]:
        """Remove the values of metrics that have changed or that the spec does not have."""
        return {name: value for name, value in values.items() if self._is_valid(name)}

    def _is_valid(self, name: str) -> bool:
        return not (self._has_changes and name.startswith(VALIDATION_PREFIX)) or name in self._valid
