"""The experiment spec: one section of options for each plugin, and the options of the engine itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import NoneType
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from runner.errors import Problem
from runner.files import parse_size
from runner.spec.claims_section import Claim, ClaimName, Criterion
from runner.spec.regime_section import RegimeOptions
from runner.spec.sweep_section import SweepOptions
from runner.stages import (
    AdapterOptions,
    DataOptions,
    DescribedModel,
    FilePath,
    GeneratorOptions,
    ModelOptions,
    Name,
    Options,
    PathOrUri,
    Stage,
    TrainerOptions,
)
from runner.stages.registry import find_plugin, suggestion

VALIDATION_PREFIX = "validation/"
"""The prefix of metrics that are computed on the validation samples."""


def validation_metrics(spec: ExperimentSpec) -> list[str]:
    """List the metrics that a training of this spec computes on its validation samples.

    Metrics whose names depend on the data, such as one for each label, are not listed.
    """
    options = spec.trainer_options
    if options is None:
        return []
    names = _metric_names(spec) if options.generates_validation else []
    return [*options.validation_metrics, *(f"{VALIDATION_PREFIX}{name}" for name in names)]


def selection_metric_error(spec: ExperimentSpec, name: str) -> str | None:
    """Return why a metric cannot select a model or a trial, and which can; None if it can."""
    valid = validation_metrics(spec)
    if name in valid:
        return None
    test_metrics = _metric_names(spec)
    if name in test_metrics or name.startswith("test/"):
        hint = suggestion(VALIDATION_PREFIX + name, valid)
        return f"{name!r} is a test metric and cannot be used for selection{hint}"
    if name.removeprefix(VALIDATION_PREFIX) in test_metrics:
        return (
            f"{name!r} needs generated answers to the validation samples: set trainer.eval_generate_steps, the number "
            "of optimizer steps between two evaluations"
        )
    return f"no metric {name!r}{suggestion(name, valid)}"


def selection_problems(spec: ExperimentSpec) -> Iterator[Problem]:
    """Yield the problems with the metric that selects the best model and with answers generated during training."""
    options = spec.trainer_options
    if options is None:
        return
    if options.generates_validation and not spec.generator_options.can_generate_during_training:
        yield Problem(
            f"the generator {spec.generator.type!r} cannot generate with a model that is being trained; remove this "
            "option, or use a generator that runs in the training process, such as `transformers`",
            ("trainer", "eval_generate_steps"),
        )
    selection = options.selection_metric
    if selection is not None and (message := selection_metric_error(spec, selection.metric)):
        yield Problem(message, ("trainer", "metric_for_best_model", "metric"))


def sequence_problems(spec: ExperimentSpec) -> Iterator[Problem]:
    """Yield the problems with tasks that are trained one after the other."""
    parts = spec.trainer_options.sequence_tasks if spec.trainer_options else ()
    if parts and not spec.regime.is_per_task:
        yield Problem(
            "needs examples of single tasks; write `regime: {prompts: per_task}`, or set `epochs`",
            ("trainer", "sequence"),
        )
        return
    for number, tasks in enumerate(parts):
        for index, task in enumerate(tasks):
            if task not in spec.task_names:
                yield Problem(
                    f"adapter.tasks has no task {task!r}{suggestion(task, spec.task_names)}",
                    ("trainer", "sequence", number, "tasks", index),
                )


def _metric_names(spec: ExperimentSpec) -> list[str]:
    return [name for metric in spec.metrics for name in find_plugin(metric.stage, metric.type).metric_names()]


NONE = "none"
"""The value of an optional section that is not used: `trainer: none`."""


@dataclass(frozen=True)
class Section:
    """One section of a spec: the plugin named by `type` and its validated options.

    Attributes:
        stage: The stage that the plugin belongs to.
        type: The plugin's name.
        options: The other options of the section, with every default filled in.
    """

    stage: Stage
    type: str
    options: Options

    def as_json(self) -> dict[str, Any]:
        """Convert the section to the form it has in a spec, with every default written out."""
        return {"type": self.type, **self.options.model_dump(mode="json")}


@dataclass(frozen=True)
class SectionOf:
    """Marks a field of a specification that holds a section, or a list of sections, of a stage."""

    stage: Stage


class Specification(DescribedModel):
    """The base class of all specs: unknown keys are errors, and instances are frozen."""

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
        """Return the stage of each field that holds a section."""
        return {
            name: marker.stage
            for name, field in cls.model_fields.items()
            for marker in field.metadata
            if isinstance(marker, SectionOf)
        }

    @classmethod
    def optional_stages(cls) -> set[str]:
        """Return the fields whose section may be `none`."""
        return {name for name in cls.stages() if NoneType in get_args(cls.model_fields[name].annotation)}

    def conflicts(self) -> Iterator[Problem]:
        """Yield the problems between sections that are each valid, with the path of the section to change."""
        yield from ()

    def as_json(self) -> dict[str, Any]:
        """Convert the specification to the content of a spec file, with every default written out."""
        values = {name: _to_json(getattr(self, name)) for name in type(self).model_fields}
        return values | {name: NONE for name in self.optional_stages() if values[name] is None}


def _to_json(value: Any) -> Any:
    if isinstance(value, Section):
        return value.as_json()
    if isinstance(value, tuple):
        return [_to_json(element) for element in value]
    if isinstance(value, dict):
        return {name: _to_json(element) for name, element in value.items()}
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return value if value is None or isinstance(value, bool | int | float) else str(value)


class ComputeOptions(Options):
    """The resources of each worker, the placement of trials, retries, and where results are stored."""

    former_names: ClassVar[Mapping[str, str]] = {
        "pack": "placement",
        "retries": "max_retries",
        "smaller_micro_batch": "reduce_memory_on_oom",
        "reduce_micro_batch_on_oom": "reduce_memory_on_oom",
        "sample_every": "usage_interval",
    }

    workers: Annotated[int, Field(ge=1)] = 1
    """Number of processes that train one model together. The trainer's `global_batch_size` must be a multiple of this
    number."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    """Number of GPUs of each worker. A fraction, such as 0.5, is possible only with `workers: 1`: several trials then
    share one GPU. With 0, the workers see no GPUs and compute on the CPU, except with `launch --local`, which uses the
    GPUs that the command sees."""
    cpus_per_worker: Annotated[int, Field(ge=1)] | None = None
    """Number of CPU cores of each worker. Null: with GPUs, the share of a node's cores that corresponds to the worker's
    share of the node's GPUs; without GPUs, the cores of a node divided by the number of workers."""
    accelerator: str | None = None
    """Type of the GPUs, as Ray names it, such as `A100`, `RTX-A6000` or `GeForce-RTX-4090`. Ray uses the name `A100`
    both for cards with 40 GB and for cards with 80 GB. Null: any type."""
    gpu_memory: Annotated[str | None, Field(pattern=r"^[0-9]{1,6} ?GB$")] = None
    """Minimum memory of each GPU, such as `80GB`. A trial on a GPU with less memory stops with an error."""
    memory: Annotated[str | None, Field(pattern=r"^[0-9]{1,6} ?GB$")] = None
    """Main memory of each worker, such as `64GB`. Ray places a trial only on nodes that have this memory free. Null: a
    trial waits for no main memory."""
    placement: Literal["node", "any"] = "node"
    """Placement of a trial's workers. `node`: all workers on one node or, if no node is large enough, on as few nodes
    as possible; the trial waits until these nodes have free resources. `any`: on any nodes with free resources, on few
    nodes if possible."""
    max_retries: Annotated[int, Field(ge=0)] = 3
    """Maximum number of times that a launch resumes a trial that lost a worker, a GPU or a node, or ran out of memory.
    A launch does not resume a trial that fails with any other error."""
    reduce_memory_on_oom: bool = True
    """If true, a launch resumes a training that ran out of memory with options that need less: the trainer `sft` halves
    the micro-batch, then uses gradient checkpointing, then, with several workers, `strategy: fsdp`. These options
    change results only by rounding. If false, such a trial fails."""
    usage_interval: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 10.0
    """Seconds between two measurements of CPU, memory and GPU usage, which the tracker shows. 0 disables the
    measurements. Default: 10, as in MLflow."""
    storage: FilePath | None = None
    """Folder of all runs. If a launch uses several nodes, all nodes must share this folder. Null: `runs` in the current
    folder."""
    cache: PathOrUri | None = None
    """Cache of trained models and generated answers, which trials reuse: a folder, or a URI such as
    `s3://bucket/folder`. Several storages can share a URI; each storage then also keeps a local cache. Null: the folder
    `.cache` in `storage`."""
    cache_limit: str | None = None
    """Maximum size of the cache folder, such as `200GB`. At the end of each trial, the launch deletes the least
    recently used artifacts and encoded samples until the folder takes no more. The launch keeps what its running trials
    use. Files that a trial also has do not count. Null: no limit."""

    @property
    def memory_bytes(self) -> int | None:
        """The main memory of each worker in bytes; None if the spec requests none."""
        return None if self.memory is None else int(self.memory.removesuffix("GB")) * 10**9

    @field_validator("cache_limit")
    @classmethod
    def _check_size(cls, size: str | None) -> str | None:
        if size is not None:
            parse_size(size)
        return size

    @field_validator("gpus_per_worker")
    @classmethod
    def _check_fraction(cls, gpus: float, info: ValidationInfo) -> float:
        """Allow a fraction for one worker only: two workers of a trial could share a GPU, where NCCL fails."""
        workers = info.data.get("workers", 1)
        if gpus != int(gpus) and (gpus > 1 or workers > 1):
            condition = f"with {workers} workers" if workers > 1 else "above 1"
            raise ValueError(f"{condition} it must be a whole number, such as {max(1, round(gpus))}")
        return gpus

    def smoke(self) -> Mapping[str, Any]:
        """Use one worker on the CPU, so that the smoke run works on any machine."""
        return {"workers": 1, "gpus_per_worker": 0, "accelerator": None, "gpu_memory": None, "memory": None}


