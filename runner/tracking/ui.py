"""Finds the command that serves a tracker's pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runner.errors import SpecError
from runner.plan import implement
from runner.spec.check import section
from runner.spec.load import load_spec


def serve_command(spec: Path | None, host: str, port: int) -> Sequence[str]:
    """The command for a spec's store, or for the MLflow store under `runs/` of this folder.

    Raises:
        SpecError: There is no such store yet.
    """
    if spec is None:
        tracker, storage = section("tracker", {"type": "mlflow"}), Path("runs").resolve()
    else:
        loaded = load_spec(spec).spec
        tracker, storage = loaded.tracker, loaded.compute.storage or Path("runs").resolve()
    if not storage.is_dir():
        raise SpecError(f"{storage}: no runs here yet; `runner launch SPEC` makes them, or name a spec")
    served: Sequence[str] = implement(tracker, storage).serve_command(host, port)
    return served
