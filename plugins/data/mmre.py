"""M-MRE data from a data-set folder, split as it was built or anew."""

from __future__ import annotations

from collections.abc import Sequence

from plugins.data.data_options import MmreOptions
from runner.dataset.folder import DatasetFolder
from runner.dataset.split import divide_by, find_leaks, leak_message
from runner.errors import DataError
from runner.records import Sample
from runner.spec.dataset_spec import Ratios
from runner.stages import DatasetInfo, Reporter


class MmreData:
    """Reads, divides and checks a data-set folder."""

    def __init__(self, options: MmreOptions) -> None:
        """Take the options; nothing is read yet."""
        self._options = options
        self._folder = DatasetFolder(options.path)
        self._splits: dict[str, list[Sample]] = {}

    def prepare(self, reporter: Reporter) -> DatasetInfo:
        """Read all splits, check them, and describe them by their content.

        Raises:
            DataError: The folder is missing or broken, has no `train` or `test`, or its splits leak.
        """
        built = self._folder.splits()
        splits = self._divided(built)
        self._check_leaks(splits, reporter)
        self._splits = {split: samples[: self._options.limit] for split, samples in splits.items()}
        whole = self._folder.info(built).fingerprint
        recorded = self._folder.description.get("fingerprint")
        if recorded != whole:
            reporter.warn(
                f"{self._folder.path}: the content is not what its dataset.json was written for (fingerprint "
                f"{whole[:8]}, there {str(recorded)[:8]}); the run is pinned to the content"
            )
        return self._folder.info(self._splits)

    def _divided(self, built: dict[str, list[Sample]]) -> dict[str, list[Sample]]:
        chosen = self._options.split
        if isinstance(chosen, Ratios):
            samples = [sample for members in built.values() for sample in members]
            return divide_by(chosen, samples, self._options.near_images)
        missing = {"train", "test"} - set(built)
        if missing:
            raise DataError(
                f"{self._folder.path}: has no split {', '.join(sorted(missing))}, only {', '.join(built)}; "
                "divide it anew: data.split: {ratios: {train: 0.7, test: 0.3}}"
            )
        return built

    def _check_leaks(self, splits: dict[str, list[Sample]], reporter: Reporter) -> None:
        leaks = find_leaks(splits, self._options.near_images)
        if not leaks:
            return
        message = f"{self._folder.path}: {leak_message(leaks)}"
        if self._options.leaks == "warn":
            reporter.warn(message)
            return
        raise DataError(
            f"{message}. Divide it anew (data.split: {{ratios: {{train: 0.7, test: 0.3}}}}), "
            "or accept them with data.leaks: warn"
        )

    def load(self, split: str) -> Sequence[Sample]:
        """The samples of a split; `prepare` comes first.

        Raises:
            DataError: There is no such split.
        """
        if split not in self._splits:
            raise DataError(f"{self._folder.path}: no split {split!r} was prepared")
        return self._splits[split]
