"""Searches whose trials are never run: data and models are not looked at, results are made up."""

from types import SimpleNamespace

import pytest
from made_up import BASE

import runner.plan
from runner.spec.sweep_section import SweepOptions
from runner.spec.tree import read_tree
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
def unseen(monkeypatch):
    """Data and models as they are said to be; the names of data sets that were asked for."""
    looked = []

    def prepare(part):
        looked.append(part.type)
        return DatasetInfo("made up", "nowhere", "0" * 64, (), {"train": 8, "test": 2})

    def implement(part, *_):
        return SimpleNamespace(prepare=lambda _: prepare(part))

    monkeypatch.setattr(runner.plan, "implement", implement)
    return looked


@pytest.fixture
def tree_of(tmp_path):
    def tree_of(sweep, base=BASE):
        path = tmp_path / "swept.yaml"
        path.write_text(base + "sweep:\n" + "".join(f"  {line}\n" for line in sweep.splitlines()))
        return read_tree(path)

    return tree_of


@pytest.fixture
def opened(tmp_path, tree_of):
    """Opens a search in a folder that stays, as a launch and the one after it do."""

    def opened(sweep, folder="runs", base=BASE):
        tree = tree_of(sweep, base)
        path = tmp_path / folder / "swept" / "sweep"
        path.mkdir(parents=True, exist_ok=True)
        return open_search(tree, SweepOptions.model_validate(tree.value["sweep"]), path, Quiet())

    return opened
