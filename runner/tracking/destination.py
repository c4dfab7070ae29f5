"""Decides to which tracker the commands `sync` and `compare` may send results of runs that others may have made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runner.errors import RequirementError
from runner.redaction import redact_tree
from runner.resolved_plan import create_plugin
from runner.spec.experiment_spec import ExperimentSpec, Section
from runner.spec.load import load_spec
from runner.stages import Tracker


class OtherStoreError(RequirementError):
    """The plan of a run names a store outside the folder of all runs, and the user has not."""


@dataclass(frozen=True)
class Destination:
    """The tracker that results may be sent to.

    A plan lies in the folder of a run, which another person may have made. Therefore the address in a plan does not
    decide where results and credentials are sent.

    Attributes:
        storage: The folder of all runs. Trackers without an address keep their store there.
        spec: The user's spec whose tracker receives everything; None if only stores in `storage` may.
    """

    storage: Path
    spec: ExperimentSpec | None = None

    @classmethod
    def from_options(cls, storage: Path, spec_file: Path | None) -> Destination:
        """Create the destination from the options of a command.

        Args:
            storage: The folder of all runs.
            spec_file: The value of `--to`.

        Raises:
            SpecError: The spec is invalid.
        """
        if spec_file is None:
            return cls(storage)
        spec = load_spec(spec_file).spec
        return cls(spec.compute.storage or Path("runs").resolve(), spec)

    def section(self, planned: Section) -> Section:
        """Return the section `tracker` that replaces the one in a plan."""
        return self.spec.tracker if self.spec is not None else planned

    def open(self, planned: Section) -> Tracker:
        """Open the tracker that receives the results of a plan with this section `tracker`.

        Raises:
            OtherStoreError: The user has to name the tracker.
            RequirementError: The store cannot be opened.
        """
        section = self.section(planned)
        if self.spec is None and not getattr(section.options, "stays_in_storage", False):
            named = redact_tree(section.as_json())
            raise OtherStoreError(
                f"the plan of the run names a store outside the folder of all runs ({named}), which may not be yours; "
                "name a spec of yours whose tracker is to receive the results: --to SPEC"
            )
        tracker: Tracker = create_plugin(section, self.storage)
        return tracker
