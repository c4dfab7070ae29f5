"""Fixtures: prompts with small images, and a model in memory instead of stored weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runner.records import Rendered


@dataclass(frozen=True)
class Held:
    """Weights that are loaded already."""

    model: Any
    path: Path = Path("model")

    def folder(self) -> Path:
        return self.path

    def load(self) -> Any:
        return self.model


@pytest.fixture(scope="session")
def held() -> type[Held]:
    return Held


@pytest.fixture(scope="session")
def prompts(colour_samples):
    return [Rendered(sample.id, sample.content) for sample in colour_samples]
