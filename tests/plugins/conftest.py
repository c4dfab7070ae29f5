"""Tiny pictures and questions about them, a smoke-sized model, and a reporter that remembers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from PIL import Image

from runner.records import ImagePart, Rendered, TextPart


class Recorder:
    """A reporter that keeps what it is told, and asks to stop after a step."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.recorded: list[tuple[int, dict[str, float]]] = []
        self.shown: list[tuple[int, int, dict[str, float]]] = []
        self.warnings: list[str] = []
        self._stop_after = stop_after

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.recorded.append((step, dict(values)))

    def progress(self, done: int, total: int, **shown: float) -> None:
        self.shown.append((done, total, shown))

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def stop_requested(self) -> bool:
        return self._stop_after is not None and bool(self.shown) and self.shown[-1][0] >= self._stop_after

    def series(self, name: str) -> list[float]:
        return [values[name] for _, values in self.recorded if name in values]


@pytest.fixture
def recorder() -> type[Recorder]:
    return Recorder


COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}


@pytest.fixture(scope="session")
def colour_samples(tmp_path_factory: pytest.TempPathFactory) -> list[Rendered]:
    """Twelve questions about pictures of one colour, one of them about text alone."""
    folder = tmp_path_factory.mktemp("colours")
    for name, colour in COLOURS.items():
        Image.new("RGB", (32, 24), colour).save(folder / f"{name}.png")
    names = list(COLOURS) * 4
    samples = [
        Rendered(
            id=f"s{place}",
            content=(
                ImagePart(folder / f"{name}.png"),
                TextPart("Which colour " + "is it " * (1 + place % 4)),
            ),
            target=f"It is {name}." + " Indeed." * (place % 3),
        )
        for place, name in enumerate(names)
    ]
    samples[5] = Rendered("s5", (TextPart("Say nothing " * 12),), "Nothing.")
    return samples


@pytest.fixture(scope="session")
def build_smoke(colour_samples: list[Rendered]) -> Callable[..., object]:
    """A function that makes the smoke-sized model with a tokenizer of the samples' texts."""
    from plugins.model.family_options import Qwen25VLOptions
    from plugins.model.qwen_vl import Qwen25VLModel

    texts = [text for sample in colour_samples for text in (sample.prompt, sample.target or "")]

    def build(seed: int = 0, **options: object) -> object:
        return Qwen25VLModel(Qwen25VLOptions(size="smoke", **options)).build(texts, seed)

    return build


@pytest.fixture
def draw(tmp_path: Path) -> Callable[..., Path]:
    """A function that draws a grey picture of a size and returns its file."""

    def paint(width: int, height: int, name: str = "drawn.png", mode: str = "L") -> Path:
        Image.new(mode, (width, height), 128).save(tmp_path / name)
        return tmp_path / name

    return paint
