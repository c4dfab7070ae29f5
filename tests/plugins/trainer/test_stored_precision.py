"""Weights of a checkpoint stay mapped from its files until the trainer has moved or sharded them."""

import os
from datetime import timedelta

import pytest
import torch
from ranks import together
from torch import distributed
from torch.distributed.tensor import DTensor

from plugins.model.chat.chat_model import stored_dtype
from plugins.model.family_options import Qwen25VLOptions
from plugins.model.qwen_vl import Qwen25VLModel
from plugins.optimizer.adamw import AdamWOptimizer
from plugins.optimizer.optimizer_options import AdamWOptions
from plugins.trainer.accelerator_and_sharding import (
    Sharding,
    gather_weights,
    layer_classes,
    make_accelerator,
    move_and_convert,
    shard_and_convert,
)
from plugins.trainer.loss import AnswerLoss
from plugins.trainer.model_profile import profile_model
from plugins.trainer.sft import SftTrainer
from plugins.trainer.sft_options import SftOptions
from plugins.trainer.step_memory import TrainingSetup, master_bytes
from runner.stages import BuildsAsStored, TrainingRun

ALL = {"all": {"match": "*", "lr": 1e-2}}
ADAPTERS = {"all": {"match": "*", "lr": 1e-2, "lora": {"rank": 2}}}
FROZEN_VISION = {"vision": {"match": "*visual*", "frozen": True}, "rest": {"match": "*", "lr": 1e-3}}
GROUPS = {"vision": {"match": "*visual*", "frozen": True}, "rest": {"match": "*", "lr": 1e-3, "lora": {"rank": 2}}}


@pytest.fixture
def checkpoint(build_smoke, tmp_path):
    """A function that saves the smoke-sized model in a precision, and returns its folder."""

    def save(precision):
        build_smoke().save(tmp_path / precision, precision)
        return tmp_path / precision

    return save


def _plugin(folder):
    return Qwen25VLModel(Qwen25VLOptions(size=None, checkpoint=str(folder)))


def _assert_equal(ours, theirs):
    ours, theirs = ours.state_dict() | dict(ours.named_buffers()), theirs.state_dict() | dict(theirs.named_buffers())
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype and ours[name].equal(tensor), name


def test_weights_in_bfloat16_are_mapped_from_their_file_and_converted_later(checkpoint):
    folder = checkpoint("bf16")
    plugin = _plugin(folder)
    assert isinstance(plugin, BuildsAsStored)
    module = plugin.build_as_stored([], 0).module
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}
    begins, ends = _mapped(folder)
    assert all(begins <= parameter.data_ptr() < ends for parameter in module.parameters())
    move_and_convert(module, torch.device("cpu"))
    _assert_equal(module, plugin.build([], 0).module)


def _mapped(folder):
    """The addresses at which the file with the weights is mapped."""
    with open("/proc/self/maps") as maps:
        lines = [line.split()[0] for line in maps if str(folder / "model.safetensors") in line]
    ranges = [tuple(int(address, 16) for address in line.split("-")) for line in lines]
    return min(begin for begin, _ in ranges), max(end for _, end in ranges)


def test_other_precisions_are_loaded_in_float32(checkpoint):
    assert stored_dtype(checkpoint("bf16")) == torch.bfloat16
    assert stored_dtype(checkpoint("fp32")) == torch.float32
    folder = checkpoint("bf16")
    (folder / "model-2.safetensors").write_bytes((checkpoint("fp32") / "model.safetensors").read_bytes())
    assert stored_dtype(folder) == torch.float32
    assert _plugin(folder).mapped_bytes() == 0
    (folder / "model-2.safetensors").write_bytes(b"")
    assert stored_dtype(folder) == torch.float32


