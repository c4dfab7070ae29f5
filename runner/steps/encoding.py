"""Where the encoded samples of a training lie, shared with all trainings that encode the same."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from runner import __version__
from runner.fingerprint import fingerprint, identity
from runner.steps.context import TrialContext

ENCODERS = ("torch", "transformers", "tokenizers", "numpy", "pillow")
"""Distributions that turn text and images into a model's inputs; another version may do so otherwise."""


def encoded_folder(context: TrialContext) -> Path:
    """The folder for samples of these data as this model encodes them, in the cache that trials share.

    Its name is a hash over what decides the encoding: data, adapter and model with their options, content and plugins'
    versions, and the versions of what encodes and of what checks it. What a trainer adds is the trainer's to name.
    """
    spec, pins = context.spec, context.spec.pinned
    assert pins is not None
    assert spec.model is not None
    assert spec.trainer is not None
    sections = (spec.data, spec.adapter, spec.model)
    key = fingerprint(
        {
            "sections": [[each.type, identity(each.options)] for each in sections],
            "data": pins.data,
            "model": pins.model,
            "plugins": [pins.plugins[f"{each.stage}.{each.type}"] for each in (*sections, spec.trainer)],
            "runner": __version__,
            "packages": {name: version(name) for name in ENCODERS},
        }
    )
    return context.cache.root / "encoded" / key
