"""Measures a data set, for `runner stats`: what it holds, how long and how large that is, how many tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from PIL import Image

from runner.dataset.figures import Figures
from runner.dataset.folder import DatasetFolder
from runner.dataset.statistics import PUBLISHED, entities_by_label, values_of
from runner.errors import DataError
from runner.preview.model_tokens import count_tokens
from runner.records import Sample
from runner.stages import Reporter, TokenCount


def describe(path: Path, model: str | None, reporter: Reporter) -> Figures:
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
    return Figures(
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


def _lengths(tokens: Sequence[TokenCount]) -> dict[str, list[int]]:
    parts: dict[str, Callable[[TokenCount], int]] = {
        "text": lambda count: count.text,
        "image": lambda count: count.image,
        "target": lambda count: count.target,
        "total": lambda count: count.text + count.image + count.target,
    }
    return {f"tokens_{name}": [part(count) for count in tokens] for name, part in parts.items()} if tokens else {}
