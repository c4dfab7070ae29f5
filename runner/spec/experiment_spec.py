"""The experiment spec: its sections, each the options of a plugin, and the engine's own settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from runner.errors import Problem
from runner.spec.sweep_section import SweepOptions
from runner.stages import Described, FilePath, GeneratorOptions, ModelOptions, Options, Place, Stage, TrainerOptions
from runner.stages.registry import find, nearest

VALIDATION = "validation/"
"""Before the name of a metric's figure where it is measured on those samples."""


def validation_figures(spec: ExperimentSpec) -> list[str]:
    """Name the figures that a training of this spec measures on the samples that it keeps aside.

    Those that depend on the data, such as one for each label, are not among them.
    """
    options = spec.trainer_options
    if options is None:
        return []
    answered = [f"{VALIDATION}{name}" for name in _metric_figures(spec)] if options.generates_validation else []
    return [*options.own_metrics, *answered]


def unknown_figure(spec: ExperimentSpec, name: str) -> str | None:
    """Say why nothing can be chosen by a figure, and by what it can; None where it can."""
    valid = validation_figures(spec)
    if name in valid:
        return None
    of_metrics = _metric_figures(spec)
    if name in of_metrics or name.startswith("test/"):
        return f"{name!r} is a figure of the test split, which decides nothing{nearest(VALIDATION + name, valid)}"
    if name.removeprefix(VALIDATION) in of_metrics:
        return (
            f"{name!r} is measured where the samples kept aside are answered: set trainer.eval_generate_steps, the "
            "optimizer steps from one time to the next"
        )
    return f"no figure {name!r}{nearest(name, valid)}"


def measure_problems(spec: ExperimentSpec) -> Iterator[Problem]:
    """Yield what a trainer cannot choose by, or cannot have answered."""
    options = spec.trainer_options
    if options is None:
        return
    if options.generates_validation and not spec.generator_options.answers_in_training:
        yield Problem(
            f"the generator {spec.generator.type!r} cannot answer with a model that is being trained; leave it out, or "
            "take one that answers in the same process, such as `transformers`",
            ("trainer", "eval_generate_steps"),
        )
    if options.selection_metric is not None and (message := unknown_figure(spec, options.selection_metric.metric)):
        yield Problem(message, ("trainer", "metric_for_best_model", "metric"))


def _metric_figures(spec: ExperimentSpec) -> list[str]:
    return [name for each in spec.metrics for name in find(each.stage, each.type).figures()]


NONE = "none"
"""How a spec says that a section which may be left out is: `trainer: none`."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
"""A name that is also a folder's: letters, digits, `_`, `-` and `.`."""


@dataclass(frozen=True)
class Section:
    """One section of a spec: the plugin that its `type` names, with its options checked.

    Attributes:
        stage: The stage whose plugins may stand here.
        type: The plugin's name.
        options: The rest of the section, every default filled in.
    """

    stage: Stage
    type: str
    options: Options

    def as_json(self) -> dict[str, Any]:
        """The section as it stands in a spec, with every default written out."""
        return {"type": self.type, **self.options.model_dump(mode="json")}


@dataclass(frozen=True)
class OfStage:
    """Marks a field of a specification whose value is a section, or a list of sections, of this stage."""

    stage: Stage


class Specification(Described):
    """The base of all that a spec file can be: unknown keys are errors, and it never changes."""

    model_config = ConfigDict(
        defer_build=True,
        extra="forbid",
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
        arbitrary_types_allowed=True,
    )

    @classmethod
    def stages(cls) -> dict[str, Stage]:
        """The fields that hold sections, and their stage."""
        marks = {
            name: [mark for mark in field.metadata if isinstance(mark, OfStage)]
            for name, field in cls.model_fields.items()
        }
        return {name: found[0].stage for name, found in marks.items() if found}

    @classmethod
    def optional_stages(cls) -> set[str]:
        """The fields whose section may be `none`."""
        return {name for name in cls.stages() if NoneType in get_args(cls.model_fields[name].annotation)}

    def conflicts(self) -> Iterator[Problem]:
        """Yield what is wrong between sections that are each right, with the path of the one to change."""
        yield from ()

    def as_json(self) -> dict[str, Any]:
        """The specification as a spec file would say it, every default written out."""
        told = {name: _plain(getattr(self, name)) for name in type(self).model_fields}
        return told | {name: NONE for name in self.optional_stages() if told[name] is None}


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return value.as_json()
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else _scalar(value)


