"""Searches whose trials never run: data and models are not read, results are invented."""

from types import SimpleNamespace

import pytest
from made_up import BASE

import runner.resolved_plan
from runner.spec.sweep_section import SweepOptions
from runner.spec.yaml_layers import read_tree
from runner.stages import DatasetInfo
from runner.sweep.search import open_search


class Quiet:
    def metrics(self, step, values): ...

    def progress(self, done, total, **shown): ...

    def warn(self, message):
        raise AssertionError(message)

    def stop_requested(self):
        return False


@pytest.fixture(autouse=True)
def prepared_types(monkeypatch):
    """Replaces data and models; lists the types of the data sets that were prepared."""
    prepared = []

    def prepare(part):
        prepared.append(part.type)
        return DatasetInfo("made up", "nowhere", "0" * 64, (), {"train": 8, "test": 2})

    def create_plugin(part, *_):
        return SimpleNamespace(prepare=lambda _: prepare(part))

    monkeypatch.setattr(runner.resolved_plan, "create_plugin", create_plugin)
    return prepared


@pytest.fixture
def tree_of(tmp_path):
    def tree_of(sweep, base=BASE):
        path = tmp_path / "swept.yaml"
        path.write_text(base + "sweep:\n" + "".join(f"  {line}\n" for line in sweep.splitlines()))
        return read_tree(path)

    return tree_of


@pytest.fixture
def opened(tmp_path, tree_of):
    """A function that opens a search in a folder, as a launch does; a later call resumes it."""

    def opened(sweep, folder="runs", base=BASE):
        tree = tree_of(sweep, base)
        path = tmp_path / folder / "swept" / "sweep"
        path.mkdir(parents=True, exist_ok=True)
        return open_search(tree, SweepOptions.model_validate(tree.value["sweep"]), path, Quiet())

    return opened
