"""The training step: what comes after it and lacks something is told before it."""

import importlib.util

import pytest

from runner.artifacts import RunDirectory
from runner.errors import UnmetError
from runner.files import read_lines
from runner.plan import plan_json, resolve
from runner.spec.load import load_spec
from runner.steps.trial import run_trial

SPEC = """\
name: unmet
data: {type: synthetic, path: data, train: 8, test: 2}
adapter: {type: pfa, tasks: [ner]}
model: {type: qwen2_5_vl, size: smoke}
optimizer: {type: adamw, groups: {all: {match: "*", lr: 1.0e-3}}}
trainer: {type: sft, epochs: 1, batch_size: 4, precision: fp32}
generator: {type: vllm, max_new_tokens: 8}
metrics: [{type: ner_f1}]
tracker: {type: mlflow}
"""


class Silent:
    def progress(self, done, total, **shown): ...

    def warn(self, message): ...


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_a_generator_that_cannot_be_made_fails_the_trial_before_it_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unmet.yaml").write_text(SPEC)
    plan = resolve(load_spec(tmp_path / "unmet.yaml").spec, Silent())
    run = RunDirectory(tmp_path / "runs" / "unmet" / "trial")
    run.begin(plan, "", ())
    with pytest.raises(UnmetError, match="needs the package vllm"):
        run_trial(plan_json(plan), run.path)
    assert run.read_record()["steps"]["train"]["status"] == "failed"
    assert not any(event["kind"] in {"parameters", "metrics"} for event in read_lines(run.events))
