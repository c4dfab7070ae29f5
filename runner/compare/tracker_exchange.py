"""Downloads runs from the tracker for a comparison, and uploads the comparison page to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from runner.compare.finished_runs import Run
from runner.errors import SpecError
from runner.redaction import redact_passwords
from runner.resolved_plan import create_plugin
from runner.spec.check import make_section
from runner.spec.load import load_spec
from runner.stages import Tracker
from runner.sweep.sweep_folder import SWEEP_FOLDER
from runner.tracking.destination import Destination, OtherStoreError
from runner.tracking.uploader import tracker_state

PAGE_FOLDER = "compare"
"""The artifact folder of a tracker run that pages are uploaded to."""


def fetch_runs(experiments: Sequence[str], spec_file: Path, target: Path) -> None:
    """Download the files of experiments from the tracker, in the layout of a folder of all runs.

    Args:
        experiments: Names of the experiments.
        spec_file: A spec whose section `tracker` names the tracker.
        target: The folder to write to; a subfolder is created for each experiment.

    Raises:
        SpecError: The spec is invalid, or the tracker has no trial of an experiment.
        RequirementError: The tracker cannot be reached.
    """
    spec = load_spec(spec_file).spec
    tracker: Tracker = create_plugin(spec.tracker, spec.compute.storage or Path("runs").resolve())
    for name in experiments:
        (target / name).mkdir(parents=True)
        if not tracker.download_runs(name, target / name):
            raise SpecError(f"--from {spec_file}: the tracker has no runs of the experiment {name!r}")


def attach_page(file: Path, runs: Sequence[Run], destination: Destination) -> Iterator[str]:
    """Upload a page to the tracker runs of the sweeps that the runs belong to, else of the runs themselves.

    Args:
        file: The page.
        runs: The runs that were compared.
        destination: The tracker that the page may be sent to.

    Yields:
        A message for each tracker run, and a warning for each experiment whose upload failed. A failure does not affect
        the comparison.
    """
    failed: set[str] = set()
    for run_id, run in _tracker_runs(runs).items():
        try:
            if destination.spec is None and run.folder.resolve().parent.parent != destination.storage.resolve():
                raise OtherStoreError(f"the run lies outside {destination.storage}; name the tracker with --to SPEC")
            tracker = destination.open(make_section("tracker", run.plan["tracker"]))
            tracker.log_file(run_id, file, PAGE_FOLDER)
            yield f"uploaded to the tracker run {run_id} of {run.experiment}, in {PAGE_FOLDER}/"
        except Exception as error:  # any error of a tracker plugin: the page itself is already written
            if run.experiment not in failed and isinstance(error, OtherStoreError):
                yield f"not uploaded to a tracker for {run.experiment}: {error}"
            elif run.experiment not in failed:
                cause = redact_passwords(f"{type(error).__name__}: {error}")
                yield f"warning: upload to the tracker of {run.experiment} failed ({cause})"
            failed.add(run.experiment)


def _tracker_runs(runs: Sequence[Run]) -> dict[str, Run]:
    """Return the ids of the tracker runs that a page belongs to, each with one of its runs."""
    tracker_runs: dict[str, Run] = {}
    for run in runs:
        state = tracker_state(run.folder.parent / SWEEP_FOLDER) if run.group else tracker_state(run.folder)
        if state.get("run_id"):
            tracker_runs.setdefault(str(state["run_id"]), run)
    return tracker_runs
