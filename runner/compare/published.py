"""Reads published results, which `runner compare --published` shows beside the runs without testing against them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from runner.errors import PluginError, Problem, SpecError, SpecPath
from runner.spec.check import sorted_by_location, validation_problems
from runner.spec.yaml_layers import Mark, Tree, read_tree
from runner.stages import DescribedModel
from runner.stages.registry import installed_plugins, suggestion

GROUP = "runner.published"
"""The group of entry points: the name of a benchmark, and the package that holds `<name>.yaml`."""
SUFFIXES = (".yaml", ".yml", ".json")
"""A value of `--published` with one of these suffixes is a file."""
DECIMALS = {"percent": 2, "fraction": 0}
"""By unit: the number of decimal places by which a value is moved to be a fraction."""


class PublishedMethod(DescribedModel):
    """The results of one method."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    """The name of the method, as in its paper."""
    source: str
    """Where the values were published: a key of `sources`."""
    metrics: dict[str, float] = Field(min_length=1)
    """Metric name, such as `gmner_f1`, to the published value in `unit`."""
    caveat: str = ""
    """What a reader must know of this method, such as its training data."""


class PublishedResults(DescribedModel):
    """The results of one benchmark."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str = Field(min_length=1)
    """The name of the benchmark."""
    split: str = Field(min_length=1)
    """The samples on which the methods were scored, such as `official test split`."""
    num_samples: int | None = Field(default=None, ge=1)
    """Number of samples in this split. None: unknown."""
    unit: Literal["percent", "fraction"]
    """`percent`: values between 0 and 100; `fraction`: values between 0 and 1, as those of runs."""
    caveats: tuple[str, ...] = ()
    """What a reader must know before comparing runs with these values."""
    sources: dict[str, str] = Field(min_length=1)
    """Short name of a publication to its full citation."""
    methods: tuple[PublishedMethod, ...] = Field(min_length=1)
    """The methods, in the order of the table."""


