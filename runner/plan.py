"""A plan is a spec with every default written out, pinned to the content of its data, model and plugins."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from runner.errors import SpecError
from runner.fingerprint import fingerprint, identity
from runner.secrets import without_passwords
from runner.spec.check import check, section
from runner.spec.experiment_spec import NONE, ExperimentSpec, Pins, Section
from runner.spec.tree import Tree
from runner.stages import DatasetInfo, Options, Reporter
from runner.stages.registry import find

T = TypeVar("T")

OUTSIDE_PLUGINS = {"name", "tracker", "compute", "pinned", "sweep"}
"""Fields of a spec that cannot change a number: what a run is called, where it is shown and where it runs."""


@dataclass(frozen=True)
class Plan:
    """What will run.

    Attributes:
        spec: With every default written out and `pinned` filled in.
        dataset: The data set as it was found.
    """

    spec: ExperimentSpec
    dataset: DatasetInfo

    @property
    def pins(self) -> Pins:
        """What the plan was made of."""
        assert self.spec.pinned is not None
        return self.spec.pinned

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that can change a number."""
        return self.pins.fingerprint


@dataclass(frozen=True)
class Trial:
    """One training with its evaluation.

    Attributes:
        name: Its folder: unique in the experiment, and another one when the plan changes.
        plan: All that it is told.
        parameters: What sets it apart from the other trials of its experiment, by dotted path.
        group: The arm or the point of a sweep that it repeats: trials of one group differ in their seed alone. Empty
            outside of a sweep.
        arm: The arm of a sweep that it belongs to; empty where there are none.
    """

    name: str
    plan: Plan
    parameters: Mapping[str, Any]
    group: str = ""
    arm: str = ""

    @property
    def seed(self) -> int:
        """What all that is random in it is drawn from."""
        return self.plan.spec.seed


def resolve(spec: ExperimentSpec, reporter: Reporter) -> Plan:
    """Look at the data and the model, and pin the spec to what was found.

    Args:
        spec: As loaded; one that is pinned already must still fit what is found. Its sweep changes nothing.
        reporter: Told of the progress of a data set that is made on the way.

    Raises:
        DataError: The data set is missing or broken.
        UnmetError: The model's checkpoint cannot be had.
        SpecError: The spec is pinned, and something has changed since.
    """
    return PlanResolver(reporter).resolve(spec)


class PlanResolver:
    """What was found of data sets and models: each is looked at once, however many plans use it."""

    def __init__(self, reporter: Reporter) -> None:
        """Look at nothing yet; see `resolve`."""
        self._reporter = reporter
        self._datasets: dict[str, DatasetInfo] = {}
        self._revisions: dict[str, str] = {}

    def resolve(self, spec: ExperimentSpec) -> Plan:
        """Pin a spec to what is found; see the function of that name."""
        dataset, revision = self.dataset(spec.data), self.revision(spec)
        plugins = {f"{each.stage}.{each.type}": find(each.stage, each.type).distribution for each in spec.sections()}
        # The model's place in a folder or on a hub is not its content: `revision` stands for that.
        told = {
            name: _identities(getattr(spec, name)) for name in type(spec).model_fields if name not in OUTSIDE_PLUGINS
        }
        content = {"spec": told, "data": dataset.fingerprint, "model": revision, "plugins": _numeric(plugins)}
        pins = Pins(fingerprint=fingerprint(content), data=dataset.fingerprint, model=revision, plugins=plugins)
        if spec.pinned is not None:
            _refuse_drift(spec.pinned, pins)
        return Plan(spec.model_copy(update={"pinned": pins}), dataset)

    def dataset(self, data: Section) -> DatasetInfo:
        """What is found of the data set of such a section.

        Raises:
            DataError: It is missing or broken.
        """
        return self._once(self._datasets, data, lambda: implement(data).prepare(self._reporter))

    def revision(self, spec: ExperimentSpec) -> str:
        """The exact weights that a spec begins with; `none` where it has no model.

        Raises:
            UnmetError: They cannot be had.
        """
        model, options = spec.model, spec.model_options
        return self._once(self._revisions, model, options.exact_revision) if model and options else NONE

    def _once(self, known: dict[str, T], part: Section, look: Callable[[], T]) -> T:
        key = json.dumps(part.as_json(), sort_keys=True)
        if key not in known:
            known[key] = look()
        return known[key]


def _numeric(plugins: Mapping[str, str]) -> dict[str, str]:
    return {name: version for name, version in plugins.items() if not name.startswith("tracker.")}