def _scalar(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float) else str(value)


class ComputeOptions(Options):
    """Where trials run and what each worker gets."""

    former_names: ClassVar[Mapping[str, str]] = {
        "pack": "placement",
        "retries": "max_retries",
        "smaller_micro_batch": "reduce_micro_batch_on_oom",
        "sample_every": "usage_interval",
    }

    workers: Annotated[int, Field(ge=1)] = 1
    """Processes that train one model together; they must divide the trainer's `global_batch_size`."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    """GPUs of each worker; a fraction lets trials of one worker share one."""
    cpus_per_worker: Annotated[int, Field(ge=1)] | None = None
    """CPU cores of each worker; none: all the machine's cores, divided by the workers."""
    accelerator: str | None = None
    """The GPU's type as Ray names it, such as `A100` (an 80 GB card has this name too)."""
    gpu_memory: Annotated[str | None, Field(pattern=r"^\d+ ?GB$")] = None
    """Memory that each GPU must have, such as `80GB`."""
    placement: Literal["node", "any"] = "node"
    """Where the workers of a trial go. `node`: onto one node, or, where none is large enough, onto the fewest that are;
    the trial waits until these have room. `any`: onto whatever nodes have room now, close together if they can."""
    max_retries: Annotated[int, Field(ge=0)] = 3
    """How often a trial is taken up again whose worker or node was lost, or which ran out of memory. One that fails by
    an error of its own is not."""
    reduce_micro_batch_on_oom: bool = True
    """Whether a trial that ran out of memory is taken up again with a smaller micro-batch; its numbers stay the same
    but for rounding. Else it fails."""
    usage_interval: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 10.0
    """Seconds between two samples of the use of CPU, memory and GPU, which the tracker shows; 0 takes none. Default:
    MLflow's own."""
    storage: FilePath | None = None
    """Folder for runs, shared by all nodes where there are several; none: `runs` in the current folder."""
    cache: Place | None = None
    """Where trials find what others trained and generated: a folder; or a URI such as `s3://bucket/folder`, which
    storages then share beside the folder that each has of its own. None: `.cache` in the storage."""

    @field_validator("gpus_per_worker")
    @classmethod
    def _whole(cls, gpus: float, info: ValidationInfo) -> float:
        """A fraction of a GPU is for one worker: two of a trial could meet on the same one, where NCCL fails."""
        workers = info.data.get("workers", 1)
        if gpus != int(gpus) and (gpus > 1 or workers > 1):
            several = f"with {workers} workers " if workers > 1 else "above 1 "
            raise ValueError(f"{several}each takes whole GPUs, such as {max(1, round(gpus))}")
        return gpus

    def smoke(self) -> Mapping[str, Any]:
        """One worker on the CPU, so that it runs anywhere."""
        return {"workers": 1, "gpus_per_worker": 0, "accelerator": None, "gpu_memory": None}