class Pins(DescribedModel):
    """Hashes and versions of the content of a plan; if one has changed, a launch of `plan.json` stops with an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fingerprint: str
    """SHA-256 over everything that can change a result."""
    data: str
    """SHA-256 over the content of the data set."""
    model: str
    """Hub commit of the checkpoint, content hash of a local checkpoint, or name of the randomly initialised model."""
    plugins: dict[str, str]
    """Python package and version of each plugin that the plan uses. The keys have the form `stage.name`, such as
    `trainer.sft`."""
    code: dict[str, dict[str, str]]
    """For each plugin, for the parsing of the adapter, and for the steps of the engine (`engine.train`,
    `engine.generate`, `engine.score`): a hash of the code that can run, by module, and the version of each package that
    this code computes with. Comments, docstrings and formatting are not hashed."""
    box_frame: Annotated[dict[str, Any] | None, Field(exclude_if=lambda frame: frame is None)] = None
    """The frame in which answers hold boxes, if the adapter leaves it to the model: its type, and the sizes on which it
    depends, such as the limits between which the processor resizes images."""


class ExperimentSpec(Specification):
    """An experiment: data, model, training, generation and metrics."""

    name: Name
    """The name of the experiment, of its folder in the storage (`runs/`), and of its experiment in the tracker."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Random seed of weight initialisation, data order, dropout, validation split and few-shot examples."""
    data: Annotated[Section, SectionOf("data")]
    """The data set and its splits."""
    adapter: Annotated[Section, SectionOf("adapter")]
    """The plugin that renders a sample as prompt and target, and parses a generated answer into a prediction."""
    model: Annotated[Section | None, SectionOf("model")]
    """The vision-language model. Write `none` if the generator is `openai_compatible`, whose server has its own model,
    or `constant`, which needs no model."""
    optimizer: Annotated[Section | None, SectionOf("optimizer")] = None
    """Parameter groups, learning rates and schedule. Write `none`, or omit this section, if nothing is trained."""
    trainer: Annotated[Section | None, SectionOf("trainer")]
    """Length, batch sizes and precision of the training. With `none`, the model is evaluated without training."""
    generator: Annotated[Section, SectionOf("generator")]
    """The plugin that generates answers to the test split."""
    metrics: Annotated[tuple[Section, ...], SectionOf("metric"), Field(min_length=1)]
    """The metrics that score the answers."""
    tracker: Annotated[Section, SectionOf("tracker")]
    """The experiment tracker to which runs are uploaded."""
    regime: RegimeOptions = RegimeOptions()
    """How tasks are put into prompts: one prompt for all or one for each, and what prompts show of other answers."""
    compute: ComputeOptions = ComputeOptions()
    """Number, resources and placement of the workers; storage and cache."""
    sweep: SweepOptions | None = None
    """Several trials from one spec: a search space, arms, seeds."""
    claims: dict[ClaimName, Claim] = Field(default={})
    """What the experiment is expected to show: names that you choose, mapped to claims about arms of the sweep. A
    launch records the claims with date and hash before the first result. Claims change no result."""
    criterion: Criterion | None = None
    """When an arm counts as mutual reinforcement in `runner compare --mre`. A launch records it like the claims."""
    pinned: Pins | None = None
    """Only in `plan.json`: hashes and versions of data, model and plugins. If one of them has changed, a launch of
    `plan.json` stops with an error."""

    @field_validator("name")
    @classmethod
    def _name_is_free(cls, name: str) -> str:
        if name.lower().startswith("mlflow.db") or name.lower() == "mlartifacts":
            raise ValueError(
                f"{name!r} is the name of a file of the tracker in the folder of all runs; choose another name"
            )
        return name

    @field_validator("metrics")
    @classmethod
    def _check_unique_metrics(cls, metrics: tuple[Section, ...]) -> tuple[Section, ...]:
        types = [metric.type for metric in metrics]
        duplicates = sorted({name for name in types if types.count(name) > 1})
        if duplicates:
            raise ValueError(f"{', '.join(duplicates)} is listed more than once; list each metric once")
        return metrics

    def as_json(self) -> dict[str, Any]:
        """Convert the spec to the content of a spec file, with every default. Absent sweep and claims are omitted."""
        omissible = {"sweep", "claims", "criterion"}
        return {name: value for name, value in super().as_json().items() if name not in omissible or value}

    def sections(self) -> Iterator[Section]:
        """Yield all sections in the order of the spec, except those that are `none`."""
        for name in self.stages():
            value = getattr(self, name)
            yield from value if isinstance(value, tuple) else (value,) if value else ()

    @property
    def generator_options(self) -> GeneratorOptions:
        """The generator's options that the engine uses."""
        options = self.generator.options
        assert isinstance(options, GeneratorOptions)
        return options

    @property
    def task_names(self) -> Sequence[str]:
        """The tasks of the adapter; empty if it cannot ask them apart."""
        options = self.adapter.options
        return options.task_names if isinstance(options, AdapterOptions) else ()

    @property
    def needs_box_frame(self) -> bool:
        """Whether the adapter writes boxes in the frame of the model."""
        options = self.adapter.options
        return isinstance(options, AdapterOptions) and options.needs_box_frame

    @property
    def num_target_draws(self) -> int:
        """Number of targets that the adapter draws at random for each training sample; 0 for none."""
        options = self.adapter.options
        return options.num_target_draws if isinstance(options, AdapterOptions) else 0

    @property
    def training_uses_seed(self) -> bool:
        """Whether the seed decides what is trained on, beside its order."""
        return self.regime.context_content == "shuffled" or self.num_target_draws > 0

    @property
    def model_options(self) -> ModelOptions | None:
        """The model's options that the engine uses; None if there is no model."""
        options = self.model.options if self.model else None
        assert options is None or isinstance(options, ModelOptions)
        return options

    @property
    def trainer_options(self) -> TrainerOptions | None:
        """The trainer's options that the engine uses; None if nothing is trained."""
        options = self.trainer.options if self.trainer else None
        assert options is None or isinstance(options, TrainerOptions)
        return options

    @property
    def max_hash_distance(self) -> int | None:
        """The largest distance of perceptual hashes at which images count as the same; see `DataOptions`."""
        options = self.data.options
        return options.max_hash_distance if isinstance(options, DataOptions) else None

    def conflicts(self) -> Iterator[Problem]:
        """Yield the sections that training or generation lacks, and those that would have no effect."""
        no_model = f"the generator {self.generator.type!r} does not use this spec's model"
        if self.trainer is None and self.optimizer is not None:
            yield Problem(
                "would have no effect, because `trainer: none` trains nothing; remove it, or write `none`",
                ("optimizer",),
            )
        if self.trainer is not None and self.optimizer is None:
            message = f"is missing: the trainer {self.trainer.type!r} needs parameter groups and learning rates"
            yield Problem(message, ("optimizer",))
        if self.generator_options.needs_model:
            if self.model is None:
                yield Problem(f"is `none`, but the generator {self.generator.type!r} needs a model", ("model",))
        elif self.trainer is not None:
            yield Problem(f"training would have no effect, because {no_model}; write `trainer: none`", ("trainer",))
        elif self.model is not None:
            yield Problem(f"would have no effect, because {no_model}; write `model: none`", ("model",))
        if self.needs_box_frame and self.model is None:
            message = "there is no model whose frame boxes could be written in; write `thousand` or `original`"
            yield Problem(message, ("adapter", "frame"))
        yield from self.regime.problems(self.task_names, self.adapter.type)
        yield from sequence_problems(self)
        yield from selection_problems(self)
        for problem in self.generator_options.resource_problems(self.compute.gpus_per_worker):
            yield replace(problem, path=("generator", *problem.path))
