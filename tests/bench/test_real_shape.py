"""bench/real_shape.py: its checkpoint is like one of the hub, and its parts cover the run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plugins.model.chat.processor_and_images import train_tokenizer
from plugins.model.family_options import Qwen25VLOptions
from plugins.model.qwen_vl import Qwen25VLModel
from runner.dataset.folder_reader import DatasetFolder

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(BENCH))
    try:
        import process_memory
        import random_checkpoint
        import real_shape
    finally:
        sys.path.remove(str(BENCH))
    return process_memory, random_checkpoint, real_shape


@pytest.fixture
def tokenizer(tmp_path):
    """A folder with a tokenizer that has the special tokens of the real one."""
    train_tokenizer(["a tweet about people"], 400, Qwen25VLOptions.chat_format).save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def test_the_checkpoint_loads_without_a_copy_of_its_weights(bench, tokenizer):
    number = bench[1].write_checkpoint(tokenizer, "small", seed=3, shard_bytes=10**6)
    model = Qwen25VLModel(Qwen25VLOptions(checkpoint=str(tokenizer))).build_as_stored([], 0)
    assert sum(weight.numel() for weight in model.module.parameters()) == number
    assert {weight.dtype for weight in model.module.parameters()} == {torch.bfloat16}
    index = json.loads((tokenizer / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 2 * number
    assert set(index["weight_map"].values()) == {file.name for file in tokenizer.glob("*.safetensors")}
    assert len(set(index["weight_map"].values())) > 1
    assert {name.split(".")[0] for name in index["weight_map"]} == {"model", "visual"}
    with open("/proc/self/maps") as maps:
        assert str(tokenizer / "model-00001-of-") in maps.read()
    norm, bias = (
        model.module.get_parameter(f"model.visual.blocks.0.{name}") for name in ("norm1.weight", "mlp.up_proj.bias")
    )
    assert norm.eq(1).all() and bias.eq(0).all()
    assert float(model.module.lm_head.weight.detach().float().std()) == pytest.approx(
        bench[1].INITIAL_DEVIATION, rel=0.01
    )


def test_the_template_is_chatml_with_images(bench, tokenizer):
    bench[1].write_checkpoint(tokenizer, "small", seed=3)
    model = Qwen25VLModel(Qwen25VLOptions(checkpoint=str(tokenizer))).model_spec([])
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]}]
    text = model.processor.apply_chat_template(messages, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>what?<|im_end|>\n<|im_start|>assistant\n"
    )


@given(st.dictionaries(st.text(), st.integers(0, 50)), st.integers(1, 100))
def test_files_hold_all_weights_in_order_within_the_limit(bench, sizes, limit):
    files = bench[1].split_into_files(sizes, limit)
    assert [name for names in files for name in names] == list(sizes)
    assert all(names and (len(names) == 1 or sum(sizes[name] for name in names) <= limit) for names in files)


@given(st.integers(0, 2**28))
def test_blocks_cover_all_weights(bench, number):
    blocks = list(bench[1].block_sizes(number))
    assert sum(blocks) == number
    assert all(0 < size <= bench[1].BLOCK for size in blocks)


def test_samples_have_one_to_four_segments(bench, tmp_path):
    bench[2].write_data(tmp_path / "data", 5, 2, pixels=20_000, seed=0)
    splits = DatasetFolder(tmp_path / "data").load_splits()
    assert [len(sample.segments) for sample in splits["train"]] == [1, 2, 3, 4, 1]
    assert len(splits["test"]) == 2
    assert all(45 <= len(sample.summary.split()) <= 60 for sample in splits["train"])


def _events():
    kinds = [
        {"kind": "state", "step": "train", "state": "started"},
        {"kind": "parameters"},
        {"kind": "preflight"},
        {"kind": "metrics", "step": 1, "values": {"train/loss": 2.0}},
        {"kind": "metrics", "step": 2, "values": {"train/loss": 1.0}},
        {"kind": "metrics", "step": 3, "values": {"train/loss": 1.0}},
        {"kind": "artifact", "name": "model"},
    ]
    return [{"time": f"2026-01-01T00:00:{second:02}+00:00", **kind} for second, kind in enumerate(kinds, start=10)]


def test_parts_follow_each_other_and_hold_their_peak_memory(bench):
    process_memory, _, real_shape = bench
    events = _events()
    start = real_shape._time(events[0]) - 5
    samples = [process_memory.Sample(start + second, second * 10**9, 10**9) for second in range(12)]
    parts = real_shape.describe_parts(events, samples, start)
    assert [part["seconds"] for part in parts.values()] == [5, 1, 1, 1, 2, 1]
    assert [part["pss_gb"] for part in parts.values()] == [5, 6, 7, 8, 10, 11]
    assert {part["own_gb"] for part in parts.values()} == {1}


def test_memory_of_this_process_is_read_and_an_ended_one_counts_nothing(bench):
    process_memory = bench[0]
    command = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        child.stdout.readline()  # before that, the process is not Python yet
        sample = process_memory.read_memory([child.pid])
        assert sample.pss > sample.own > 10**6
        assert child.pid in process_memory.process_tree(child.pid)
        child.communicate("\n")
    assert process_memory.read_memory([child.pid]).pss == 0


@pytest.mark.slow
def test_the_whole_run_of_a_small_shape(tokenizer, tmp_path):
    options = ["--shape", "small", "--pixels", "20000", "--samples", "4", "--answers", "2", "--new-tokens", "4"]
    command = [sys.executable, BENCH / "real_shape.py", *options, "--tokenizer", tokenizer, "--folder", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert len(result["losses"]) == 2
    assert result["num_answers"] == 2
    assert result["weights_of_saved_model"]["changed"] == 14
    assert result["parts"]["load the saved model, generate"]["seconds"] > 0
    assert result["plan"]["trainable"] > 0
