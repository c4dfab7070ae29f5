"""Plans: specs with every default written out, pinned to the content of their data, model and plugins."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from runner.code_identity import changed_modules, code_identity, own_packages
from runner.errors import DataError, PluginError, SpecError, StepError
from runner.fingerprint_and_provenance import fingerprint, fingerprinted_options
from runner.redaction import redact_tree
from runner.spec.check import check_spec, make_section
from runner.spec.experiment_spec import NONE, ExperimentSpec, Pins, Section
from runner.spec.yaml_layers import Tree
from runner.stages import Adapter, BoxFrame, DatasetInfo, Options, Reporter
from runner.stages.registry import find_plugin

T = TypeVar("T")

NOT_FINGERPRINTED = {"name", "tracker", "compute", "pinned", "sweep", "claims", "criterion"}
"""Fields of a spec that cannot change a result, such as the name of a run, its tracker, and what is claimed of it."""

PLANNING_METHODS: Mapping[str, Collection[str]] = {
    "model": ("meta_model",),
    "trainer": ("estimate_training", "training_budget"),
}
"""Methods of a plugin, by stage, that only estimate what a launch would do."""

ENGINE_STEPS = {
    "engine.train": ("runner.trial.train", "train"),
    "engine.generate": ("runner.trial.generate", "generate"),
    "engine.score": ("runner.trial.score", "score"),
}
"""Module and name of the function that runs a step of a trial."""

BOX_FRAME_METHODS = ("box_frame",)
"""Methods of a model's options that only adapters with boxes use."""

PARSING = "parse"
"""The code of an adapter that scoring runs is pinned as `adapter.<name>.parse`, what rendering runs as
`adapter.<name>`."""

STAGES_OF_STEP = {
    "train": ("data", "adapter", "model", "optimizer", "trainer"),
    "generate": ("data", "adapter", "model", "generator"),
    "score": ("data", "adapter", "metric"),
}
"""The stages whose plugins a step always runs; see `stages_of_step`."""


