"""A launch stops before training where the proof finds something, in one line that names the sample."""

import json

import pytest

from plugins.model.family_options import Qwen25VLOptions
from plugins.model.qwen_vl import Qwen25VLModel


@pytest.fixture
def checkpoint(emoji):
    """The experiment with a checkpoint of its own, whose chat template a test may edit."""
    texts = [(emoji.folder / "names.txt").read_text() * 2]
    Qwen25VLModel(Qwen25VLOptions(size="smoke")).build(texts, 0).save(emoji.folder / "checkpoint", "fp32")
    spec = emoji.folder / "emoji.yaml"
    spec.write_text(spec.read_text().replace("size: smoke", "checkpoint: ./checkpoint"))
    return emoji


def _write_more_before_answers(checkpoint):
    """Let the checkpoint's template write answers of earlier turns in another way than it asks for one."""
    template = checkpoint.folder / "checkpoint" / "chat_template.jinja"
    added = "{% if message.role == 'assistant' %}!{% endif %}{{ part.text }}"
    template.write_text(template.read_text().replace("{{ part.text }}", added))


def test_a_template_that_changes_the_answer_stops_the_launch(checkpoint):
    _write_more_before_answers(checkpoint)
    done = checkpoint.run("launch", "emoji.yaml", "--local")
    assert done.returncode in {1, 2}
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("sample 0: the chat template ")
    [record] = (checkpoint.folder / "runs" / "emoji").glob("*/record.json")
    told = json.loads(record.read_text())
    assert told["status"] == told["steps"]["train"]["status"] == "failed"
    assert "preflight" not in told
    assert not (record.parent / "checkpoints").exists()


def test_a_prompt_beyond_the_limit_stops_the_launch_and_a_longer_limit_runs(emoji):
    done = emoji.run("launch", "emoji.yaml", "--local", "--set", "trainer.max_length=60")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("6 of 6 training samples are too long; the longest: sample ")
    cut = ("--set", "trainer.max_length=100", "--set", "trainer.on_overlength=truncate", "--set", "trainer.epochs=1")
    done = emoji.run("launch", "emoji.yaml", "--local", "--json", *cut)
    assert done.returncode == 0, done.stderr
    [trial] = json.loads(done.stdout)["trials"]
    folder = emoji.folder / trial["run_dir"]
    assert json.loads((folder / "record.json").read_text())["preflight"]["truncated"] == 6
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    [proof] = [event for event in events if event["kind"] == "preflight"]
    assert proof["truncated"] == proof["encoded_whole"] == [str(place) for place in range(6)]
    assert "6 of 6 training samples have more than 100 tokens" in done.stderr


@pytest.mark.slow
def test_a_failed_check_in_one_worker_stops_all_workers(checkpoint):
    _write_more_before_answers(checkpoint)
    done = checkpoint.run("launch", "emoji.yaml", "--set", "compute.workers=2")
    assert done.returncode in {1, 2}
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("sample 0: the chat template ")
