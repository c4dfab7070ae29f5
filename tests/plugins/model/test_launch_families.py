"""Model families on the command line, and a model whose image settings changed after training."""

import json
import os
import shutil

import pytest

from tests.command import run_in_process

SPEC = """\
name: small
seed: 1
data: {{type: synthetic, path: data, train: 12, test: 4}}
adapter: {{type: pfa}}
model: {{type: {name}, size: smoke}}
optimizer: {{type: adamw, groups: {{all: {{match: "*", lr: 1e-3}}}}}}
trainer: {{type: sft, max_steps: 2, global_batch_size: 4, precision: bf16}}
generator: {{type: transformers, max_new_tokens: 8}}
metrics: [{{type: ner_f1}}]
tracker: {{type: mlflow}}
"""

pytestmark = pytest.mark.slow


def _launch(folder):
    return run_in_process(["launch", "small.yaml", "--local", "--json"], folder, {**os.environ, "COLUMNS": "200"})


@pytest.mark.parametrize("family", ["image_text_to_text", "internvl", "qwen2_5_vl"], indirect=True)
def test_a_family_is_launched_and_refuses_to_generate_with_other_image_settings(family, tmp_path):
    (tmp_path / "small.yaml").write_text(SPEC.format(name=family.name))
    done = _launch(tmp_path)
    assert done.returncode == 0, done.stderr
    (trial,) = json.loads(done.stdout)["trials"]
    run = tmp_path / trial["run_dir"]
    assert len((run / "predictions.jsonl").read_text().splitlines()) == 4
    record = json.loads((run / "record.json").read_text())
    del record["steps"]["generate"], record["steps"]["score"]
    (run / "record.json").write_text(json.dumps({**record, "status": "interrupted"}))
    settings = json.loads((run / "model" / "processor_config.json").read_text())
    settings["image_processor"]["image_std"] = [0.9, 0.9, 0.9]
    (run / "model" / "processor_config.json").write_text(json.dumps(settings))
    shutil.rmtree(tmp_path / "runs" / ".cache")  # the answers of the model as it was
    refused = _launch(tmp_path)
    assert refused.returncode == 2
    assert "pixels.image_std: trained with [0." in refused.stderr
    assert ", now [0.9, 0.9, 0.9]" in refused.stderr
    assert "Traceback" not in refused.stderr