def test_the_bytes_that_workers_share_are_those_of_the_files(checkpoint):
    assert _plugin(checkpoint("bf16")).mapped_bytes() == 2
    folder = checkpoint("fp32")
    plugin = _plugin(folder)
    assert plugin.mapped_bytes() == 4
    module = plugin.build_as_stored([], 0).module
    begins, ends = _mapped(folder)
    assert all(begins <= parameter.data_ptr() < ends for parameter in module.parameters())
    assert Qwen25VLModel(Qwen25VLOptions(size="smoke")).mapped_bytes() == 0
    assert _plugin(folder / "missing").mapped_bytes() == 2


def test_adapters_and_digests_do_not_depend_on_the_stored_precision(checkpoint):
    plugin = _plugin(checkpoint("bf16"))
    optimizers, modules = [], []
    for build in (plugin.build, plugin.build_as_stored):
        optimizers.append(AdamWOptimizer(AdamWOptions(groups=GROUPS)))
        modules.append(build([], 0).module)
        optimizers[-1].prepare(modules[-1], 3)
    assert optimizers[0]._frozen_digests == optimizers[1]._frozen_digests
    move_and_convert(modules[1], torch.device("cpu"))
    _assert_equal(modules[1], modules[0])
    for one, other in zip(modules[0].named_parameters(), modules[1].named_parameters(), strict=True):
        assert (one[0], one[1].requires_grad) == (other[0], other[1].requires_grad)
    optimizers[1].finish(modules[1])


@pytest.mark.parametrize("groups", [GROUPS, ADAPTERS])
def test_frozen_weights_stay_in_bfloat16_with_the_same_results(checkpoint, colour_samples, tmp_path, recorder, groups):
    def train(build):
        model, adamw, reporter = build([], 0), AdamWOptimizer(AdamWOptions(groups=groups)), recorder()
        adamw.prepare(model.module, 0)
        ids = [sample.id for sample in colour_samples]
        options = SftOptions(epochs=1, global_batch_size=4, precision="bf16", gradient_checkpointing=True)
        run = TrainingRun(tmp_path / build.__name__, 11, reporter)
        trained = SftTrainer(options).train(model, adamw, colour_samples, ids, run)
        dtypes = {name: weight.dtype for name, weight in trained.module.named_parameters()}
        adamw.finish(trained.module)
        trained.save(tmp_path / f"{build.__name__} model", "bf16")
        weights = (tmp_path / f"{build.__name__} model" / "model.safetensors").read_bytes()
        return reporter.series("train/loss"), weights, dtypes

    plugin = _plugin(checkpoint("bf16"))
    losses, weights, dtypes = train(plugin.build_as_stored)
    expected_losses, expected_weights, _ = train(plugin.build)
    assert losses == expected_losses
    assert weights == expected_weights
    for name, dtype in dtypes.items():
        stays = "lora_" not in name and "norm" not in name and "embed_tokens" not in name and "ln_q" not in name
        stays = stays and ("visual" not in name or "vision" not in groups)
        assert dtype == (torch.bfloat16 if stays else torch.float32), name


def _prepare(folder, groups, strategy):
    """A model that is about to be trained, its frozen vision tower on its device, and the bytes that a plan tells."""
    model, adamw = _plugin(folder).build_as_stored([], 0), AdamWOptimizer(AdamWOptions(groups=groups))
    adamw.prepare(model.module, 0)
    vision = model.frozen_vision()
    setup = TrainingSetup(strategy, False, None, 2, 0, packed=True, caches_features=vision is not None)
    told = master_bytes(profile_model(model.module, 2, sharded=strategy == "fsdp"), setup)
    if vision is not None:
        vision.to(torch.device("cpu"))
    return model, told


@pytest.mark.parametrize("groups", [ALL, FROZEN_VISION, ADAPTERS, GROUPS])
def test_the_plan_tells_the_bytes_of_all_weights(checkpoint, groups):
    model, told = _prepare(checkpoint("bf16"), groups, "ddp")
    move_and_convert(model.module, torch.device("cpu"), autocast=True)
    assert told == sum(weight.nbytes for weight in model.module.parameters())


