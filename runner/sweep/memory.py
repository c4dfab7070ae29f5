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


def studies_of(storage: JournalStorage, arm: str | None) -> list[str]:
    """Name the studies of an arm, the latest last."""
    named = (
        study.study_name
        for study in optuna.get_all_study_summaries(storage, include_best_trial=False)
        if study.user_attrs.get("arm", "") == arm
    )
    return list(named)