def _identities(value: Any) -> Any:
    if isinstance(value, Section):
        return {"type": value.type, "options": identity(value.options)}
    return [_identities(each) for each in value] if isinstance(value, tuple) else value


def _refuse_drift(before: Pins, now: Pins) -> None:
    if before == now:
        return
    changed = [
        f"{name} was {was!r} and is {is_now!r}"
        for name, was, is_now in (
            ("the data set's fingerprint", before.data, now.data),
            ("the model's revision", before.model, now.model),
            *((f"plugin {key}", was, now.plugins.get(key)) for key, was in before.plugins.items()),
        )
        if was != is_now
    ]
    told = "; ".join(changed) or "its options were edited"
    raise SpecError(
        f"this plan can no longer be repeated as it was: {told}. Restore that, or remove `pinned` to run it as new",
        path=("pinned",),
    )


def expand(plan: Plan) -> list[Trial]:
    """List the trials of a plan that nothing is swept in: one."""
    return [Trial(trial_name(plan), plan, {})]


def trial_name(plan: Plan) -> str:
    """The name of a plan's trial, and of its folder."""
    return f"trial-{plan.fingerprint[:8]}"


def implement(part: Section, *args: Any) -> Any:
    """Make the plugin of a section, importing it.

    Raises:
        PluginError: It cannot be imported.
    """
    return find(part.stage, part.type).implementation()(part.options, *args)


def plan_json(plan: Plan) -> str:
    """Write a plan as a spec file, without the passwords that its addresses may hold: it is kept, shown and sent."""
    return without_passwords(json.dumps(plan.spec.as_json(), indent=2, ensure_ascii=False)) + "\n"


def read_plan(text: str) -> ExperimentSpec:
    """Read a plan that crossed to another process; see `plan_json`."""
    return check(Tree(json.loads(text)), ExperimentSpec)


def plan_with(text: str, changed: Mapping[str, Mapping[str, Any]]) -> str:
    """Change options in the JSON of a plan, such as a micro-batch, that cannot change a number.

    Args:
        text: The plan.
        changed: Options by section.
    """
    told = json.loads(text)
    for name, options in changed.items():
        told[name] |= options
    return json.dumps(told, indent=2, ensure_ascii=False) + "\n"


def smoke(spec: ExperimentSpec) -> ExperimentSpec:
    """Make the spec of a smoke run: the same code path with each section's small stand-in.

    Every plugin says itself what stands in for it (`Options.smoke`): a model its tiny twin, a data set a
    handful of samples, a trainer two steps.
    """
    small = {name: smoke_section(getattr(spec, name)) for name in spec.stages()}
    compute = spec.compute.model_copy(update=dict(spec.compute.smoke()))
    sweep = spec.sweep and spec.sweep.model_copy(update=dict(spec.sweep.smoke()))
    own = {"name": f"{spec.name}_smoke", "compute": compute, "sweep": sweep, "pinned": None}
    return spec.model_copy(update={**small, **own})


def smoke_section(value: Any) -> Any:
    """What stands in a smoke run for a section, or each of several; None stays None."""
    if isinstance(value, tuple):
        return tuple(smoke_section(each) for each in value)
    if value is None:
        return None
    changed = dict(value.options.smoke())
    whole = changed if "type" in changed else {**value.as_json(), **changed}
    return section(value.stage, whole)


def settings(spec: ExperimentSpec) -> dict[str, Any]:
    """What a spec chooses: the leaves, by dotted path, whose values are no defaults. A section's type is a choice."""
    names = [name for name in type(spec).model_fields if name not in {"name", "tracker", "pinned", "sweep"}]
    leaves = flatten({name: _chosen(getattr(spec, name)) for name in names})
    return {path: value for path, value in leaves if value != {}}


def _chosen(value: Any) -> Any:
    if isinstance(value, Section):
        return {"type": value.type, **value.options.model_dump(mode="json", exclude_defaults=True)}
    if isinstance(value, tuple):
        return [_chosen(each) for each in value]
    return value.model_dump(mode="json", exclude_defaults=True) if isinstance(value, Options) else value


def flatten(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a spec's JSON as dotted paths: `trainer.epochs`, `metrics.0.type`."""
    for key, each in value.items():
        inner = dict(enumerate(each)) if isinstance(each, list) and any(isinstance(i, dict) for i in each) else each
        path = f"{above}{key}"
        if isinstance(inner, dict) and inner:
            yield from flatten({str(name): item for name, item in inner.items()}, f"{path}.")
        else:
            yield path, each
