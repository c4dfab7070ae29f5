"""Tests whether a trained model uses its images: generates the test answers again with every image replaced by grey.

    python bench/blank_images.py runs/tiny_mmre/trial-…

Prints a JSON document with the original metrics (`seeing`), the metrics with grey images of the same sizes (`blind`)
and the difference (`loss`). A model that answers from the text alone loses nothing; a model that uses the images loses
image-entity accuracy.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from runner.records import ImagePart, Rendered
from runner.resolved_plan import create_adapter, create_plugin, read_plan
from runner.trial.generate import TrialWeights
from runner.trial.run_directory_and_events import EventLog, RunDirectory
from runner.trial.score import score_corpus
from runner.trial.trial_components import TrialContext

GREY = (128, 128, 128)


class SilentReporter:
    """A reporter that prints only warnings."""

    def metrics(self, step: int, values: Any) -> None:
        """Ignore metrics."""

    def progress(self, done: int, total: int, **shown: float) -> None:
        """Ignore progress."""

    def warn(self, message: str) -> None:
        """Print a warning."""
        print(message, file=sys.stderr)

    def stop_requested(self) -> bool:
        """Never stop."""
        return False


def blank_images(rendered: Rendered, folder: Path) -> Rendered:
    """Replace a prompt's images with grey images of the same sizes."""

    def blank(path: Path) -> Path:
        with Image.open(path) as image:
            size = image.size
        grey_path = folder / f"{size[0]}x{size[1]}.png"
        if not grey_path.exists():
            Image.new("RGB", size, GREY).save(grey_path)
        return grey_path

    content = tuple(ImagePart(blank(part.path)) if isinstance(part, ImagePart) else part for part in rendered.content)
    return replace(rendered, content=content)


def metrics_with_blank_images(folder: Path) -> dict[str, float | None]:
    """Generate and score the test answers of a finished trial with grey images."""
    run = RunDirectory(folder)
    spec = read_plan(run.plan.read_text(encoding="utf-8"))
    data = create_plugin(spec.data)
    info = data.prepare(SilentReporter())
    samples = data.load("test")
    adapter = create_adapter(spec, info.labels)
    weights = TrialWeights(TrialContext(spec, run, EventLog(run.events)))
    generator = create_plugin(spec.generator)
    with tempfile.TemporaryDirectory() as image_folder:
        prompts = [blank_images(adapter.render_prompt(sample), Path(image_folder)) for sample in samples]
        answers = list(generator.generate(weights, prompts, frozenset(), SilentReporter()))
    outputs = {answer.id: answer.output for answer in answers}
    metrics = {options.type: create_plugin(options) for options in spec.metrics}
    references = {sample.id: adapter.reference(sample) for sample in samples}
    scored = score_corpus(
        metrics,
        references,
        lambda sample_id, mode: adapter.parse(outputs[sample_id], mode),
        adapter.parse_modes[0],
        SilentReporter(),
    )
    return dict(scored.metrics)


def main() -> None:
    """Print the metrics of a trial with and without its images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, help="run directory of a finished trial")
    folder = parser.parse_args().run_dir
    seeing, blind = RunDirectory(folder).read_metrics(), metrics_with_blank_images(folder)
    loss = {name: seeing[name] - value for name, value in blind.items() if value is not None}  # type: ignore[operator]
    print(json.dumps({"seeing": {name: seeing[name] for name in blind}, "blind": blind, "loss": loss}, indent=2))


if __name__ == "__main__":
    main()
