"""By what a training and its answers are known: all that can change them, and nothing that cannot.

A plan's fingerprint is over the whole spec. These keys leave out what comes later, so that a spec with other metrics
finds the training and the answers of another trial.
"""

from __future__ import annotations

from typing import Any

from runner.fingerprint import fingerprint, identity
from runner.registry import find
from runner.spec.measures import VALIDATION
from runner.spec.models import ExperimentSpec, Section

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
    return fingerprint({"training": _training(spec), "generator": made_by(spec, spec.generator)})


def _training(spec: ExperimentSpec) -> dict[str, Any]:
    assert spec.pinned is not None
    return {
        "seed": spec.seed,
        "data": spec.pinned.data,
        "model": spec.pinned.model,
        "examples": spec.generator_options.examples,
        "stages": [made_by(spec, getattr(spec, stage)) for stage in BEFORE_ANSWERS],
        "examined_by": _examined_by(spec),
    }


def _examined_by(spec: ExperimentSpec) -> list[Any]:
    """What answers while it is trained, and measures the answers so that the measure decides."""
    options = spec.trainer_options
    if options is None or not options.answers_validation:
        return []
    deciding = options.chosen_by.metric.removeprefix(VALIDATION) if options.chosen_by else None
    metrics = [each for each in spec.metrics if deciding in find(each.stage, each.type).figures()]
    return [made_by(spec, each) for each in (spec.generator, *metrics)]


def made_by(spec: ExperimentSpec, section: Section | None) -> Any:
    """A plugin as it is: its name, its options that can change a number, and its version; None of a section `none`."""
    if section is None:
        return None
    assert spec.pinned is not None
    version = spec.pinned.plugins[f"{section.stage}.{section.type}"]
    return {"type": section.type, "options": identity(section.options), "plugin": version}
