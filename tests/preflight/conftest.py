"""Samples with images, a smoke-sized model whose encoding can be corrupted, and a recording reporter."""

from dataclasses import dataclass, field

import pytest
from PIL import Image

from plugins.model.family_options import Qwen25VLOptions
from plugins.model.qwen_vl import Qwen25VLModel
from runner.records import ImagePart, Rendered, TextPart


@dataclass
class Reporter:
    """Records the reports; requests a stop after `stop_after` of them."""

    stop_after: int | None = None
    told: list = field(default_factory=list)
    warnings: list = field(default_factory=list)

    def progress(self, done, total, **shown):
        self.told.append((done, total))

    def warn(self, message):
        self.warnings.append(message)

    def stop_requested(self):
        return self.stop_after is not None and len(self.told) >= self.stop_after


@pytest.fixture
def reporter():
    return Reporter()


class FaultyModel:
    """A model whose encoding passes through a function of (rendered, features)."""

    def __init__(self, model, corrupt):
        self._model, self._corrupt = model, corrupt

    def __getattr__(self, name):
        return getattr(self._model, name)

    def encode(self, rendered, target_suffix="", **how):
        return self._corrupt(rendered, self._model.encode(rendered, target_suffix, **how))


@pytest.fixture
def faulty_model(model):
    """A function that creates a model with a fault in its encoding."""
    return lambda corrupt: FaultyModel(model, corrupt)


@pytest.fixture(scope="session")
def samples(tmp_path_factory):
    """Six samples with one to three images, and a last one with text only."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, size in (("red", (32, 24)), ("green", (48, 48)), ("blue", (16, 32))):
        Image.new("RGB", size, name).save(folder / f"{name}.png")
    parts = [ImagePart(folder / f"{name}.png") for name in ("red", "green", "blue")]
    pictured = [
        Rendered(
            f"s{place}", (*parts[: 1 + place % 3], TextPart(f"What are these {place} things?")), f"Number {place}."
        )
        for place in range(6)
    ]
    return [*pictured, Rendered("s6", (TextPart("Say nothing."),), "Nothing, " * 4)]


@pytest.fixture(scope="session")
def model(samples):
    """The smoke-sized model, with a tokenizer built from the samples."""
    texts = [text for sample in samples for text in (sample.prompt, sample.target)]
    return Qwen25VLModel(Qwen25VLOptions(size="smoke")).build(texts, 0)


@pytest.fixture
def with_template(model, tmp_path):
    """A function that saves the model, edits its chat template, and loads it as a checkpoint."""

    def load(edit):
        folder = tmp_path / "edited"
        model.save(folder, "fp32")
        template = folder / "chat_template.jinja"
        before = template.read_text(encoding="utf-8")
        assert edit(before) != before
        template.write_text(edit(before), encoding="utf-8")
        return Qwen25VLModel(Qwen25VLOptions(checkpoint=str(folder))).build([], 0)

    return load
