"""Where does the demo's time go?

    python bench/demo_steps.py [SPEC] [--set PATH=VALUE]… [--only checks]

Runs the steps of a spec's trial in this process, in a temporary folder, and prints a JSON document: CPU seconds of the
label checks before the training (`checks`), of the training without them (`training`) and of the answers (`answers`),
and the metrics. `--only checks` ends before the training.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import runner.trial.train
from runner.plan import plan_json, resolve
from runner.spec.load import load_spec
from runner.trial import run_trial as trial
from runner.trial.context import TrialContext
from runner.trial.run_directory import RunDirectory

SPEC = Path(__file__).parent.parent / "specs" / "tiny_mmre.yaml"


class Silent:
    """Is told of data that are made on the way."""

    def progress(self, done: int, total: int, **shown: float) -> None:
        """Show nothing."""

    def warn(self, message: str) -> None:
        """Pass a warning on."""
        logging.warning(message)


class Stopped(Exception):
    """The training is not wanted."""


def timed(seconds: dict[str, float], name: str, action: Callable[..., Any]) -> Callable[..., Any]:
    """An action whose CPU seconds are noted, less those of timed actions within it."""

    def run(*told: Any) -> Any:
        began, others = time.process_time(), sum(seconds.values())
        try:
            return action(*told)
        finally:
            seconds[name] = time.process_time() - began - (sum(seconds.values()) - others)

    return run


def measure(spec: Path, overrides: list[str], folder: Path, *, only_checks: bool) -> dict[str, Any]:
    """Run the steps; see the module."""
    seconds: dict[str, float] = {}
    prove = timed(seconds, "checks", runner.trial.train._prove)

    def check(*told: Any) -> None:
        prove(*told)
        if only_checks:
            raise Stopped

    runner.trial.train._prove = check
    trial.ACTIONS["train"] = timed(seconds, "training", trial.ACTIONS["train"])
    trial.ACTIONS["generate"] = timed(seconds, "answers", trial.ACTIONS["generate"])
    TrialContext.create_all(_context(spec, overrides, folder))  # what is imported late is not the steps'
    plan = resolve(load_spec(spec, overrides).spec, Silent())
    run = RunDirectory(folder / "runs" / plan.spec.name / "measured")
    run.begin(plan, "", ())
    try:
        trial.run_trial(plan_json(plan), run.path)
    except Exception as error:
        if not isinstance(error.__cause__, Stopped):
            raise
        return {"checks": round(seconds["checks"], 2)}
    return {name: round(value, 2) for name, value in seconds.items()} | {"metrics": run.read_metrics()}


def _context(spec: Path, overrides: list[str], folder: Path) -> TrialContext:
    return TrialContext(load_spec(spec, overrides).spec, RunDirectory(folder / "imports"), None)  # type: ignore[arg-type]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", nargs="?", type=Path, default=SPEC)
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
    parser.add_argument("--only", choices=["checks"])
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        told = measure(chosen.spec, chosen.set, Path(place), only_checks=chosen.only == "checks")
    print(json.dumps(told))


if __name__ == "__main__":
    main()
