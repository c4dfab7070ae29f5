"""Finds what there is to review: the samples that a build has annotated."""

from __future__ import annotations

from pathlib import Path

from runner.dataset.rows import sample_of
from runner.dataset.work import WorkFolder
from runner.errors import DataError
from runner.files import rows_of
from runner.review.candidates import Candidate, Review
from runner.review.log import ReviewLog
from runner.spec.dataset_spec import DatasetSpec
from runner.spec.load import load


def open_review(dataset: Path) -> Review:
    """Read what a build left for review.

    Args:
        dataset: The spec of the data set, its folder (which need not be published yet), or the folder of its build.

    Raises:
        SpecError: The spec is wrong.
        DataError: There is nothing to review, or what was decided cannot be read.
    """
    work, name = _work(dataset)
    if not work.annotated.is_file():
        raise DataError(
            f"{dataset}: nothing waits for a review (it would lie in {work.annotated}); `runner build DATASET_SPEC` "
            "makes it. To review a data set, name its spec, its folder, or the folder `<data set>.build` beside it"
        )
    candidates = [
        Candidate(sample_of(row, work.pictures), tuple(row["flags"]), row["annotation"])
        for row in rows_of(work.annotated)
    ]
    return Review(work.path, name, work.pictures, candidates, ReviewLog(work.decisions))


def _work(dataset: Path) -> tuple[WorkFolder, str]:
    """The folder of the build, and the data set's name."""
    if dataset.is_file():
        spec = load(dataset, DatasetSpec).spec
        return WorkFolder.of(spec.output), spec.name
    folder = dataset.resolve()
    if folder.suffix == WorkFolder.of(folder).path.suffix:
        return WorkFolder(folder), folder.stem
    return WorkFolder.of(folder), folder.name
