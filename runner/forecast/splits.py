"""The training splits of specs as their models are given them, and how long trainings on them last."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from runner.errors import UnmetError
from runner.plan import implement
from runner.records import Extent, Rendered
from runner.spec.models import ExperimentSpec
from runner.stages import Outline, Reporter, TokenCount
from runner.steps.rendering import groups_of, training_texts


@dataclass(frozen=True)
class Split:
    """A training split.

    Attributes:
        rendered: Its samples, with targets.
        groups: For each the key of what a validation split does not divide.
        outline: Of the model; None where it cannot be had.
        counts: The samples' lengths; None likewise.
        unmet: Why there is no outline; empty where there is one.
    """

    rendered: Sequence[Rendered]
    groups: Sequence[str]
    outline: Outline | None
    counts: Sequence[TokenCount] | None
    unmet: str = ""

    def extent(self, spec: ExperimentSpec) -> Extent:
        """How long a training of this spec lasts, which has this split.

        Raises:
            SpecError: It can never come to its end.
        """
        assert spec.trainer is not None
        found: Extent = implement(spec.trainer).extent(self.outline, self.counts, self.groups, spec.seed)
        return found


class Splits:
    """Training splits, each rendered and counted once, however many trials have it."""

    def __init__(self, reporter: Reporter) -> None:
        """Look at nothing yet; the reporter is told of data that are made on the way."""
        self._reporter = reporter
        self._known: dict[str, Split] = {}

    def of(self, spec: ExperimentSpec) -> Split:
        """The split that a spec trains on; it has a model and a trainer.

        Raises:
            DataError: The data set is missing or broken, or a sample cannot be put as the adapter puts it.
        """
        assert spec.model is not None
        key = json.dumps([each.as_json() for each in (spec.data, spec.adapter, spec.model)], sort_keys=True)
        if key not in self._known:
            self._known[key] = self._look(spec)
        return self._known[key]

    def _look(self, spec: ExperimentSpec) -> Split:
        data = implement(spec.data)
        adapter = implement(spec.adapter, data.prepare(self._reporter).labels)
        samples = data.load("train")
        rendered = [adapter.render_training(sample) for sample in samples]
        groups = groups_of(samples)
        assert spec.model is not None
        try:
            outline: Outline = implement(spec.model).sketch(training_texts(rendered))
        except UnmetError as error:
            return Split(rendered, groups, None, None, str(error))
        return Split(rendered, groups, outline, [outline.count(each) for each in rendered])
