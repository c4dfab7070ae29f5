"""Describes a data set for `runner stats`: counts, sizes, token lengths, and a page of histograms."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from runner.dataset.dataset_statistics import PUBLISHED, SPREAD, DatasetStatistics, entities_by_label, values_of
from runner.dataset.folder import DatasetFolder
from runner.errors import DataError, PluginError, RequirementError, SpecError
from runner.html_page import fill
from runner.plan import implement
from runner.records import Sample
from runner.rendering import training_texts
from runner.spec.check import section
from runner.spec.experiment_spec import Section
from runner.spec.load import load_spec
from runner.stages import Reporter, TokenCounts
from runner.stages.registry import find, installed

ADAPTER = "pfa"
"""The plugin that renders samples where a checkpoint is named and no spec."""
ANY_MODEL = "image_text_to_text"
"""The plugin for checkpoints of a family that has none of its own."""
SPEC_SUFFIXES = (".yaml", ".yml", ".json")


def count_tokens(
    named: str, splits: Mapping[str, Sequence[Sample]], labels: Sequence[str], reporter: Reporter
) -> list[TokenCounts]:
    """Count the tokens of every sample, prompt and answer, as `runner plan` counts those of a training.

    Args:
        named: A spec, whose model and adapter are taken, or a checkpoint by its folder or hub name.
        splits: All samples; a tokenizer that is made from training texts is made from those of `train`.
        labels: The data set's.
        reporter: Told of the progress.

    Raises:
        DataError: A sample lacks what the spec's adapter asks about.
        SpecError: The spec is wrong or names no model, or the checkpoint is of no known architecture.
        UnmetError: The model's tokenizer cannot be had here.
    """
    model, adapter_section = _parts(named, splits)
    adapter = implement(adapter_section, labels)
    rendered = {split: [adapter.render_training(each) for each in members] for split, members in splits.items()}
    model_spec = implement(model).meta_model(training_texts(rendered.get("train", [])))
    counts = []
    every = [each for members in rendered.values() for each in members]
    for done, each in enumerate(every, start=1):
        counts.append(model_spec.count(each))
        reporter.progress(done, len(every))
    return counts


def _parts(named: str, splits: Mapping[str, Sequence[Sample]]) -> tuple[Section, Section]:
    """The sections `model` and `adapter` that samples are shown by."""
    if named.endswith(SPEC_SUFFIXES):
        spec = load_spec(Path(named)).spec
        if spec.model is None:
            raise SpecError(f"--model: {named} has no model whose tokens could be counted")
        return spec.model, spec.adapter
    folder = Path(named).expanduser()
    checkpoint = str(folder.resolve()) if folder.is_dir() else named
    tasks = find("adapter", ADAPTER).implementation().tasks_of([each for part in splits.values() for each in part])
    try:
        model = section("model", {"type": _family(folder, named), "checkpoint": checkpoint})
        return model, section("adapter", {"type": ADAPTER, "tasks": list(tasks)})
    except PluginError as error:
        raise SpecError(f"--model: {error}") from error


def _family(folder: Path, named: str) -> str:
    """The plugin for a checkpoint: as its configuration says, or what of its name is a plugin's."""
    plugins = installed("model")
    if folder.is_dir():
        try:
            kind = str(json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RequirementError(
                f"--model: {folder} holds no config.json that names a model_type: {error}"
            ) from error
        return kind if kind in plugins else ANY_MODEL
    plain = re.sub(r"[^a-z0-9]+", "_", named.lower())
    return max((plugin for plugin in plugins if plugin in plain), key=len, default=ANY_MODEL)


def describe(path: Path, model: str | None, reporter: Reporter) -> DatasetStatistics:
    """Measure a data set.

    Args:
        path: Its folder.
        model: A spec, whose model and adapter are taken, or a checkpoint by its folder or hub name; None: no tokens.
        reporter: Told of the progress of counting tokens.

    Raises:
        DataError: The data set is missing or broken, or a picture of it cannot be read.
        SpecError: The spec is wrong or names no model, or the checkpoint is of no known architecture.
        UnmetError: The model's tokenizer cannot be had here.
    """
    folder = DatasetFolder(path)
    splits = folder.splits()
    samples = [sample for members in splits.values() for sample in members]
    values: dict[str, Sequence[int]] = {**values_of(samples), **_sizes(samples)}
    provenance = folder.description.get("provenance")
    source = provenance.get("source") if isinstance(provenance, dict) else None
    tokens = count_tokens(model, splits, folder.labels, reporter) if model is not None else []
    return DatasetStatistics(
        name=folder.description["name"],
        path=path,
        fingerprint=folder.description.get("fingerprint"),
        labels=folder.labels,
        counts={split: _counts(members, folder.labels) for split, members in splits.items()},
        total=_counts(samples, folder.labels),
        values=values | _lengths(tokens),
        published=PUBLISHED.get(source) if isinstance(source, str) else None,
        model=model,
        estimated=any(count.estimated for count in tokens),
    )


def _counts(samples: Sequence[Sample], labels: Sequence[str]) -> dict[str, int]:
    by_label = entities_by_label(samples)
    return {
        "samples": len(samples),
        "summaries": sum(sample.summary is not None for sample in samples),
        "images": len({sample.image for sample in samples if sample.image is not None}),
        "segments": sum(len(sample.segments) for sample in samples),
        "entities": sum(by_label.values()),
        **{f"entities/{label}": by_label.get(label, 0) for label in labels},
    }


def _sizes(samples: Iterable[Sample]) -> dict[str, list[int]]:
    """Sides of pictures in pixels, each file once."""
    main: dict[Path, tuple[int, int]] = {}
    cut: dict[Path, tuple[int, int]] = {}
    for sample in samples:
        if sample.image is not None and sample.image not in main:
            main[sample.image] = _size(sample.image)
        for segment in sample.segments:
            if segment.image is not None and segment.image not in cut:
                cut[segment.image] = _size(segment.image)
    return {
        f"{name}_{side}": [size[axis] for size in sizes.values()]
        for name, sizes in (("image", main), ("segment", cut))
        for axis, side in enumerate(("width", "height"))
    }


def _size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as opened:
            return opened.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read as an image: {error}") from error


def _lengths(tokens: Sequence[TokenCounts]) -> dict[str, list[int]]:
    parts: dict[str, Callable[[TokenCounts], int]] = {
        "text": lambda count: count.text,
        "image": lambda count: count.image,
        "target": lambda count: count.target,
        "total": lambda count: count.text + count.image + count.target,
    }
    return {f"tokens_{name}": [part(count) for count in tokens] for name, part in parts.items()} if tokens else {}


ENTITIES = "entities/"
"""What the counts of a label begin with."""
NUM_BARS = 30
"""Of a histogram, at most."""

TITLES = {
    "summary_characters": "characters of a summary",
    "summary_words": "words of a summary",
    "text_characters": "characters of a text",
    "text_words": "words of a text",
    "entities": "entities of a sample",
    "segments": "segments of a sample",
    "image_width": "width of an image, pixels",
    "image_height": "height of an image, pixels",
    "segment_width": "width of a segment, pixels",
    "segment_height": "height of a segment, pixels",
    "tokens_text": "tokens of a prompt's text",
    "tokens_image": "tokens of a prompt's images",
    "tokens_target": "tokens of an answer",
    "tokens_total": "tokens of a sample",
}
"""What is measured, in the order of tables and page."""


@dataclass(frozen=True)
class Bar:
    """A bar of a histogram: how many values lie from `low` to `high`, both included."""

    low: int
    high: int
    number: int


def histogram(values: Sequence[int]) -> list[Bar]:
    """Count values in bars of one width, at most `NUM_BARS`; a bar a value where so many are enough."""
    low, high = min(values), max(values)
    width = -(-(high - low + 1) // NUM_BARS)
    numbers = [0] * ((high - low) // width + 1)
    for value in values:
        numbers[(value - low) // width] += 1
    return [Bar(low + at * width, low + (at + 1) * width - 1, number) for at, number in enumerate(numbers)]


def by_label(figures: DatasetStatistics) -> dict[str, dict[str, int]]:
    """How many entities there are of each label, by split."""
    labels = [name for name in figures.total if name.startswith(ENTITIES)]
    return {
        name.removeprefix(ENTITIES): {split: each.get(name, 0) for split, each in figures.counts.items()}
        for name in labels
    }


def shown(value: float) -> str:
    """A figure for people, with a decimal where it is no whole number: `1,024`, `53.3`."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def write_figures(file: Path, figures: DatasetStatistics) -> None:
    """Write the page.

    Raises:
        UnmetError: The file cannot be written.
    """
    labels = by_label(figures)
    fill(
        file,
        "dataset_report.html.jinja",
        figures=figures,
        titles=TITLES,
        columns=SPREAD,
        shown=shown,
        published=figures.published or {"counts": {}, "spreads": {}},
        labels=labels,
        most_entities=max((sum(numbers.values()) for numbers in labels.values()), default=0),
        histograms={
            name: histogram(figures.values[name]) for name in TITLES if len(set(figures.values.get(name, ()))) > 1
        },
    )
