"""Which figures of a training that is reused are still right: those of metrics that are as they were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner.registry import find
from runner.spec.measures import VALIDATION
from runner.spec.models import ExperimentSpec
from runner.steps.keys import made_by


def measured_by(spec: ExperimentSpec) -> dict[str, Any]:
    """By plugin, the metrics that measure the samples kept aside; none where those are not answered."""
    options = spec.trainer_options
    if options is None or not options.answers_validation:
        return {}
    return {each.type: made_by(spec, each) for each in spec.metrics}


class Figures:
    """Sorts the figures of a training that was measured by metrics which may have changed since."""

    def __init__(self, spec: ExperimentSpec, before: Mapping[str, Any]) -> None:
        """Take the spec that reuses the training, and what `measured_by` said of the one that made it."""
        now = measured_by(spec)
        self._changed = now != before
        same = [name for name in now if before.get(name) == now[name]]
        self._own = set(spec.trainer_options.own_figures if spec.trainer_options else ())
        self._kept = {f"{VALIDATION}{figure}" for name in same for figure in find("metric", name).figures()}
        self.lacking = [name for name in now if name not in same]

    def still_right(self, values: Mapping[str, float | None]) -> dict[str, float | None]:
        """Leave out what a metric measured that has changed, or is no longer asked for."""
        return {name: value for name, value in values.items() if self._is_right(name)}

    def _is_right(self, name: str) -> bool:
        return not (self._changed and name.startswith(VALIDATION)) or name in self._own | self._kept
