"""What a search remembers: Optuna's journal, which a kill at any moment leaves readable."""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

JOURNAL = "journal.log"
"""The journal's name in the folder of a sweep."""


def open_journal(folder: Path) -> JournalStorage:
    """Open the journal of a sweep whose folder is held by this process.

    A last line that a kill tore is cut off, and so is a lock that it left: nobody else can be at work here.
    """
    file = folder / JOURNAL
    file.with_name(f"{JOURNAL}.lock").unlink(missing_ok=True)
    if file.exists():
        whole, _, torn = file.read_bytes().rpartition(b"\n")
        if torn:
            with file.open("r+b") as opened:
                opened.truncate(len(whole) + 1 if whole else 0)
    return JournalStorage(JournalFileBackend(str(file)))


def studies_by_arm(storage: JournalStorage) -> dict[str | None, list[str]]:
    """Name the studies of each arm, the latest last."""
    found: dict[str | None, list[str]] = {}
    for study in optuna.get_all_study_summaries(storage, include_best_trial=False):
        if "arm" in study.user_attrs:
            found.setdefault(study.user_attrs["arm"], []).append(study.study_name)
    return found
