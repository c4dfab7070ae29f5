"""The memory estimate of two workers with sharded weights, compared with the allocations of real steps."""

import gc
import os

import pytest
import torch
from pydantic import ValidationError
from ranks import together
from test_memory import ALL, BENCH, FROZEN_VISION, RandomModel, adamw, counted
from torch import distributed
from torch._C._profiler import _EventType
from torch.distributed.fsdp import FSDPModule
from torch.profiler import ProfilerActivity, profile, record_function

from plugins.trainer.accelerator_and_sharding import Sharding, layer_classes, make_accelerator, shard_and_convert
from plugins.trainer.loss import AnswerLoss
from plugins.trainer.sft_options import SftOptions
from plugins.trainer.train_step import TrainStep, without_labels
from plugins.trainer.training_estimate import estimate_training

STEPS = "steps"
"""Name of the part of a profile whose peak counts; on a GPU, the model is not built on the device."""

COPIES = ("c10d::", "gloo:", "fsdp::chunk_cat", "aten::_chunk_cat")
"""Operations that copy tensors on a CPU, and not on a GPU."""


def peak_of_steps(profiled):
    """The most bytes of tensors that were there at once during the steps, without those of `COPIES`."""
    changes, start, events = (
        [],
        None,
        [(event, False) for event in profiled.profiler.kineto_results.experimental_event_tree()],
    )
    while events:
        event, copies = events.pop()
        copies |= event.name.startswith(COPIES)
        events += [(child, copies) for child in event.children]
        if event.tag == _EventType.Allocation:
            changes.append(
                (event.start_time_ns, event.extra_fields.ptr, 0 if copies else event.extra_fields.alloc_size)
            )
        elif event.name == STEPS:
            start = event.start_time_ns
    live, total, most = {}, 0, 0
    for time, address, size in sorted(changes):
        if address in live:
            total -= live.pop(address)
        elif size >= 0:
            live[address] = size
            total += size
        if time > start:
            most = max(most, total)
    return most


def _work(rank, folder, name, groups, options):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT="0")
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    import models

    models.SHAPES |= {
        "wordy": models.Shape(width=96, layers=2, heads=4, ffn=384, words=20_000),
        "deep": models.Shape(width=192, layers=5, heads=4, ffn=512, words=600),
    }
    lengths = models.Lengths(words=60, grids=((6, 6),), answer=20)
    drawn = torch.Generator().manual_seed(rank)
    samples = [
        models.random_sample(lengths, models.SHAPES[name].words, drawn, with_answer=True)
        for _ in range(options.global_batch_size // 2)
    ]
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        module = models.random_model(name, 0).bfloat16()  # as in a published checkpoint
        model, optimizer = RandomModel(module if options.precision == "bf16" else module.float(), models), adamw(groups)
        optimizer.prepare(model.module, 0)
        layers = tuple(layer_classes(model.module))
        sharding = Sharding(layers, reshard_after_forward=options.reshard_after_forward)
        accelerator = make_accelerator(options.precision, sharding)
        counts = [counted(sample, models) for sample in samples]
        told = estimate_training(options, model, optimizer, counts, 2, gpus=False).variants[0].memory
        loss = AnswerLoss(model.module)
        shard_and_convert(accelerator, loss, autocast=options.precision == "bf16")
        built = optimizer.build(model.module, 3)
        step = TrainStep(accelerator, model, built, options, without_labels(samples[0]), loss)
        assert isinstance(model.module.get_input_embeddings(), FSDPModule)
        gc.collect()
        with record_function(STEPS):
            for _ in range(4):  # the optimizer's state is there from the second on; how much overlaps, varies
                step.compute_gradient(samples)
                step.update()
    torch.save((told.total, peak_of_steps(profiled)), folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("name", "groups", "changes"),
    [
        ("wordy", ALL, {"precision": "fp32", "gradient_checkpointing": True}),
        ("deep", FROZEN_VISION, {"precision": "fp32", "global_batch_size": 4, "micro_batch_size": 1}),
        pytest.param("deep", ALL, {"reshard_after_forward": False}, marks=pytest.mark.slow),
        pytest.param("wordy", ALL, {"gradient_checkpointing": True}, marks=pytest.mark.slow),
        pytest.param("deep", FROZEN_VISION, {}, marks=pytest.mark.slow),
    ],
)
def test_estimated_peak_of_sharded_weights_is_within_10_percent_of_real_steps(
    monkeypatch, tmp_path, name, groups, changes
):
    monkeypatch.syspath_prepend(BENCH)
    monkeypatch.setenv("PYTHONPATH", str(BENCH))
    options = SftOptions(**{"strategy": "fsdp", "global_batch_size": 2, **changes})
    together(_work, tmp_path, name, groups, options)
    for rank in range(2):
        told, measured = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert told == pytest.approx(measured, rel=0.1)


def test_resharding_is_an_option_of_fsdp_and_the_first_one_to_change_without_memory():
    with pytest.raises(ValidationError, match="reshard_after_forward has no effect with strategy: ddp"):
        SftOptions(reshard_after_forward=False)
    options = SftOptions(strategy="fsdp", reshard_after_forward=False)
    assert options.with_less_memory(2) == {"reshard_after_forward": True}
    assert SftOptions(strategy="fsdp").with_less_memory(2) == {"micro_batch_size": 1}
