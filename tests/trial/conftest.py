"""A small trial with all steps, run in this process."""

import pytest

from runner.resolved_plan import resolve
from runner.spec.load import load_spec
from runner.trial.run_directory_and_events import RunDirectory
from runner.trial.run_trial import run_trial

SPEC = """\
name: shared
data: {type: synthetic, path: data, train: 12, test: 4}
adapter: {type: pfa, tasks: [ner]}
model: {type: qwen2_5_vl, size: smoke}
optimizer: {type: adamw, groups: {all: {match: "*", lr: 1.0e-3}}}
trainer: {type: sft, epochs: 1, global_batch_size: 4, precision: fp32, validation_ratio: 0.34, eval_generate_steps: 2}
generator: {type: transformers, max_new_tokens: 12}
metrics: [{type: ner_f1}]
tracker: {type: mlflow}
"""


class Silent:
    def progress(self, done, total, **shown): ...

    def warn(self, message): ...


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    """A function that runs a trial of the spec with some values changed, and returns its run directory."""
    folder = tmp_path_factory.mktemp("shared")

    def trial(name, *changes):
        (folder / "spec.yaml").write_text(SPEC)
        plan = resolve(load_spec(folder / "spec.yaml", changes).spec, Silent())
        run = RunDirectory(folder / "runs" / "shared" / name)
        run.create(plan, "", ())
        run_trial(plan.spec, run.path)
        return run

    trial.folder = folder
    return trial
