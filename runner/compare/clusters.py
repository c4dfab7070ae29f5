"""Clusters: groups of test samples with the same image or text, which are not independent of one another.

The answers to two samples that share an image are often right or wrong together. Standard errors that treat all samples
as independent are then too small (Miller 2024, "Adding Error Bars to Evals", arXiv 2411.00640). Whole
clusters are resampled instead, and contributions to a metric are summed in each cluster before they are squared (Liang
and Zeger 1986; for the bootstrap, Davison and Hinkley 1997, section 3.8).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from runner.compare.finished_runs import Run
from runner.errors import DataError, SpecError
from runner.stages.registry import suggestion

CONTENT, NO_CLUSTER = "content", "none"
"""The kind of clusters that is used by default if there are any, and the name for no clusters."""
DESCRIPTIONS = {"image": "the same image", "text": "the same text", CONTENT: "the same image or text"}
"""What the samples of a cluster share, by kind."""
GROUPS_FIELD = "groups"
"""The field of a line of `scores.jsonl` that holds the sample's group by kind; see `runner.dataset.leaks`."""
REMEDY = (
    "Launch the specs again (`runner launch SPEC --rerun score`): this scores the cached answers, and records which "
    "test samples share content"
)
"""How runs get their groups. A plan of an earlier version cannot be launched again, because the code has changed."""
MIN_RELIABLE_CLUSTERS = 40.0
"""With a smaller effective number of clusters, intervals over samples are too narrow: in `bench/clusters.py`, the 95 %
intervals cover the true difference of 91.8 % of the pairs with 20 clusters, and of 93.4 % with 40."""


@dataclass(frozen=True)
class Clusters:
    """A division of the test samples into clusters.

    Attributes:
        kind: `image`, `text`, `content`, or `none`.
        indices: For each sample the number of its cluster. Clusters are numbered from 0 by their first sample.
    """

    kind: str
    indices: NDArray[np.int64] = field(repr=False)

    @classmethod
    def from_labels(cls, kind: str, labels: Sequence[Any]) -> Clusters:
        """Make clusters of the samples with equal labels."""
        numbers: dict[Any, int] = {}
        return cls(kind, np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.int64))

    @property
    def num_clusters(self) -> int:
        """Number of clusters."""
        return int(self.indices.max()) + 1 if self.indices.size else 0

    @property
    def largest(self) -> int:
        """Number of samples in the largest cluster."""
        return int(np.bincount(self.indices).max()) if self.indices.size else 0

    @property
    def are_single_samples(self) -> bool:
        """Whether each cluster is one sample, so that clusters make no difference."""
        return self.num_clusters == self.indices.size

    def sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum the rows of the samples of each cluster; shape (num_samples, …) to (num_clusters, …)."""
        if self.are_single_samples:
            return values
        sums = np.zeros((self.num_clusters, *values.shape[1:]))
        np.add.at(sums, self.indices, values)
        return sums

    def effective_number(self, is_counted: NDArray[np.bool_]) -> float:
        """Return the number of clusters of equal size that would determine a mean equally well (Kish 1965).

        Args:
            is_counted: Which samples have a value.
        """
        sizes = np.bincount(self.indices[is_counted])
        squares = float(sizes @ sizes)
        return float(sizes.sum()) ** 2 / squares if squares else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object that docs/compare.md describes."""
        return {"kind": self.kind, "num_clusters": self.num_clusters, "largest": self.largest}

    def __str__(self) -> str:
        """Describe the clusters in one sentence, without its full stop."""
        if self.kind == NO_CLUSTER:
            return f"{self.indices.size:,} test samples are resampled one by one"
        shared = DESCRIPTIONS.get(self.kind, f"the same {self.kind}")
        plural = "" if self.largest == 1 else "s"
        return (
            f"test samples with {shared} are resampled together (--cluster {self.kind}): {self.num_clusters:,} "
            f"clusters of {self.indices.size:,} samples; the largest has {self.largest:,} sample{plural}"
        )


