"""Measures the CPU time of the steps of the demo's trial.

    python bench/demo_steps.py [SPEC] [--set PATH=VALUE]… [--only checks]

Runs the steps of a spec's trial in this process, in a temporary folder, and prints a JSON document: CPU seconds of the
label checks before the training (`checks`), of the training without them (`training`) and of generation (`answers`),
and the metrics. `--only checks` stops before the training.
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
from runner.resolved_plan import resolve
from runner.spec.load import load_spec
from runner.trial import run_trial
from runner.trial.run_directory_and_events import RunDirectory
from runner.trial.trial_components import TrialContext

SPEC = Path(__file__).parent.parent / "specs" / "tiny_mmre.yaml"


class SilentReporter:
    """A reporter that logs only warnings."""

    def progress(self, done: int, total: int, **shown: float) -> None:
        """Ignore progress."""

    def warn(self, message: str) -> None:
        """Log a warning."""
        logging.warning(message)


class ChecksDoneError(Exception):
    """Raised after the checks to stop before the training."""


def measure_step(seconds: dict[str, float], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function to record its CPU seconds, without those of other measured functions that it calls."""

    def run(*arguments: Any) -> Any:
        started, others = time.process_time(), sum(seconds.values())
        try:
            return function(*arguments)
        finally:
            seconds[name] = time.process_time() - started - (sum(seconds.values()) - others)

    return run


def measure(spec: Path, overrides: list[str], folder: Path, *, only_checks: bool) -> dict[str, Any]:
    """Run the steps of a trial and return the measurements; see the module."""
    seconds: dict[str, float] = {}
    run_preflight = measure_step(seconds, "checks", runner.trial.train._run_preflight)

    def check(*arguments: Any) -> None:
        run_preflight(*arguments)
        if only_checks:
            raise ChecksDoneError

    runner.trial.train._run_preflight = check
    run_trial.STEP_FUNCTIONS["train"] = measure_step(seconds, "training", run_trial.STEP_FUNCTIONS["train"])
    run_trial.STEP_FUNCTIONS["generate"] = measure_step(seconds, "answers", run_trial.STEP_FUNCTIONS["generate"])
    # Creating the plugins once imports what the steps would import, so that imports are not measured.
    context = TrialContext(load_spec(spec, overrides).spec, RunDirectory(folder / "imports"), None)  # type: ignore[arg-type]
    context.create_evaluation_plugins()
    plan = resolve(load_spec(spec, overrides).spec, SilentReporter())
    run = RunDirectory(folder / "runs" / plan.spec.name / "measured")
    run.create(plan, "", ())
    try:
        run_trial.run_trial(plan.spec, run.path)
    except Exception as error:
        if not isinstance(error.__cause__, ChecksDoneError):
            raise
        return {"checks": round(seconds["checks"], 2)}
    return {name: round(value, 2) for name, value in seconds.items()} | {"metrics": run.read_metrics()}


def main() -> None:
    """Run the measurement and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", nargs="?", type=Path, default=SPEC)
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
    parser.add_argument("--only", choices=["checks"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments.spec, arguments.set, Path(folder), only_checks=arguments.only == "checks")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
