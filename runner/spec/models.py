"""What an experiment spec holds: its sections, each a plugin's options, and the settings that are the engine's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from runner.stages import FilePath, Options, Stage

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


class Specification(BaseModel):
    """The base of all that a spec file can be: unknown keys are errors, and it never changes."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
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

    def as_json(self) -> dict[str, Any]:
        """The specification as a spec file would say it, every default written out."""
        return {name: _plain(getattr(self, name)) for name in type(self).model_fields}


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

    workers: Annotated[int, Field(ge=1)] = 1
    """Processes that train one model together; they must divide the trainer's `batch_size`."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    """GPUs of each worker; a fraction lets trials share one."""
    cpus_per_worker: Annotated[int, Field(ge=1)] | None = None
    """CPU cores of each worker; none: all the machine's cores, divided by the workers."""
    accelerator: str | None = None
    """The GPU's type as Ray names it, such as `A100` (an 80 GB card has this name too)."""
    gpu_memory: Annotated[str | None, Field(pattern=r"^\d+ ?GB$")] = None
    """Memory that each GPU must have, such as `80GB`."""
    storage: FilePath | None = None
    """Folder for runs, shared by all nodes where there are several; none: `runs` in the current folder."""

    def smoke(self) -> Mapping[str, Any]:
        """One worker on the CPU, so that it runs anywhere."""
        return {"workers": 1, "gpus_per_worker": 0, "accelerator": None, "gpu_memory": None}


class Pins(BaseModel):
    """What a plan was made of, by content: written into `plan.json`, and compared when that is launched."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

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
    model: Annotated[Section, OfStage("model")]
    """The vision-language model."""
    optimizer: Annotated[Section, OfStage("optimizer")]
    """Parameter groups, their rates and the schedule."""
    trainer: Annotated[Section, OfStage("trainer")]
    """How long, in what batches and precision the model is trained."""
    generator: Annotated[Section, OfStage("generator")]
    """How answers to the test split are got."""
    metrics: Annotated[tuple[Section, ...], OfStage("metric"), Field(min_length=1)]
    """What the answers are measured with."""
    tracker: Annotated[Section, OfStage("tracker")]
    """Where runs are shown."""
    compute: ComputeOptions = ComputeOptions()
    """Workers and what each of them gets."""
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

    def sections(self) -> Iterator[Section]:
        """All sections, in the order of the spec."""
        for name in self.stages():
            value = getattr(self, name)
            yield from value if isinstance(value, tuple) else (value,)
