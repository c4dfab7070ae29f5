"""Tests whether the arms of a study on conditioned training tell why a context helps, on data whose answer is known.

    python bench/worlds.py [--worlds content format neither] [--seeds 1 2 3] [--storage runs]

Launches specs/mre_worlds.yaml in each world and prints one line of JSON per world: the image-entity accuracy of each
arm, the differences between arms with the intervals of `runner compare`, and what they show. A world is a way to
generate the data; docs/mre.md says why its answer is known. Finished trials are not run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from runner import api
from runner.compare.statistics import PairedTest

SPEC = Path(__file__).parent.parent / "specs" / "mre_worlds.yaml"
METRIC = "image_entity_accuracy"

WORLDS: Mapping[str, Mapping[str, Any]] = {
    "content": {},
    "format": {
        "data.match_evidence": "text",
        "data.max_entities_per_text": 2,
        "data.relatedness": 0.0,
        "trainer.steps": 112,
    },
    "neither": {
        "data.match_evidence": "text",
        "data.max_entities_per_text": 1,
        "data.relatedness": 0.0,
        "data.test_text_suffix": '""',
        "trainer.steps": 80,
    },
}
"""What a world changes in the spec. Its name is the right answer; see `find_cause`."""

CONTRASTS: Sequence[tuple[str, str]] = (
    ("gold", "neutral"),
    ("gold", "shuffled"),
    ("shuffled", "neutral"),
    ("neutral", "mixed"),
    ("mixed", "alone"),
)
"""The pairs of arms to compare: an arm, and the arm that is subtracted."""

Cause = Literal["content", "format", "content and format", "neither"]
"""What of a context helps."""


@dataclass(frozen=True)
class Gain:
    """The metric of an arm minus that of another.

    Attributes:
        value: The difference of the means over seeds.
        low: Lower end of its interval over resampled test samples.
        high: Upper end of that interval.
        seed_low: Lower end of Welch's interval over seeds; None if it is unknown.
        seed_high: Upper end of that interval.
    """

    value: float
    low: float
    high: float
    seed_low: float | None
    seed_high: float | None

    @classmethod
    def of(cls, test: PairedTest) -> Gain:
        """Take the difference and the intervals of a test."""
        low, high = (test.difference if end is None else end for end in (test.low, test.high))
        return cls(test.difference, low, high, test.seeds and test.seeds.low, test.seeds and test.seeds.high)

    @property
    def is_shown(self) -> bool:
        """Whether both intervals are above zero; the one over samples alone if the other is unknown."""
        return self.low > 0 and (self.seed_low is None or self.seed_low > 0)


def find_cause(gains: Mapping[tuple[str, str], Gain]) -> Cause:
    """Tell what of a context helps.

    The content helps if the right annotations are better than neutral words and than annotations of other samples. The
    format helps if neutral words are better than no context.

    Args:
        gains: By arm and subtracted arm, as in `CONTRASTS`.
    """
    content = gains["gold", "neutral"].is_shown and gains["gold", "shuffled"].is_shown
    form = gains["neutral", "mixed"].is_shown
    if content:
        return "content and format" if form else "content"
    return "format" if form else "neither"


def measure_world(
    world: str,
    seeds: Sequence[int],
    storage: Path,
    *overrides: str,
    confidence: float = 0.95,
    local: bool = False,
) -> dict[str, Any]:
    """Train the arms in a world and compare them.

    Args:
        world: A key of `WORLDS`.
        seeds: Seeds of the trainings.
        storage: Folder of all runs.
        overrides: Further `PATH=VALUE` assignments.
        confidence: Level of the confidence intervals.
        local: Run in this process, without Ray.

    Returns:
        `world`; `answer`, what the gains show; `arms`, the mean metric by arm; `gains` by `a - b`; and `seeds`, the
        metric of each seed by arm.
    """
    name = f"mre_world_{world}"
    changes = [f"{path}={value}" for path, value in WORLDS[world].items()]
    assignments = [f"name={name}", *changes, f"sweep.seeds={list(seeds)}", f"compute.storage={storage}", *overrides]
    result = api.launch(api.load_spec(SPEC, *assignments), local=local)
    if result.exit_status:
        raise SystemExit(result.exit_status)
    gains = measure_gains(name, storage, confidence)
    frame = api.results(name, storage=storage)
    return {
        "world": world,
        "answer": find_cause(gains),
        "arms": {arm: rows[METRIC].mean() for arm, rows in frame.groupby("arm")},
        "gains": {f"{arm} - {baseline}": asdict(gains[arm, baseline]) for arm, baseline in CONTRASTS},
        "seeds": {arm: list(rows[METRIC]) for arm, rows in frame.groupby("arm")},
    }


def measure_gains(experiment: str, storage: Path, confidence: float) -> dict[tuple[str, str], Gain]:
    """Compare the arms of an experiment like `runner compare --by arm`, with each subtracted arm as the baseline."""
    gains = {}
    for baseline in dict.fromkeys(baseline for _, baseline in CONTRASTS):
        comparison = api.compare(
            experiment, storage=storage, by="arm", baseline=baseline, metrics=[METRIC], confidence=confidence
        )
        gains |= {(test.pair.a.label, baseline): Gain.of(test) for test in comparison.tests}
    return gains


def main() -> None:
    """Measure each world and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), default=list(WORLDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--storage", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    for world in arguments.worlds:
        print(json.dumps(measure_world(world, arguments.seeds, arguments.storage.resolve())), flush=True)


if __name__ == "__main__":
    main()
