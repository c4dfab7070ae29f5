"""Counts the tokens of a data set's samples for a model that is named by a spec or a checkpoint."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from runner.errors import PluginError, SpecError, UnmetError
from runner.plan import implement
from runner.records import Sample
from runner.registry import find, installed
from runner.spec.check import section
from runner.spec.load import load_spec
from runner.spec.models import Section
from runner.stages import Reporter, TokenCount
from runner.steps.rendering import training_texts

ADAPTER = "pfa"
"""The plugin that renders samples where a checkpoint is named and no spec."""
ANY_MODEL = "image_text_to_text"
"""The plugin for checkpoints of a family that has none of its own."""
SPEC_SUFFIXES = (".yaml", ".yml", ".json")


def count_tokens(
    named: str, splits: Mapping[str, Sequence[Sample]], labels: Sequence[str], reporter: Reporter
) -> list[TokenCount]:
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
    sketch = implement(model).sketch(training_texts(rendered.get("train", [])))
    counts = []
    every = [each for members in rendered.values() for each in members]
    for done, each in enumerate(every, start=1):
        counts.append(sketch.count(each))
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
            raise UnmetError(f"--model: {folder} holds no config.json that names a model_type: {error}") from error
        return kind if kind in plugins else ANY_MODEL
    plain = re.sub(r"[^a-z0-9]+", "_", named.lower())
    return max((plugin for plugin in plugins if plugin in plain), key=len, default=ANY_MODEL)