@dataclass(frozen=True)
class Plan:
    """A resolved experiment.

    Attributes:
        spec: The spec with every default written out and `pinned` filled in.
        dataset: The description of the data set.
    """

    spec: ExperimentSpec
    dataset: DatasetInfo

    @property
    def pins(self) -> Pins:
        """The content that the plan was resolved from."""
        assert self.spec.pinned is not None
        return self.spec.pinned

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that can change a result."""
        return self.pins.fingerprint


@dataclass(frozen=True)
class Trial:
    """One training with its evaluation.

    Attributes:
        name: The name of its folder: unique in the experiment, and different for each plan.
        plan: The plan.
        parameters: The values that distinguish it from the other trials of its experiment, by dotted path.
        group: The arm or the point of a sweep. Trials of one group differ only in their seed. Empty outside a sweep.
        arm: The arm of a sweep that it belongs to; empty if there are no arms.
    """

    name: str
    plan: Plan = field(repr=False)
    parameters: Mapping[str, Any]
    group: str = ""
    arm: str = ""

    @property
    def seed(self) -> int:
        """The seed of all random numbers in the trial."""
        return self.plan.spec.seed


def resolve(spec: ExperimentSpec, reporter: Reporter) -> Plan:
    """Inspect the data and the model of a spec, and pin the spec to their content.

    Args:
        spec: The spec. If it is already pinned, the content must not have changed. Its sweep has no effect.
        reporter: Receives the progress of generating a data set.

    Raises:
        DataError: The data set is missing or broken.
        RequirementError: The model's checkpoint is not available.
        SpecError: The spec is pinned and its content has changed.
    """
    return PlanResolver(reporter).resolve(spec)


class PlanResolver:
    """Resolves specs to plans; each data set and model is inspected once, even if many plans use it."""

    def __init__(self, reporter: Reporter) -> None:
        """Create the resolver; nothing is inspected yet. See `resolve`."""
        self._reporter = reporter
        self._datasets: dict[str, DatasetInfo] = {}
        self._revisions: dict[str, str] = {}
        self._box_frames: dict[str, dict[str, Any] | None] = {}
        self._identities: dict[tuple[str, bool, bool], dict[str, str]] = {}

    def resolve(self, spec: ExperimentSpec) -> Plan:
        """Pin a spec to the content of its data and model; see the function of the same name.

        Raises:
            SpecError: Also if the trainer's options do not fit the number of training samples.
        """
        dataset, revision = self.dataset(spec.data), self.revision(spec)
        if spec.trainer_options is not None and spec.sweep is None:  # A sweep checks each of its trials.
            if not dataset.num_samples["train"]:
                raise DataError(f"{dataset.location}: the training split has no samples to train on")
            spec.trainer_options.check_num_samples(dataset.num_samples["train"])
        plugins = {
            f"{section.stage}.{section.type}": find_plugin(section.stage, section.type).distribution
            for section in spec.sections()
        }
        # A model's folder or hub name does not identify its content, but `revision` does.
        fields = {
            name: _fingerprint_value(getattr(spec, name))
            for name in type(spec).model_fields
            if name not in NOT_FINGERPRINTED
        }
        computing_plugins = {name: version for name, version in plugins.items() if not name.startswith("tracker.")}
        code = self._code(spec)
        content = {
            "spec": fields,
            "data": dataset.fingerprint,
            "model": revision,
            "plugins": computing_plugins,
            "code": code,
        }
        frame = self._box_frame(spec, revision) if spec.needs_box_frame else None
        content |= {} if frame is None else {"box_frame": frame}
        pins = Pins(
            fingerprint=fingerprint(content),
            data=dataset.fingerprint,
            model=revision,
            plugins=plugins,
            code=code,
            box_frame=frame,
        )
        if spec.pinned is not None:
            _check_unchanged(spec.pinned, pins)
        return Plan(spec.model_copy(update={"pinned": pins}), dataset)

    def dataset(self, data: Section) -> DatasetInfo:
        """Return the description of a data section's data set.

        Raises:
            DataError: The data set is missing or broken, or has no test samples.
        """
        dataset = self._cached(self._datasets, data, lambda: create_plugin(data).prepare(self._reporter))
        if not dataset.num_samples["test"]:
            raise DataError(f"{dataset.location}: the test split has no samples, so no metric could be measured")
        return dataset

    def revision(self, spec: ExperimentSpec) -> str:
        """Return the exact revision of a spec's initial weights; `none` if it has no model.

        Raises:
            RequirementError: The checkpoint is not available.
        """
        model, options = spec.model, spec.model_options
        return self._cached(self._revisions, model, options.exact_revision) if model and options else NONE

    def _box_frame(self, spec: ExperimentSpec, revision: str) -> dict[str, Any] | None:
        """Describe the frame of boxes of a spec that needs one; see `Pins.box_frame`."""

        def compute() -> dict[str, Any] | None:
            frame = find_box_frame(spec, revision)
            return None if frame is None else frame.as_json()

        assert spec.model is not None
        return self._cached(self._box_frames, spec.model, compute)

    def _code(self, spec: ExperimentSpec) -> dict[str, dict[str, str]]:
        """Hash the code of the plugins that compute, and of the engine's steps; see `Pins.code`."""
        condition = _generates_validation(spec), spec.needs_box_frame
        units = _code_units(spec)
        for name, compute in units.items():
            if (name, *condition) not in self._identities:
                self._identities[name, *condition] = compute()
        return {name: self._identities[name, *condition] for name in units}

    def _cached(self, cache: dict[str, T], section: Section, compute: Callable[[], T]) -> T:
        key = json.dumps(section.as_json(), sort_keys=True)
        if key not in cache:
            cache[key] = compute()
        return cache[key]


def _fingerprint_value(value: Any) -> Any:
    if isinstance(value, Section):
        return {"type": value.type, "options": fingerprinted_options(value.options)}
    if isinstance(value, Options):
        return fingerprinted_options(value)
    return [_fingerprint_value(item) for item in value] if isinstance(value, tuple) else value


def _generates_validation(spec: ExperimentSpec) -> bool:
    return spec.trainer_options is not None and spec.trainer_options.generates_validation


def _code_units(spec: ExperimentSpec) -> dict[str, Callable[[], dict[str, str]]]:
    """Return a function for each name in `Pins.code` that hashes its code."""
    units: dict[str, Callable[[], dict[str, str]]] = {
        name: partial(_engine_code, root, generates_validation=_generates_validation(spec))
        for name, root in ENGINE_STEPS.items()
        if spec.trainer or name != "engine.train"
    }
    for section in spec.sections():
        name = f"{section.stage}.{section.type}"
        if section.stage != "tracker":
            units[name] = partial(_plugin_code, section, needs_box_frame=spec.needs_box_frame)
        if section.stage == "adapter":
            units[f"{name}.{PARSING}"] = partial(_plugin_code, section, parsing=True)
    return units


def stages_of_step(spec: ExperimentSpec, step: str) -> set[str]:
    """Return the stages whose plugins a step runs; some trainings also generate and score validation answers."""
    stages = set(STAGES_OF_STEP[step])
    return stages | {"generator", "metric"} if step == "train" and _generates_validation(spec) else stages