def choose_clusters(runs: Sequence[Run], requested: str | None) -> tuple[Clusters, list[str]]:
    """Choose the clusters of the test samples from what the runs have recorded.

    Samples that any run records as one group are in one cluster: runs can differ in the distance at which images count
    as near-duplicates.

    Args:
        runs: Runs with the same test samples.
        requested: The kind of clusters, or `none`. None: `content` if any of these groups has several samples.

    Returns:
        The clusters, and warnings.

    Raises:
        SpecError: No run has recorded groups of this kind.
        DataError: The groups of a run are not numbers or texts.
    """
    by_kind = _recorded_groups(runs)
    single = Clusters(NO_CLUSTER, np.arange(len(runs[0].scores)))
    if requested is None and not by_kind:
        return single, [
            "these runs have not recorded which test samples share an image or a text, because an earlier version "
            f"scored them; all samples count as independent. {REMEDY}"
        ]
    if requested not in {None, NO_CLUSTER, *by_kind}:
        reason = suggestion(str(requested), [*by_kind, NO_CLUSTER]) if by_kind else f". {REMEDY}"
        raise SpecError(f"--cluster {requested}: no test sample of these runs has a group of this kind{reason}")
    content = by_kind.get(CONTENT, single)
    if requested == NO_CLUSTER:
        return single, [] if content.are_single_samples else [
            "--cluster none: test samples that share an image or a text count as independent; intervals and p-values "
            "can be too small"
        ]
    default = single if content.are_single_samples else content
    chosen = default if requested is None else by_kind[requested]
    return chosen, _few_clusters_warning(chosen)


def _few_clusters_warning(clusters: Clusters) -> list[str]:
    number = clusters.effective_number(np.ones(clusters.indices.size, dtype=np.bool_))
    if clusters.are_single_samples or number >= MIN_RELIABLE_CLUSTERS:
        return []
    return [
        f"the {clusters.num_clusters} clusters of test samples are as few as {number:.0f} clusters of equal size: "
        "intervals over samples are too narrow, and p-values too small"
    ]


def _recorded_groups(runs: Sequence[Run]) -> dict[str, Clusters]:
    """Join the groups of all runs that have recorded any, by kind."""
    labels: dict[str, list[list[Any]]] = {}
    for run in runs:
        rows = [row.get(GROUPS_FIELD) or {} for row in run.scores.values()]
        _check_groups(run, rows)
        for kind in dict.fromkeys(kind for row in rows for kind in row):
            # A sample without a group of this kind is a cluster of its own.
            own = [row.get(kind, ("", index)) for index, row in enumerate(rows)]
            labels.setdefault(kind, []).append(own)
    return {kind: Clusters.from_labels(kind, join_groups(columns)) for kind, columns in labels.items()}


def _check_groups(run: Run, rows: Sequence[Any]) -> None:
    for row in rows:
        if not isinstance(row, Mapping) or not all(isinstance(value, int | str) for value in row.values()):
            raise DataError(
                f"{run.name}: scores.jsonl has invalid groups ({ascii(row)[:80]}); score its answers again (runner "
                f"launch {run.folder / 'plan.json'} --rerun score)"
            )


def join_groups(columns: Sequence[Sequence[Any]]) -> list[int]:
    """Join several divisions of the same samples: samples are together if any division has them together.

    Samples that are linked only through others are together too.

    Args:
        columns: For each division, the group of each sample; all of the same length.

    Returns:
        For each sample the number of its joint group.
    """
    num_samples = len(columns[0])
    group_numbers: dict[tuple[int, Any], int] = {}
    samples: list[int] = []
    groups: list[int] = []
    for division, column in enumerate(columns):
        for sample, group in enumerate(column):
            samples.append(sample)
            groups.append(num_samples + group_numbers.setdefault((division, group), len(group_numbers)))
    size = num_samples + len(group_numbers)
    graph = coo_array((np.ones(len(samples)), (samples, groups)), shape=(size, size))
    return [int(label) for label in connected_components(graph, directed=False)[1][:num_samples]]
