"""Every installed model family in its smallest size, and samples with no, one and several images."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

import pytest
from PIL import Image

from runner.records import ImagePart, Rendered, TextPart

NAMES = sorted(entry.name for entry in entry_points(group="runner.model") if entry.module.startswith("plugins."))


@dataclass(frozen=True)
class Family:
    """A plugin of the stage `model`, and texts to train its tokenizer on."""

    name: str
    texts: list[str]

    def plugin(self, **options: Any) -> Any:
        (made,) = entry_points(group="runner.model", name=self.name)
        (told,) = entry_points(group="runner.model.options", name=self.name)
        return made.load()(told.load()(**options or {"size": "smoke"}))

    def build(self, seed: int = 0) -> Any:
        return self.plugin().build(self.texts, seed)


@pytest.fixture(scope="session")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> list[Rendered]:
    """Six samples; the last one has two examples."""
    folder = tmp_path_factory.mktemp("pictured")
    shapes = {"wide": (100, 40), "high": (30, 90), "small": (20, 24), "large": (150, 140)}
    parts = {}
    for place, (name, size) in enumerate(shapes.items()):
        picture = Image.effect_noise(size, 80).convert("RGB")
        picture.paste((60 * place, 40, 250 - 60 * place), (0, 0, size[0] // 2, size[1]))
        picture.save(folder / f"{name}.png")
        parts[name] = ImagePart(folder / f"{name}.png")

    def sample(id: str, *names: str, question: str = "Who is this?") -> Rendered:
        return Rendered(id, (*(parts[name] for name in names), TextPart(question)), f"It is {id}, of course.")

    samples = [
        sample("none", question="Text alone, " * 9 + "who is it?"),
        sample("one", "wide"),
        sample("other", "large", question="Who is it here?"),
        sample("two", "high", "small"),
        sample("three", "wide", "high", "large", question="Who is on which?\nTell me."),
    ]
    last = sample("shown", "small")
    return [*samples, Rendered(last.id, last.content, last.target, (samples[1], samples[0], samples[3]))]


@pytest.fixture(scope="session", params=NAMES)
def family(request: pytest.FixtureRequest, pictured: list[Rendered]) -> Family:
    texts = [text for sample in pictured for text in (sample.prompt, sample.target or "")]
    return Family(request.param, texts)


@pytest.fixture(scope="session")
def model(family: Family) -> Any:
    """The smoke-sized model of the family; tests must not change it."""
    return family.build()


@pytest.fixture(scope="session")
def saved(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder to which the model was saved."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    model.save(folder, "fp32")
    return folder
