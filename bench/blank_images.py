"""Does a trained model look? Its test answers again, with every image blanked.

    python bench/blank_images.py runs/tiny_mmre/trial-…

Prints a JSON document with the metrics as they were, with grey pictures of the same sizes, and the difference. A
model that answers from the text alone loses nothing; one that looks loses its image-entity accuracy.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from runner.plan import implement, read_plan
from runner.records import ImagePart, Rendered
from runner.trial.context import TrialContext
from runner.trial.events import EventLog
from runner.trial.generate import TrialWeights
from runner.trial.run_directory import RunDirectory
from runner.trial.score import score_corpus

GREY = (128, 128, 128)


class Silent:
    """A reporter that tells nobody."""

    def metrics(self, step: int, values: Any) -> None:
        """Ignored."""

    def progress(self, done: int, total: int, **shown: float) -> None:
        """Ignored."""

    def warn(self, message: str) -> None:
        """Told all the same."""
        print(message, file=sys.stderr)

    def stop_requested(self) -> bool:
        """Never."""
        return False


def blanked(rendered: Rendered, folder: Path) -> Rendered:
    """Put grey pictures of the same sizes in place of a prompt's images."""

    def blank(path: Path) -> Path:
        with Image.open(path) as opened:
            size = opened.size
        grey = folder / f"{size[0]}x{size[1]}.png"
        if not grey.exists():
            Image.new("RGB", size, GREY).save(grey)
        return grey

    content = tuple(ImagePart(blank(part.path)) if isinstance(part, ImagePart) else part for part in rendered.content)
    return replace(rendered, content=content)


def metrics_with_blank_images(folder: Path) -> dict[str, float | None]:
    """Generate and score a finished trial's test answers again, blind."""
    run = RunDirectory(folder)
    spec = read_plan(run.plan.read_text(encoding="utf-8"))
    data = implement(spec.data)
    info = data.prepare(Silent())
    samples = data.load("test")
    adapter = implement(spec.adapter, info.labels)
    weights = TrialWeights(TrialContext(spec, run, EventLog(run.events)))
    generator = implement(spec.generator)
    with tempfile.TemporaryDirectory() as grey:
        prompts = [blanked(adapter.render_prompt(sample), Path(grey)) for sample in samples]
        answers = list(generator.generate(weights, prompts, frozenset(), Silent()))
    outputs = {answer.id: answer.output for answer in answers}
    metrics = {each.type: implement(each) for each in spec.metrics}
    references = {sample.id: adapter.reference(sample) for sample in samples}
    scored = score_corpus(adapter, metrics, references, outputs, adapter.parse_modes[0], Silent())
    return dict(scored.figures)


def main() -> None:
    """Compare a trial with itself, blind."""
    folder = Path(sys.argv[1])
    seeing, blind = RunDirectory(folder).read_metrics(), metrics_with_blank_images(folder)
    loss = {name: seeing[name] - value for name, value in blind.items() if value is not None}  # type: ignore[operator]
    print(json.dumps({"seeing": {name: seeing[name] for name in blind}, "blind": blind, "loss": loss}, indent=2))


if __name__ == "__main__":
    main()
