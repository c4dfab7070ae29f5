"""A corpus without boxes, from the authors' files to scores: build, validate, preview and a short training."""

import json
import os
import random

import pytest
from PIL import Image

from tests.command import run_in_process

DATASET = """\
name: mner
source: {type: mner, path: texts, images: [first, second]}
keep: all
split: official
output: data
"""
SPEC = """\
name: mner
seed: 1
data: {type: mmre, path: data}
adapter: {type: pfa, tasks: [ner]}
model: {type: qwen2_5_vl, size: smoke}
optimizer: {type: adamw, groups: {all: {match: "*", lr: 1e-3}}}
trainer: {type: sft, max_steps: 2, global_batch_size: 4}
generator: {type: transformers, max_new_tokens: 8}
metrics: [{type: ner_f1}]
tracker: {type: mlflow}
"""

pytestmark = pytest.mark.slow


def write_corpus(folder):
    rng = random.Random(0)
    for name in ("texts", "first", "second"):
        (folder / name).mkdir()
    for split, count in (("train", 6), ("valid", 2), ("test", 3)):
        tweets = [f"IMGID:{split}{number}\n{split}\tO\nAda{number}\tB-PER" for number in range(count)]
        tweets.append(f"IMGID:{split}{count}\nnothing\tO\nin\tO\n{split}\tO")
        (folder / "texts" / f"{split}.txt").write_text("\n\n".join(tweets) + "\n")
        for number in range(count + 1):
            image = Image.frombytes("RGB", (8, 6), rng.randbytes(144)).resize((56, 56))
            image.save(folder / ("first" if number % 2 else "second") / f"{split}{number}.JPG")


def test_a_corpus_without_boxes(tmp_path):
    def run(*arguments):
        return run_in_process(arguments, tmp_path, {**os.environ, "COLUMNS": "200"})

    write_corpus(tmp_path)
    (tmp_path / "dataset.yaml").write_text(DATASET)
    (tmp_path / "spec.yaml").write_text(SPEC)
    assert run("validate", "dataset.yaml", "spec.yaml").returncode == 0
    grounded = run("validate", "dataset.yaml", "--set", "keep=grounded")
    assert grounded.returncode == 2
    assert "the source mner has no boxes; write keep: all" in grounded.stdout + grounded.stderr
    built = run("build", "dataset.yaml", "--json")
    assert json.loads(built.stdout)["num_samples"] == {"train": 7, "valid": 3, "test": 4}, built.stderr
    previews = [json.loads(line) for line in run("preview", "spec.yaml", "-n", "all", "--json").stdout.splitlines()]
    assert [preview["target"] for preview in previews[-2:]] == [
        "Task 2 Answer:\nNER:\n:person;Ada5",
        "Task 2 Answer:\nNER:\n",
    ]
    launched = run("launch", "spec.yaml", "--local", "--json")
    assert launched.returncode == 0, launched.stderr
    assert json.loads(launched.stdout)["trials"][0]["metrics"]["ner_f1"] is not None
    refused = run("preview", "spec.yaml", "--set", "adapter.tasks=[ner, match]")
    assert refused.returncode == 2
    assert "Write adapter.tasks: [ner]" in refused.stderr
