"""Compares the CPU time of a study of several arms with that of its arms launched one by one.

    python bench/arms.py [--arms 8] [--train 600] [--test 100] [--rounds 1]

Both launch the first arms of `SELECTED` from `specs/mre_regimes.yaml` with one seed and the same generated data: once
as one sweep, and once as one launch for each arm, each in a fresh storage. Prints one line of JSON: the CPU seconds of
the whole process trees (medians over the rounds) and their ratio. Predictions that differ are an error. A sweep saves
start-ups, pictures that are encoded once for all arms, and trainings that arms have in common.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from against import ROOT, tree_seconds

SPECS = ROOT / "specs"
SELECTED = (
    "joint_onepass",
    "mixed",
    "conditioned",
    "pipeline",
    "neutral",
    "shuffled",
    "summary_alone",
    "ner_alone",
)
"""Eight arms of the spec; `pipeline` has the training of `conditioned`."""


def write_spec(file: Path, arms: Mapping[str, Any], options: argparse.Namespace, storage: Path) -> None:
    """Write the spec of a study with these arms and one seed."""
    spec = {
        "extends": str(SPECS / "tiny_mmre.yaml"),
        "name": "study",
        "data": {"train": options.train, "test": options.test, "path": str(file.parent / "data")},
        "regime": {"prompts": "per_task"},
        "compute": {"storage": str(storage)},
        "sweep": {"arms": arms, "seeds": [1]},
    }
    file.write_text(yaml.safe_dump(spec, sort_keys=False))


def launch(arms: Mapping[str, Any], options: argparse.Namespace, folder: Path, name: str) -> tuple[float, Any]:
    """Launch a study in a fresh storage; return its CPU seconds, and the predictions of its trials in a fixed order."""
    storage, file = folder / name, folder / f"{name}.yaml"
    write_spec(file, arms, options, storage)
    seconds = tree_seconds([sys.executable, "-m", "runner", "launch", str(file)], folder)
    return seconds, sorted(path.read_text() for path in storage.glob("study/*/predictions.jsonl"))


def measure(arms: Mapping[str, Any], options: argparse.Namespace, folder: Path, number: int) -> tuple[float, float]:
    """Run both ways once; return the CPU seconds of the study and of its arms one by one.

    Raises:
        SystemExit: The predictions differ.
    """
    together, predictions = launch(arms, options, folder, f"together-{number}")
    apart = [launch({arm: arms[arm]}, options, folder, f"{arm}-{number}") for arm in arms]
    if predictions != sorted(text for _, texts in apart for text in texts):
        raise SystemExit("the predictions of the study differ from those of its arms launched one by one")
    return together, sum(seconds for seconds, _ in apart)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", type=int, default=len(SELECTED), help="number of arms")
    parser.add_argument("--train", type=int, default=600, help="training samples")
    parser.add_argument("--test", type=int, default=100, help="test samples")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args(arguments)
    spec = yaml.safe_load((SPECS / "mre_regimes.yaml").read_text())
    arms = {arm: spec["sweep"]["arms"][arm] for arm in SELECTED[: options.arms]}
    with tempfile.TemporaryDirectory() as folder:
        # The data are generated before, so that their generation counts on neither side.
        launch({"data": {"trainer.max_steps": 1}}, options, Path(folder), "warm-up")
        rounds = [measure(arms, options, Path(folder), number) for number in range(options.rounds)]
    together, apart = (statistics.median(values) for values in zip(*rounds, strict=True))
    print(json.dumps({"arms": len(arms), "together": together, "apart": apart, "ratio": together / apart}))


if __name__ == "__main__":
    main()