def _work_told(rank, folder, groups):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT="0")
    distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    model, told = _prepare(folder / "bf16", groups, "fsdp")
    accelerator = make_accelerator("bf16", Sharding(tuple(layer_classes(model.module))))
    shard_and_convert(accelerator, AnswerLoss(model.module), autocast=True)
    held = torch.tensor(sum(weight.to_local().nbytes for weight in model.module.parameters()))
    distributed.all_reduce(held)
    assert told == held
    distributed.destroy_process_group()


@pytest.mark.parametrize("groups", [FROZEN_VISION, GROUPS])
def test_the_plan_tells_the_bytes_of_all_shards(checkpoint, tmp_path, groups):
    checkpoint("bf16")
    together(_work_told, tmp_path, groups)


def test_frozen_weights_that_other_layers_use_are_converted():
    module = torch.nn.Module()
    module.embedding, module.head, module.free = torch.nn.Embedding(3, 2), torch.nn.Linear(2, 3), torch.nn.Linear(2, 2)
    module.head.weight = module.embedding.weight
    module.bfloat16().requires_grad_(False)
    module.free.bias.requires_grad_(True)
    move_and_convert(module, torch.device("cpu"), autocast=True)
    dtypes = {name: str(weight.dtype).removeprefix("torch.") for name, weight in module.named_parameters()}
    stored = {"head.bias": "bfloat16", "free.weight": "bfloat16"}
    assert dtypes == {"embedding.weight": "float32", "free.bias": "float32", **stored}
    move_and_convert(module, torch.device("cpu"))
    assert {weight.dtype for weight in module.parameters()} == {torch.float32}


def _work(rank, folder):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT="0")
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    plugin = _plugin(folder / "bf16")
    expected = {name: weight.detach() for name, weight in plugin.build([], 0).module.named_parameters()}
    module = plugin.build_as_stored([], 0).module
    module.get_input_embeddings().requires_grad_(False)
    accelerator = make_accelerator("bf16", Sharding(tuple(layer_classes(module))))
    shard_and_convert(accelerator, AnswerLoss(module))
    assert {type(parameter) for parameter in module.parameters()} == {DTensor}
    for name, parameter in module.named_parameters():
        assert parameter.dtype == parameter.to_local().dtype == torch.float32
        assert parameter.requires_grad == ("embed_tokens" not in name)
        assert parameter.full_tensor().equal(expected[name])
    gather_weights(module, keep=rank == 0, dtype=torch.bfloat16)
    if rank == 0:
        for name, parameter in module.named_parameters():
            assert parameter.dtype == (torch.float32 if "embed_tokens" in name else torch.bfloat16)
            assert parameter.float().equal(expected[name])
    distributed.barrier()
    distributed.destroy_process_group()


def _work_tied(rank, folder):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT="0")
    limit = timedelta(seconds=20)
    distributed.init_process_group("gloo", f"file://{folder}/store", limit, world_size=2, rank=rank)
    module = _plugin(folder / "tied").build_as_stored([], 0).module
    expected = module.lm_head.weight.detach().float()
    accelerator = make_accelerator("bf16", Sharding(tuple(layer_classes(module))), 20)
    shard_and_convert(accelerator, AnswerLoss(module))
    assert module.lm_head.weight is module.get_input_embeddings().weight
    assert module.lm_head.weight.dtype == module.lm_head.weight.to_local().dtype == torch.float32
    gather_weights(module, keep=rank == 0, dtype=torch.bfloat16)
    if rank == 0:
        assert module.lm_head.weight is module.get_input_embeddings().weight
        assert module.lm_head.weight.float().equal(expected)
    distributed.barrier()
    distributed.destroy_process_group()


def test_tied_weights_stay_tied_and_all_workers_gather_them_once(build_smoke, tmp_path):
    model = build_smoke()
    model.module.config.tie_word_embeddings = True
    model.module.tie_weights()
    model.save(tmp_path / "tied", "bf16")
    together(_work_tied, tmp_path)


def test_shards_are_converted_and_trained_weights_gathered_as_they_are_saved(checkpoint, tmp_path):
    checkpoint("bf16")
    together(_work, tmp_path)