class Pins(Described):
    """What a plan was made of, by content: written into `plan.json`, and compared when that is launched."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fingerprint: str
    """SHA-256 of all that can change a number."""
    data: str
    """SHA-256 over the content of the data set."""
    model: str
    """Hub commit, content hash, or name of the random weights."""
    plugins: dict[str, str]
    """`stage.name` of each plugin used, to its distribution and version."""


class ExperimentSpec(Specification):
    """An experiment: what is trained on what, how, and how the result is measured."""

    name: Name
    """The experiment's name: its folder under `runs/` and its experiment in the tracker."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """For weights, data order and dropout."""
    data: Annotated[Section, OfStage("data")]
    """The samples, and how they are split."""
    adapter: Annotated[Section, OfStage("adapter")]
    """How a sample becomes a prompt and a target, and an answer becomes a prediction."""
    model: Annotated[Section | None, OfStage("model")]
    """The vision-language model; `none` where the generator asks a server that has its own."""
    optimizer: Annotated[Section | None, OfStage("optimizer")] = None
    """Parameter groups, their rates and the schedule; `none`, or left out, where nothing is trained."""
    trainer: Annotated[Section | None, OfStage("trainer")]
    """How long, in what batches and precision the model is trained; `none` evaluates it as it is."""
    generator: Annotated[Section, OfStage("generator")]
    """How answers to the test split are got."""
    metrics: Annotated[tuple[Section, ...], OfStage("metric"), Field(min_length=1)]
    """What the answers are measured with."""
    tracker: Annotated[Section, OfStage("tracker")]
    """Where runs are shown."""
    compute: ComputeOptions = ComputeOptions()
    """Workers and what each of them gets."""
    sweep: SweepOptions | None = None
    """Many trials instead of one: a space to search, arms, seeds."""
    pinned: Pins | None = None
    """Only in a `plan.json`: what the plan was made of. A launch refuses what has changed since."""

    @field_validator("metrics")
    @classmethod
    def _each_metric_once(cls, metrics: tuple[Section, ...]) -> tuple[Section, ...]:
        types = [metric.type for metric in metrics]
        twice = sorted({name for name in types if types.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} stands here twice; one of a kind is enough")
        return metrics

    def as_json(self) -> dict[str, Any]:
        """The spec with every default written out; a spec that sweeps nothing does not mention it."""
        return {name: value for name, value in super().as_json().items() if name != "sweep" or value is not None}

    def sections(self) -> Iterator[Section]:
        """All sections, in the order of the spec, less those that are `none`."""
        for name in self.stages():
            value = getattr(self, name)
            yield from value if isinstance(value, tuple) else (value,) if value else ()

    @property
    def generator_options(self) -> GeneratorOptions:
        """What the engine itself must know of the generator."""
        options = self.generator.options
        assert isinstance(options, GeneratorOptions)
        return options

    @property
    def model_options(self) -> ModelOptions | None:
        """What the engine itself must know of the model; None where there is none."""
        options = self.model.options if self.model else None
        assert options is None or isinstance(options, ModelOptions)
        return options

    @property
    def trainer_options(self) -> TrainerOptions | None:
        """What the engine itself must know of the trainer; None where nothing is trained."""
        options = self.trainer.options if self.trainer else None
        assert options is None or isinstance(options, TrainerOptions)
        return options

    def conflicts(self) -> Iterator[Problem]:
        """Yield what is missing for training or answering, and what would be ignored."""
        elsewhere = f"the generator {self.generator.type!r} does not answer with this spec's model"
        if self.trainer is None and self.optimizer is not None:
            yield Problem(
                "would be ignored, as `trainer: none` trains nothing; remove it, or say `none`", ("optimizer",)
            )
        if self.trainer is not None and self.optimizer is None:
            needs = f"the trainer {self.trainer.type!r} needs parameter groups and their rates"
            yield Problem(f"is missing: {needs}", ("optimizer",))
        if self.generator_options.needs_model:
            if self.model is None:
                yield Problem(f"is `none`, and the generator {self.generator.type!r} answers with one", ("model",))
        elif self.trainer is not None:
            yield Problem(f"would train in vain, as {elsewhere}; say `trainer: none`", ("trainer",))
        elif self.model is not None:
            yield Problem(f"would be ignored, as {elsewhere}; say `model: none`", ("model",))
        yield from measure_problems(self)
