"""The data plugin `mmre`: an M-MRE data-set folder, with its own splits or new ones."""

from __future__ import annotations

from collections.abc import Sequence

from plugins.data.data_options import MmreOptions
from runner.dataset.folder_reader import DatasetFolder
from runner.dataset.leaks import find_leaks, leak_message
from runner.dataset.split import split_by_ratios
from runner.errors import DataError
from runner.records import Sample
from runner.stages import DatasetInfo, Ratios, Reporter


class MmreData:
    """Loads, splits and checks a data-set folder."""

    def __init__(self, options: MmreOptions) -> None:
        """Store the options; `prepare` reads the folder."""
        self._options = options
        self._folder = DatasetFolder(options.path)
        self._splits: dict[str, list[Sample]] = {}

    def prepare(self, reporter: Reporter) -> DatasetInfo:
        """Load all splits, check them, and return their description and fingerprint.

        Raises:
            DataError: The folder is missing or damaged, has no `train` or `test`, or its splits leak.
        """
        built = self._folder.load_splits()
        splits = self._split(built)
        self._check_leaks(splits, reporter)
        self._splits = {split: samples[: self._options.limit] for split, samples in splits.items()}
        actual = self._folder.info(built).fingerprint
        recorded = self._folder.description.get("fingerprint")
        if recorded != actual:
            reporter.warn(
                f"{self._folder.path}: the content does not match dataset.json (its fingerprint is {actual[:8]}, and "
                f"dataset.json has {str(recorded)[:8]}); the run uses the fingerprint of the content"
            )
        return self._folder.info(self._splits)

    def _split(self, built: dict[str, list[Sample]]) -> dict[str, list[Sample]]:
        split = self._options.split
        if isinstance(split, Ratios):
            samples = [sample for members in built.values() for sample in members]
            return split_by_ratios(split, samples, self._options.near_images)
        missing = {"train", "test"} - set(built)
        if missing:
            raise DataError(
                f"{self._folder.path}: has no split {', '.join(sorted(missing))}, only {', '.join(built)}; "
                "split it again: data.split: {ratios: {train: 0.7, test: 0.3}}"
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
            f"{message}. Split it again (data.split: {{ratios: {{train: 0.7, test: 0.3}}}}), "
            "or accept the leaks with data.leaks: warn"
        )

    def load(self, split: str) -> Sequence[Sample]:
        """Return the samples of a split; call `prepare` first.

        Raises:
            DataError: There is no such split.
        """
        if split not in self._splits:
            raise DataError(f"{self._folder.path}: no split {split!r} was prepared")
        return self._splits[split]