def check_code(spec: ExperimentSpec, step: str) -> None:
    """Compare the code that a step of a trial can run with the code that its plan is pinned to.

    Args:
        spec: The spec of the trial's plan.
        step: `train`, `generate` or `score`.

    Raises:
        StepError: The code has changed since the plan was resolved.
        RequirementError: This process runs an older text of a module; see `module_code`.
    """
    assert spec.pinned is not None
    stages = {*stages_of_step(spec, step), f"engine.{step}"}
    current = {
        name: compute()
        for name, compute in _code_units(spec).items()
        if name in stages or name.partition(".")[0] in stages
    }
    changes = changed_modules(spec.pinned.code, current)
    if changes:
        raise StepError(
            f"{step}: {'; '.join(changes)} since this launch resolved its plan. To use the new code, launch the spec "
            "again; to continue this trial, undo the change first"
        )


def _engine_code(root: tuple[str, str], *, generates_validation: bool) -> dict[str, str]:
    unused = set() if generates_validation else {"runner.trial.validation_generator"}
    if root == ENGINE_STEPS["engine.score"]:
        unused.add("runner.prompt_rendering")  # scoring has the trial's prompts at hand, but reads answers only
    return code_identity([root], without_modules=unused)


def _plugin_code(section: Section, *, parsing: bool = False, needs_box_frame: bool = False) -> dict[str, str]:
    plugin = find_plugin(section.stage, section.type)
    left_out: Collection[str] = PLANNING_METHODS.get(section.stage, ())
    if section.stage == "model" and not needs_box_frame:
        left_out = (*left_out, *BOX_FRAME_METHODS)
    declared: Collection[str] | None = None
    if section.stage == "adapter" and not parsing:
        declared = getattr(plugin.implementation(), "parsing_methods", None)
        left_out = (PARSING,) if declared is None else declared
    entries = (plugin.entry, plugin.options_entry)
    packages = own_packages(plugin.entry.module, plugin.entry.dist)
    roots = [(entry.module, entry.attr) for entry in entries]
    # Rendering may call a method that its author declares, for example to check that an answer can be parsed.
    return code_identity(roots, packages, without_methods=left_out, unless_called=declared is None)


def describe_changes(pinned: Mapping[str, Any], current: Pins) -> list[str]:
    """Describe in which content two plans differ.

    Args:
        pinned: The pins of an earlier plan, as in `plan.json`.
        current: The pins of a plan of today.

    Returns:
        One text for each difference of data, model, plugins and code; empty if only options differ.
    """
    changes = [
        f"{name} was {old!r} and is now {new!r}"
        for name, old, new in (
            ("the data set's fingerprint", pinned["data"], current.data),
            ("the model's revision", pinned["model"], current.model),
            ("the frame of boxes", pinned.get("box_frame"), current.box_frame),
            *((f"plugin {key}", old, current.plugins.get(key)) for key, old in pinned["plugins"].items()),
        )
        if old != new
    ]
    if "code" not in pinned:  # a plan of an earlier version
        return [*changes, "the plan does not say by which code its results were made"]
    return changes + changed_modules(pinned["code"], current.code)


def _check_unchanged(pinned: Pins, current: Pins) -> None:
    if pinned == current:
        return
    reason = "; ".join(describe_changes(pinned.model_dump(), current)) or "its options were edited"
    raise SpecError(
        f"this plan cannot be repeated: {reason}. Undo the change, or remove `pinned` to run it as a new plan",
        path=("pinned",),
    )


def expand_trials(plan: Plan) -> list[Trial]:
    """Return the single trial of a plan without a sweep."""
    return [Trial(trial_name(plan), plan, {})]


def trial_name(plan: Plan) -> str:
    """Return the name of a plan's trial and of its folder."""
    return f"trial-{plan.fingerprint[:8]}"


def create_plugin(section: Section, *args: Any) -> Any:
    """Import the plugin of a section and create it with the section's options.

    Raises:
        PluginError: The plugin cannot be imported, or its class does not accept the arguments of its stage.
    """
    plugin = find_plugin(section.stage, section.type)
    create = plugin.implementation()
    try:
        return create(section.options, *args)
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
            raise  # It was raised inside of the plugin.
        raise PluginError(f"{plugin}: {plugin.entry.value} cannot be created: {error}") from error


def create_adapter(spec: ExperimentSpec, labels: Sequence[str]) -> Adapter:
    """Create the adapter of a spec, in the frame in which its model writes boxes if the adapter needs one.

    Args:
        spec: The spec, or the spec of a plan, which pins the revision of the model.
        labels: The labels of the data set.

    Raises:
        PluginError: The plugin cannot be imported or created.
        RequirementError: The checkpoint's settings for images are not available.
        SpecError: The options contradict the data set, or the frame of the model is not known.
        StepError: The frame differs from that of the plan.
    """
    adapter = create_plugin(spec.adapter, labels)
    frame = find_box_frame(spec, spec.pinned.model if spec.pinned else None)
    if frame is None:
        return adapter  # type: ignore[no-any-return]
    if spec.pinned is not None and spec.pinned.box_frame != frame.as_json():
        raise StepError(
            f"adapter.frame: boxes would be written in the frame {frame.as_json()}, but the plan has "
            f"{spec.pinned.box_frame}; launch the spec again"
        )
    return adapter.in_frame(frame)  # type: ignore[no-any-return]


