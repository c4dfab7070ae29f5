"""Trains the demo with each model family, changing `model.type` alone.

    python -m bench.families [FAMILY …]

Launches specs/tiny_mmre.yaml once for each plugin of the stage `model` (or for those that are named), and prints a row
of a Markdown table for each: the F1 of the entities, the image-entity accuracy, ROUGE-L, and CPU seconds. A family
takes two to six CPU minutes. Exits with 1 if an F1 is below 0.8.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import entry_points
from pathlib import Path

ROOT = Path(__file__).parent.parent
SPEC = ROOT / "specs" / "tiny_mmre.yaml"
METRICS = ("ner_f1", "image_entity_accuracy", "rougeL")
LEAST_F1 = 0.8


def families() -> list[str]:
    """Return the names of the project's model plugins."""
    return sorted(entry.name for entry in entry_points(group="runner.model") if entry.module.startswith("plugins."))


def train(family: str, storage: Path) -> dict[str, float]:
    """Launch the demo with a family.

    Returns:
        The metrics of its test samples, by name.

    Raises:
        RuntimeError: The launch failed; with the end of what it printed.
    """
    settings = [f"model.type={family}", f"name=demo_{family}", f"compute.storage={storage}"]
    command = ["launch", str(SPEC), "--local", "--json", *(part for each in settings for part in ("--set", each))]
    done = subprocess.run([sys.executable, "-m", "runner", *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{family}: the launch ended with {done.returncode}\n{done.stderr[-2000:]}")
    (trial,) = json.loads(done.stdout)["trials"]
    return {name: float(trial["metrics"][name]) for name in METRICS}


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="plugins of the stage model; default: all")
    chosen = parser.parse_args().families or families()
    print(f"| `model.type` | {' | '.join(METRICS)} | CPU seconds |\n|---|{'---:|' * (len(METRICS) + 1)}", flush=True)
    lowest = 1.0
    with tempfile.TemporaryDirectory() as storage:
        for family in chosen:
            before = os.times()
            metrics = train(family, Path(storage))
            after = os.times()
            seconds = after.children_user + after.children_system - before.children_user - before.children_system
            print(
                f"| `{family}` | {' | '.join(f'{value:.3f}' for value in metrics.values())} | {seconds:.0f} |",
                flush=True,
            )
            lowest = min(lowest, metrics["ner_f1"])
    return int(lowest < LEAST_F1)


if __name__ == "__main__":
    sys.exit(main())
