"""Is the effect that is measured the one that was put into the data?

    python bench/dial.py [--settings 0 0.25 0.5 1] [--seeds 1 2 3] [--storage runs]

Launches specs/mre_dial.yaml at each setting of the dial (data.relatedness), and prints a line of JSON a setting:
what training on the summary and the match together gains for the match over the match alone, as `runner
compare --mre` tells it. What is finished is not run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner import api

SPEC = Path(__file__).parent.parent / "specs" / "mre_dial.yaml"
FIGURE = "image_entity_accuracy"


def effect(
    setting: float,
    seeds: Sequence[int],
    storage: Path,
    *overrides: str,
    confidence: float = 0.95,
    local: bool = False,
) -> dict[str, Any]:
    """Train with the dial at a setting, and measure.

    Args:
        setting: Of the dial, 0 to 1.
        seeds: Of the trainings.
        storage: The folder of all runs.
        overrides: Further `PATH=VALUE` assignments.
        confidence: Of the intervals.
        local: In this process, without Ray.

    Returns:
        `setting`, `joint` and `alone` (means over seeds), `difference` with `low` and `high` (of resampled test
        samples) and `p_value`, `seed_low` and `seed_high` (over seeds; None where no seed differs from another), and
        each seed's figures.
    """
    name = f"mre_dial_{setting:g}"
    told = (f"name={name}", f"data.relatedness={setting}", f"sweep.seeds={list(seeds)}", f"compute.storage={storage}")
    launched = api.launch(api.load_spec(SPEC, *told, *overrides), local=local)
    if launched.exit_status:
        raise SystemExit(launched.exit_status)
    [test] = api.compare(name, storage=storage, metrics=[FIGURE], mre=True, confidence=confidence).tests
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
        "seeds": {arm: list(rows[FIGURE]) for arm, rows in frame.groupby("arm")},
    }


def main() -> None:
    """Measure at all settings and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", type=float, default=[0.0, 0.25, 0.5, 1.0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--storage", type=Path, default=Path("runs"))
    chosen = parser.parse_args()
    for setting in chosen.settings:
        print(json.dumps(effect(setting, chosen.seeds, chosen.storage.resolve())), flush=True)


if __name__ == "__main__":
    main()