def find_box_frame(spec: ExperimentSpec, revision: str | None = None) -> BoxFrame | None:
    """Return the frame in which the model of a spec writes boxes; None if the adapter does not need it.

    Args:
        spec: The spec.
        revision: The exact revision of the model if it is known.

    Raises:
        RequirementError: The checkpoint's settings for images are not available.
        SpecError: The frame of the model family is not known.
    """
    if not spec.needs_box_frame:
        return None
    options = spec.model_options
    assert options is not None
    assert spec.model is not None
    frame = (options if revision is None else options.pinned_to(revision)).box_frame()
    if frame is None:
        raise SpecError(
            f"the model {spec.model.type!r} does not say in which frame it writes boxes; write `thousand` (0 to 1000 "
            "of each side) or `original` (pixels of the image), whichever the checkpoint was trained with",
            path=("adapter", "frame"),
        )
    return frame


def plan_json(spec: ExperimentSpec) -> str:
    """Serialise the spec of a plan, without passwords in its URLs, because it is stored, displayed and sent."""
    return json.dumps(redact_tree(spec.as_json()), indent=2, ensure_ascii=False) + "\n"


def read_plan(text: str) -> ExperimentSpec:
    """Read a plan that another process serialised with `plan_json`."""
    return check_spec(Tree(json.loads(text)), ExperimentSpec)


def with_changed_options(spec: ExperimentSpec, changes: Mapping[str, Mapping[str, Any]]) -> ExperimentSpec:
    """Change options of a plan that change a result at most by rounding, such as the micro-batch size.

    Args:
        spec: The spec of the plan.
        changes: The changed options, by section.
    """
    sections = {name: getattr(spec, name) for name in changes}
    changed = {
        name: replace(section, options=section.options.model_copy(update=dict(changes[name])))
        for name, section in sections.items()
    }
    return spec.model_copy(update=changed)


def smoke_spec(spec: ExperimentSpec) -> ExperimentSpec:
    """Create the spec of a smoke run: the same code with small stand-ins.

    Each plugin defines its own stand-in (`Options.smoke`), such as a tiny model, a few samples or two training steps.
    """
    small = {name: smoke_section(getattr(spec, name)) for name in spec.stages()}
    compute = spec.compute.model_copy(update=dict(spec.compute.smoke()))
    sweep = spec.sweep and spec.sweep.model_copy(update=dict(spec.sweep.smoke()))
    # The metrics of a smoke run have no meaning, so that nothing is claimed about them.
    unclaimed: dict[str, Any] = {"claims": {}, "criterion": None}
    engine = {"name": f"{spec.name}_smoke", "compute": compute, "sweep": sweep, "pinned": None, **unclaimed}
    return spec.model_copy(update={**small, **engine})


def smoke_section(value: Any) -> Any:
    """Return the stand-in for a section, or for each of several, in a smoke run; None stays None."""
    if isinstance(value, tuple):
        return tuple(smoke_section(section) for section in value)
    if value is None:
        return None
    changes = dict(value.options.smoke())
    return make_section(value.stage, changes if "type" in changes else {**value.as_json(), **changes})


def non_default_options(spec: ExperimentSpec) -> dict[str, Any]:
    """Return the options that differ from their defaults, by dotted path; includes the `type` of each section."""
    names = [name for name in type(spec).model_fields if name == "compute" or name not in NOT_FINGERPRINTED]
    leaves = flatten_json({name: _without_defaults(getattr(spec, name)) for name in names})
    return {path: value for path, value in leaves if value != {}}


def _without_defaults(value: Any) -> Any:
    if isinstance(value, Section):
        return {"type": value.type, **value.options.model_dump(mode="json", exclude_defaults=True)}
    if isinstance(value, tuple):
        return [_without_defaults(item) for item in value]
    return value.model_dump(mode="json", exclude_defaults=True) if isinstance(value, Options) else value


def flatten_json(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a spec's JSON as dotted paths: `trainer.epochs`, `metrics.0.type`."""
    for key, item in value.items():
        has_mappings = isinstance(item, list) and any(isinstance(element, dict) for element in item)
        inner = dict(enumerate(item)) if has_mappings else item
        path = f"{prefix}{key}"
        if isinstance(inner, dict) and inner:
            yield from flatten_json({str(name): nested for name, nested in inner.items()}, f"{path}.")
        else:
            yield path, item