@dataclass(frozen=True)
class PublishedTable:
    """Published results, with values as fractions.

    Attributes:
        name: The value of `--published`.
        results: What the file holds.
        values: For each method: metric name to its value between 0 and 1, with as many digits as were published.
    """

    name: str
    results: PublishedResults
    values: Sequence[Mapping[str, Decimal]]

    @property
    def metric_names(self) -> list[str]:
        """The metrics that at least one method has, in the order of the file."""
        return list(dict.fromkeys(name for values in self.values for name in values))

    def shown_metrics(self, chosen: Sequence[str] | None) -> list[str]:
        """Return the metrics of the table: those that the user chose, or all."""
        return [name for name in chosen if name in self.metric_names] if chosen else self.metric_names

    def notes(self, num_samples: int, run_metrics: Sequence[str], chosen: Sequence[str] | None = None) -> list[str]:
        """Return what a reader of the table must know: differences to the runs, caveats, and citations.

        Args:
            num_samples: Number of test samples of the runs.
            run_metrics: The metrics of the runs.
            chosen: The metrics that the user chose; None: all.
        """
        results = self.results
        used = dict.fromkeys(method.source for method in results.methods)
        return [
            *self._differences(num_samples, run_metrics, chosen),
            *(" ".join(text.split()) for text in results.caveats),
            *(f"{method.name}: {method.caveat}" for method in results.methods if method.caveat),
            *(f"[{source}] {' '.join(results.sources[source].split())}" for source in used),
        ]

    def _differences(self, num_samples: int, run_metrics: Sequence[str], chosen: Sequence[str] | None) -> Iterator[str]:
        expected = self.results.num_samples
        if expected is not None and expected != num_samples:
            yield (
                f"the runs were scored on {num_samples:,} samples and the methods on {expected:,} "
                f"({self.results.split}), so that their values are not comparable"
            )
        for name in self.shown_metrics(chosen):
            if name not in run_metrics:
                yield f"no run has the metric {name!r}{_metric_suggestion(name)}"

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object that docs/compare.md describes; its values are fractions."""
        results = self.results
        return {
            "name": self.name,
            "title": results.title,
            "split": results.split,
            "num_samples": results.num_samples,
            "caveats": list(results.caveats),
            "sources": dict(results.sources),
            "methods": [
                {
                    "name": method.name,
                    "source": method.source,
                    "caveat": method.caveat,
                    "metrics": {name: float(value) for name, value in values.items()},
                }
                for method, values in zip(results.methods, self.values, strict=True)
            ],
        }


def read_published(names: Iterable[str], metrics: Sequence[str] | None = None) -> list[PublishedTable]:
    """Read published results by name or from files.

    Args:
        names: Names of installed results, such as `gmner`, or YAML files.
        metrics: The metrics that the user chose; None: all.

    Raises:
        SpecError: There are no such results, a file is invalid (with every problem found), or a table has none of the
            chosen metrics.
    """
    tables = [_read_one(name) for name in dict.fromkeys(names)]
    for table in tables:
        if not table.shown_metrics(metrics):
            raise SpecError(
                f"--published {table.name}: it has none of the metrics of --metric; it has: "
                f"{', '.join(table.metric_names)}"
            )
    return tables


def _read_one(name: str) -> PublishedTable:
    file = _find_file(name)
    tree = read_tree(file)
    problems = list(tree.problems)
    try:
        results = PublishedResults.model_validate(tree.value)
        problems += _content_problems(results, tree)
    except ValidationError as error:
        problems += validation_problems(error, PublishedResults, tree, ())
    if problems:
        raise SpecError(sorted_by_location(problems))
    shift = -DECIMALS[results.unit]
    values = [
        {metric: Decimal(str(value)).scaleb(shift) for metric, value in method.metrics.items()}
        for method in results.methods
    ]
    return PublishedTable(name, results, values)


def _metric_suggestion(name: str) -> str:
    """Suggest the most similar metric for a name that no installed metric has; otherwise return nothing."""
    known: list[str] = []
    for plugin in installed_plugins("metric").values():
        try:
            known += plugin.metric_names()
        except PluginError:  # The note is about another metric; `runner plugins` names this one.
            continue
    close = get_close_matches(name, known, n=1)
    return f", and no metric plugin; did you mean {close[0]!r}?" if close and name not in known else ""


def _find_file(name: str) -> Path:
    if name.endswith(SUFFIXES):
        return Path(name)
    packages = {entry.name: entry.module for entry in entry_points(group=GROUP)}
    if name not in packages:
        hint = suggestion(name, sorted(packages))
        raise SpecError(f"--published {name}: is neither a YAML file nor the name of installed results{hint}")
    return Path(str(files(packages[name]).joinpath(f"{name}.yaml")))


def _content_problems(results: PublishedResults, tree: Tree) -> Iterator[Problem]:
    """Yield what is wrong with valid types: an unknown source, a value outside the unit, a method that occurs twice."""

    def problem(path: SpecPath, message: str) -> Problem:
        return (tree.mark(path) or Mark("published")).problem(message, path)

    upper = 10 ** DECIMALS[results.unit]
    first_index: dict[str, int] = {}
    for index, method in enumerate(results.methods):
        path: SpecPath = ("methods", index)
        if method.source not in results.sources:
            yield problem((*path, "source"), f"no source {method.source!r}{suggestion(method.source, results.sources)}")
        if first_index.setdefault(method.name, index) != index:
            first = tree.mark(("methods", first_index[method.name], "name"))
            location = f" (first on line {first.line})" if first else ""
            yield problem((*path, "name"), f"{method.name!r} occurs twice{location}; give each row a name of its own")
        for name, value in method.metrics.items():
            if not 0 <= value <= upper:
                message = f"must be between 0 and {upper} with `unit: {results.unit}`, not {value:g}"
                yield problem((*path, "metrics", name), message)
    if results.unit == "percent" and all(value <= 1 for method in results.methods for value in method.metrics.values()):
        yield problem(("unit",), "no value is larger than 1; write `unit: fraction`")
