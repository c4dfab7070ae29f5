"""Tests whether the measured mutual reinforcement effect follows the strength that was put into synthetic data.

    python bench/dial.py [--settings 0 0.25 0.5 1] [--seeds 1 2 3] [--storage runs]

Launches specs/mre_dial.yaml at each value of the dial (`data.relatedness`) and prints one line of JSON per value: how
much the match task gains from joint training with the summary task over training alone, as `runner compare --mre`
reports it. Finished trials are not run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner import api

SPEC = Path(__file__).parent.parent / "specs" / "mre_dial.yaml"
METRIC = "image_entity_accuracy"


def measure_effect(
    setting: float,
    seeds: Sequence[int],
    storage: Path,
    *overrides: str,
    confidence: float = 0.95,
    local: bool = False,
) -> dict[str, Any]:
    """Train with the dial at a value and measure the effect.

    Args:
        setting: Value of the dial, 0 to 1.
        seeds: Seeds of the trainings.
        storage: Folder of all runs.
        overrides: Further `PATH=VALUE` assignments.
        confidence: Level of the confidence intervals.
        local: Run in this process, without Ray.

    Returns:
        `setting`, `joint` and `alone` (means over seeds), `difference` with its interval `low` to `high` (over
        resampled test samples) and `p_value`, `seed_low` and `seed_high` (interval over seeds; None if all seeds give
        the same value), and the metric of each seed by arm.
    """
    name = f"mre_dial_{setting:g}"
    assignments = [f"name={name}", f"data.relatedness={setting}", f"sweep.seeds={list(seeds)}"]
    spec = api.load_spec(SPEC, *assignments, f"compute.storage={storage}", *overrides)
    result = api.launch(spec, local=local)
    if result.exit_status:
        raise SystemExit(result.exit_status)
    [test] = api.compare(name, storage=storage, metrics=[METRIC], mre=True, confidence=confidence).tests
    frame = api.results(name, storage=storage)
    return {
        "setting": setting,
        "joint": test.value_a,
        "alone": test.value_b,
        "difference": test.difference,
        "low": test.low,
        "high": test.high,
        "p_value": test.p_value,
        "seed_low": test.seeds and test.seeds.low,
        "seed_high": test.seeds and test.seeds.high,
        "seeds": {arm: list(rows[METRIC]) for arm, rows in frame.groupby("arm")},
    }


def main() -> None:
    """Measure the effect at each value and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", type=float, default=[0.0, 0.25, 0.5, 1.0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--storage", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    for setting in arguments.settings:
        print(json.dumps(measure_effect(setting, arguments.seeds, arguments.storage.resolve())), flush=True)


if __name__ == "__main__":
    main()
