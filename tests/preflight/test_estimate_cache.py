"""A plan is remembered by all that it is worked out of, and by nothing less."""

import json
from pathlib import Path

import pytest

from runner.files import user_cache_dir
from runner.preflight import estimate
from runner.preflight import estimate as module
from runner.preflight.estimate import (
    MAX_CACHED_PLANS,
    UNAVAILABLE,
    cached_estimate,
    describe_plan,
    estimate_key,
    is_cacheable_estimate,
)
from runner.resolved_plan import PlanResolver
from runner.spec.load import load_spec

SPEC = """\
name: small
seed: 1
data: {type: synthetic, path: data, train: 4, test: 2}
adapter: {type: pfa, tasks: [ner]}
model: {type: qwen2_5_vl, size: smoke}
optimizer: {type: adamw, groups: {all: {match: "*", lr: 1.0e-3}}}
trainer: {type: sft, epochs: 1, global_batch_size: 4, precision: fp32}
generator: {type: transformers, max_new_tokens: 4}
metrics: [{type: ner_f1}]
tracker: {type: mlflow}
"""


class SilentReporter:
    def progress(self, done, total, **shown): ...

    def warn(self, message): ...


@pytest.fixture
def loaded(tmp_path):
    (tmp_path / "spec.yaml").write_text(SPEC)
    return lambda *overrides: load_spec(tmp_path / "spec.yaml", overrides)


@pytest.fixture
def num_computed(monkeypatch):
    """A list with an item per computed estimate."""
    counted, work_out = [], estimate._estimate
    monkeypatch.setattr(estimate, "_estimate", lambda *told: counted.append(1) or work_out(*told))
    return counted


def test_an_estimate_is_computed_once_and_read_again(loaded, num_computed, tmp_path):
    first, again = (describe_plan(loaded(), SilentReporter(), tmp_path / "kept") for _ in range(2))
    assert first == again == json.loads(json.dumps(describe_plan(loaded(), SilentReporter())))
    assert len(num_computed) == 2, "once kept, once asked for without"


def test_another_spec_data_set_package_or_code_is_another_key(loaded, num_computed, tmp_path, monkeypatch):
    def told(*overrides):
        describe_plan(loaded(*overrides), SilentReporter(), tmp_path / "kept")
        return len(num_computed)

    assert told() == 1
    assert told("optimizer.groups.all.lr=2e-3") == 2
    assert told("data.train=8") == 3
    assert told() == 3
    monkeypatch.setattr(module, "installed_packages", lambda: "torch==0\n")
    assert told() == 4
    monkeypatch.setattr(module, "code_hash", lambda name: "edited")
    assert told() == 5
    assert told() == 5


def test_missing_requirements_of_this_machine_are_not_cached(loaded, tmp_path, monkeypatch):
    with_gpu = loaded("compute.gpus_per_worker=1")
    monkeypatch.setattr(estimate, "local_gpus", lambda: [])
    assert describe_plan(with_gpu, SilentReporter(), tmp_path / "kept")["unmet"]
    monkeypatch.setattr(estimate, "missing_requirements", lambda compute, gpus: [])
    assert not describe_plan(with_gpu, SilentReporter(), tmp_path / "kept")["unmet"]


def test_a_damaged_or_unwritable_cache_is_ignored(tmp_path):
    made = iter(range(9))
    parts = {"data": "d", "model": "m"}

    def told(folder):
        return cached_estimate(folder, parts, lambda: {"number": next(made), "unmet": []})["number"]

    assert [told(tmp_path / "kept"), told(tmp_path / "kept")] == [0, 0]
    [file] = (tmp_path / "kept").iterdir()
    file.write_text("{")
    assert [told(tmp_path / "kept"), told(tmp_path / "kept")] == [1, 1]
    (tmp_path / "file").write_text("")
    assert [told(tmp_path / "file"), told(tmp_path / "file")] == [2, 3]


def test_the_oldest_estimates_are_deleted(tmp_path):
    for number in range(MAX_CACHED_PLANS + 3):
        cached_estimate(tmp_path, {"data": "d", "model": str(number)}, lambda: {"unmet": []})
    assert len(list(tmp_path.iterdir())) == MAX_CACHED_PLANS


def test_estimates_without_the_files_of_a_checkpoint_are_not_cached():
    available, unavailable = {"data": "d", "model": "m"}, {"data": "d", "model": f"{UNAVAILABLE}: no hub"}
    exact, guessed = {"tokens": {"estimated": False}, "unmet": []}, {"tokens": {"estimated": True}, "unmet": []}
    assert (
        is_cacheable_estimate(available, exact)
        and is_cacheable_estimate(unavailable, exact)
        and is_cacheable_estimate(unavailable, guessed)
    )
    assert not is_cacheable_estimate(available, guessed)
    assert not is_cacheable_estimate(available, {**exact, "unmet": ["its configuration cannot be had"]})


def test_unavailable_data_are_part_of_the_key(loaded, monkeypatch):
    here = estimate_key(loaded().spec, PlanResolver(SilentReporter()))
    assert {"runner", "plugins"} <= here["code"].keys()
    gone = estimate_key(loaded("data={type: mmre, path: /nowhere}").spec, PlanResolver(SilentReporter()))
    assert gone["data"].startswith(f"{UNAVAILABLE}: /nowhere")
    assert gone["model"] == here["model"]


def test_a_user_without_a_home_has_no_cache(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert user_cache_dir("plans") is None
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert user_cache_dir("plans") == Path("/cache/mmre-runner/plans")
