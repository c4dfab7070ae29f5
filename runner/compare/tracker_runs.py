"""Fetches runs from the tracker for a comparison, and attaches the comparison page to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from runner.compare.runs import Run
from runner.errors import SpecError
from runner.plan import implement
from runner.spec.check import section
from runner.spec.load import load_spec
from runner.status.sweep_folder import FOLDER
from runner.tracking.run_sync import tracker_state

SHOWN_UNDER = "compare"
"""The folder of a run's artifacts that pages are put into."""


def fetch_runs(experiments: Sequence[str], spec_file: Path, into: Path) -> None:
    """Bring the files of experiments here, laid out as in a folder of all runs.

    Args:
        experiments: Their names.
        spec_file: A spec whose section `tracker` says where they are.
        into: The folder; one for each experiment is made.

    Raises:
        SpecError: The spec is wrong, or the tracker has no trial of an experiment.
        UnmetError: The tracker cannot be asked.
    """
    spec = load_spec(spec_file).spec
    tracker = implement(spec.tracker, spec.compute.storage or Path("runs").resolve())
    for name in experiments:
        (into / name).mkdir(parents=True)
        if not tracker.fetch(name, into / name):
            raise SpecError(f"--from {spec_file}: the tracker has no run of the experiment {name!r}")


def attach_page(file: Path, runs: Sequence[Run]) -> Iterator[str]:
    """Add a page to the artifacts of the sweeps that its runs belong to, else of the runs themselves.

    Yields:
        Where it was added, and why it was not, in words; a comparison is none the worse for a tracker that is away.
    """
    failed: set[str] = set()
    for run, run_id in _shown_at(runs):
        try:
            tracker = implement(section("tracker", run.plan["tracker"]), run.folder.parent.parent)
            tracker.attach(run_id, file, SHOWN_UNDER)
            yield f"added to the tracker's run {run_id} of {run.experiment}, under {SHOWN_UNDER}/"
        except Exception as error:  # whatever a tracker raises: the page is written, and stays
            if run.experiment not in failed:
                yield f"warning: the tracker of {run.experiment} has not taken it ({type(error).__name__}: {error})"
            failed.add(run.experiment)


def _shown_at(runs: Sequence[Run]) -> Iterator[tuple[Run, str]]:
    """The tracker's ids of the runs that the page belongs to; those that no tracker knows are left out."""
    ids: dict[str, Run] = {}
    for run in runs:
        known = tracker_state(run.folder.parent / FOLDER) if run.group else tracker_state(run.folder)
        if known.get("run_id"):
            ids.setdefault(str(known["run_id"]), run)
    for run_id, run in ids.items():
        yield run, run_id
