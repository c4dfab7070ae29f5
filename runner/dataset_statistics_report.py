"""Describes a data set for `runner stats`: counts, sizes, token lengths, and a page with histograms and samples."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from runner.dataset.dataset_statistics import (
    PUBLISHED_STATISTICS,
    STATISTIC_NAMES,
    DatasetStatistics,
    count_entities_by_label,
    measure_samples,
)
from runner.dataset.folder_reader import DatasetFolder
from runner.errors import DataError, PluginError, RequirementError, SpecError
from runner.html_page import render_page
from runner.images import open_image
from runner.prompt_rendering import training_texts
from runner.records import Sample
from runner.resolved_plan import create_adapter, create_plugin
from runner.spec.check import make_section
from runner.spec.experiment_spec import Section
from runner.spec.load import load_spec
from runner.stages import Adapter, Reporter, TokenCounts
from runner.stages.registry import find_plugin, installed_plugins

ADAPTER = "pfa"
"""The adapter plugin that renders samples if a checkpoint is given instead of a spec."""
GENERIC_MODEL = "image_text_to_text"
"""The model plugin for checkpoints of a model type without a plugin of its own."""
SPEC_SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class CountedSample:
    """A sample with its tokens.

    Attributes:
        sample: The sample.
        images: The files of the images in its prompt, in order.
        count: The tokens of its prompt and answer.
    """

    sample: Sample
    images: Sequence[Path]
    count: TokenCounts

    def tokens_of(self, file: Path | None) -> int | None:
        """The tokens of an image in the prompt; None if it is not shown, or the model does not tell."""
        costs = dict(zip(self.images, self.count.by_image, strict=False))
        return None if file is None else costs.get(file)


def count_tokens(
    source: str, splits: Mapping[str, Sequence[Sample]], labels: Sequence[str], reporter: Reporter
) -> list[CountedSample]:
    """Count the tokens of every sample, prompt and answer, in the same way as `runner plan`.

    Args:
        source: A spec, whose model and adapter are used, or a checkpoint (folder or hub name).
        splits: All samples. A tokenizer that is built from training texts uses those of `train`.
        labels: The entity labels of the data set.
        reporter: Receives the progress.

    Raises:
        DataError: A sample lacks an annotation that the adapter of the spec needs.
        SpecError: The spec is invalid or has no model, or the architecture of the checkpoint is unknown.
        RequirementError: The tokenizer of the model is not available on this machine.
    """
    model, adapter = _model_and_adapter(source, splits, labels)
    rendered = {split: [adapter.render_training(sample) for sample in samples] for split, samples in splits.items()}
    model_spec = create_plugin(model).meta_model(training_texts(rendered.get("train", [])))
    counted = []
    pairs = [pair for split in rendered for pair in zip(splits[split], rendered[split], strict=True)]
    for done, (sample, prompt) in enumerate(pairs, start=1):
        counted.append(CountedSample(sample, prompt.images, model_spec.count(prompt)))
        reporter.progress(done, len(pairs))
    return counted


def costly_segments_warning(counted: Sequence[CountedSample]) -> str | None:
    """Say how many segments cost more tokens than the main image of their sample; None if there are none.

    Some families enlarge small images, or cut images with a certain ratio of the sides into many tiles.
    """
    costs = [
        (segment_tokens, main_tokens, segment.image, each.sample)
        for each in counted
        if (main_tokens := each.tokens_of(each.sample.image)) is not None
        for segment in each.sample.segments
        if (segment_tokens := each.tokens_of(segment.image)) is not None
    ]
    costly = [cost for cost in costs if cost[0] > cost[1]]
    if not costly:
        return None
    segment_tokens, main_tokens, file, sample = max(costly, key=lambda cost: (cost[0] - cost[1], cost[3].id))
    assert file is not None
    width, height = _image_size(file)
    return (
        f"{len(costly):,} of {len(costs):,} segments cost more tokens than the main image of their sample. In "
        f"{sample.id}, a segment of {width} x {height} pixels has {segment_tokens:,} tokens, and the main image "
        f"{main_tokens:,}. Limit the size of images in the section model (docs/models.md)"
    )


def _model_and_adapter(
    source: str, splits: Mapping[str, Sequence[Sample]], labels: Sequence[str]
) -> tuple[Section, Adapter]:
    """The `model` section and the adapter to render and count samples with."""
    if source.lower().endswith(SPEC_SUFFIXES):
        spec = load_spec(Path(source)).spec
        if spec.model is None:
            raise SpecError(f"--model: {source} has no model whose tokens could be counted")
        return spec.model, create_adapter(spec, labels)
    folder = Path(source).expanduser()
    checkpoint = str(folder.resolve()) if folder.is_dir() else source
    tasks = (
        find_plugin("adapter", ADAPTER)
        .implementation()
        .tasks_of([sample for samples in splits.values() for sample in samples])
    )
    try:
        model = make_section("model", {"type": _model_plugin(folder, source), "checkpoint": checkpoint})
        adapter = create_plugin(make_section("adapter", {"type": ADAPTER, "tasks": list(tasks)}), labels)
    except PluginError as error:
        raise SpecError(f"--model: {error}") from error
    return model, adapter


def _model_plugin(folder: Path, checkpoint: str) -> str:
    """The model plugin of a checkpoint: by the model type in its config.json, or by a plugin name in its hub name."""
    plugins = installed_plugins("model")
    if folder.is_dir():
        try:
            model_type = str(json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise RequirementError(f"--model: {folder} holds no config.json with a model_type: {error}") from error
        return model_type if model_type in plugins else GENERIC_MODEL
    normalized = re.sub(r"[^a-z0-9]+", "_", checkpoint.lower())
    return max((plugin for plugin in plugins if plugin in normalized), key=len, default=GENERIC_MODEL)


def describe_dataset(path: Path, model: str | None, reporter: Reporter) -> DatasetStatistics:
    """Compute the statistics of a data set.

    Args:
        path: The folder of the data set.
        model: A spec, whose model and adapter are used, or a checkpoint (folder or hub name); None counts no tokens.
        reporter: Receives the progress of counting tokens, and a warning if segments cost more than main images.

    Raises:
        DataError: The data set is missing or broken, or one of its images cannot be read.
        SpecError: The spec is invalid or has no model, or the architecture of the checkpoint is unknown.
        RequirementError: The tokenizer of the model is not available on this machine.
    """
    folder = DatasetFolder(path)
    splits = folder.load_splits()
    samples = [sample for split_samples in splits.values() for sample in split_samples]
    values: dict[str, Sequence[int]] = {**measure_samples(samples), **_measure_images(samples)}
    provenance = folder.description.get("provenance")
    source = provenance.get("source") if isinstance(provenance, dict) else None
    counted = count_tokens(model, splits, folder.labels, reporter) if model is not None else []
    tokens = [each.count for each in counted]
    if warning := costly_segments_warning(counted):
        reporter.warn(warning)
    return DatasetStatistics(
        name=folder.description["name"],
        path=path,
        fingerprint=folder.description.get("fingerprint"),
        labels=folder.labels,
        counts={split: _counts(split_samples, folder.labels) for split, split_samples in splits.items()},
        total=_counts(samples, folder.labels),
        values=values | _token_lengths(counted),
        published=PUBLISHED_STATISTICS.get(source) if isinstance(source, str) else None,
        model=model,
        estimated=any(count.estimated for count in tokens),
    )


def _counts(samples: Sequence[Sample], labels: Sequence[str]) -> dict[str, int]:
    entities_by_label = count_entities_by_label(samples)
    return {
        "samples": len(samples),
        "summaries": sum(sample.summary is not None for sample in samples),
        "images": len({sample.image for sample in samples if sample.image is not None}),
        "segments": sum(len(sample.segments) for sample in samples),
        "entities": sum(entities_by_label.values()),
        **{f"entities/{label}": entities_by_label.get(label, 0) for label in labels},
    }


def _measure_images(samples: Iterable[Sample]) -> dict[str, list[int]]:
    """Width and height in pixels of all images and segments; a file that samples share counts once."""
    images: dict[Path, tuple[int, int]] = {}
    segments: dict[Path, tuple[int, int]] = {}
    for sample in samples:
        if sample.image is not None and sample.image not in images:
            images[sample.image] = _image_size(sample.image)
        for segment in sample.segments:
            if segment.image is not None and segment.image not in segments:
                segments[segment.image] = _image_size(segment.image)
    return {
        f"{name}_{side}": [size[axis] for size in sizes.values()]
        for name, sizes in (("image", images), ("segment", segments))
        for axis, side in enumerate(("width", "height"))
    }


def _image_size(path: Path) -> tuple[int, int]:
    try:
        with open_image(path) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read as an image: {error}") from error


def _token_lengths(counted: Sequence[CountedSample]) -> dict[str, list[int]]:
    if not counted:
        return {}
    counts = [each.count for each in counted]
    mains = [each.tokens_of(each.sample.image) for each in counted]
    segments = [each.tokens_of(segment.image) for each in counted for segment in each.sample.segments]
    return {
        "tokens_text": [count.text for count in counts],
        "tokens_image": [count.image for count in counts],
        "tokens_main_image": [number for number in mains if number is not None],
        "tokens_segment": [number for number in segments if number is not None],
        "tokens_target": [count.target for count in counts],
        "tokens_total": [count.text + count.image + count.target for count in counts],
    }


ENTITIES_PREFIX = "entities/"
"""Prefix of the counts by label."""
MAX_BARS = 30
"""Most bars of a histogram."""
MAX_LABELLED_BARS = 10
"""Histograms with up to this many bars have the count above each bar; others have an axis only."""
MAX_BROWSED_SAMPLES = 300
"""Most samples in the browser of the page, which embeds their images (some 10 kB each)."""

MEASURE_TITLES = {
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
    "tokens_main_image": "tokens of a main image",
    "tokens_segment": "tokens of a segment",
    "tokens_target": "tokens of an answer",
    "tokens_total": "tokens of a sample",
}
"""Titles of the measures, in the order of the tables and of the page."""


@dataclass(frozen=True)
class HistogramBar:
    """A bar of a histogram: the number of values from `low` to `high`, both included."""

    low: int
    high: int
    number: int


def histogram(values: Sequence[int]) -> list[HistogramBar]:
    """Count values in at most `MAX_BARS` bars of equal width; one bar per value if there are few values."""
    low, high = min(values), max(values)
    width = -(-(high - low + 1) // MAX_BARS)
    numbers = [0] * ((high - low) // width + 1)
    for value in values:
        numbers[(value - low) // width] += 1
    return [
        HistogramBar(low + index * width, low + (index + 1) * width - 1, number) for index, number in enumerate(numbers)
    ]


def entities_by_split(statistics: DatasetStatistics) -> dict[str, dict[str, int]]:
    """The number of entities by label and split."""
    names = [name for name in statistics.total if name.startswith(ENTITIES_PREFIX)]
    return {
        name.removeprefix(ENTITIES_PREFIX): {split: counts.get(name, 0) for split, counts in statistics.counts.items()}
        for name in names
    }


def format_value(value: float) -> str:
    """Format a number with one decimal, or none if it is whole: `1,024`, `53.3`."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def select_browsed_samples(splits: Mapping[str, Sequence[Sample]], limit: int) -> dict[str, list[Sample]]:
    """Select at most `limit` samples, at even distances within each split, in proportion to the sizes of the splits."""
    total = sum(len(samples) for samples in splits.values())
    selected = {}
    for split, samples in splits.items():
        number = len(samples) if total <= limit else max(1, limit * len(samples) // total)
        number = min(number, len(samples))
        selected[split] = [samples[index * len(samples) // number] for index in range(number)]
    return selected


def write_report(file: Path, statistics: DatasetStatistics) -> None:
    """Write the page with tables, histograms and a browser of samples; it needs no other file and no network.

    Raises:
        DataError: The data set was changed or removed in the meantime.
        RequirementError: The file cannot be written.
    """
    labels = entities_by_split(statistics)
    render_page(
        file,
        "dataset_report.html.jinja",
        statistics=statistics,
        titles=MEASURE_TITLES,
        columns=STATISTIC_NAMES,
        format_value=format_value,
        published=statistics.published or {"counts": {}, "spreads": {}},
        labels=labels,
        max_entities=max((sum(numbers.values()) for numbers in labels.values()), default=0),
        histograms={
            name: histogram(statistics.values[name])
            for name in MEASURE_TITLES
            if len(set(statistics.values.get(name, ()))) > 1
        },
        max_labelled_bars=MAX_LABELLED_BARS,
        browsed=select_browsed_samples(DatasetFolder(statistics.path).load_splits(), MAX_BROWSED_SAMPLES),
    )
