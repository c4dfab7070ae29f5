"""The memory estimate of a training step, compared with the peak of tensor allocations of real steps."""

import gc
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

from plugins.model.chat.precomputed_image_features import FrozenVisionTower, to_encoder_outputs
from plugins.optimizer.adamw import AdamWOptimizer
from plugins.optimizer.muon import MuonOptimizer
from plugins.optimizer.optimizer_options import AdamWOptions, MuonOptions
from plugins.trainer.accelerator_and_sharding import make_accelerator
from plugins.trainer.encoded_samples import SampleFiles
from plugins.trainer.model_profile import ModelProfile, ModuleProfile, count_parameters, count_trainable, profile_model
from plugins.trainer.sft import SftTrainer
from plugins.trainer.sft_options import SftOptions
from plugins.trainer.step_memory import SampleLength, TrainingSetup, exchanged_bytes, flops, peak_memory
from plugins.trainer.train_step import TrainStep
from plugins.trainer.training_estimate import (
    BYTES_PER_VALUE,
    estimate_training,
    optimizer_state_bytes,
    with_adapters_only,
)
from runner.records import HostMemory
from runner.stages import TokenCounts

BENCH = Path(__file__).parents[3] / "bench"
ALL = {"all": {"match": "*", "lr": 1e-4}}
FROZEN_VISION = {"vision": {"match": "*visual*", "frozen": True}, "language": {"match": "*", "lr": 1e-2}}


def adamw(groups):
    return AdamWOptimizer(AdamWOptions(groups=groups))


class RandomModel:
    """A model of the benchmarks, as the trainer sees one."""

    supports_packing = replaces_pixels = stores_raw_pixels = False

    def __init__(self, module, models):
        self.module, self.models = module, models

    def collate(self, batch, padding_side):
        made = self.models.collate_samples(batch, padding_side)
        del made["attention_mask"]
        return made


class FeaturesModel(RandomModel):
    """The same where features stand in the place of pixels."""

    replaces_pixels = True

    def collate(self, batch, padding_side):
        without = {"pixel_values": torch.zeros(0)}
        made = super().collate([{**without, **each} for each in batch], padding_side)
        made["pixel_values"], made["image_features"] = None, torch.cat([each["image_features"] for each in batch])
        return to_encoder_outputs(made, self.module.config.text_config.hidden_size)


@pytest.fixture
def models(monkeypatch):
    """The builders of the benchmarks, with two shapes that are small enough for a test: many words, and few."""
    monkeypatch.syspath_prepend(BENCH)
    import models

    monkeypatch.setitem(models.SHAPES, "wordy", models.Shape(width=96, layers=2, heads=4, ffn=384, words=20_000))
    monkeypatch.setitem(models.SHAPES, "deep", models.Shape(width=192, layers=5, heads=4, ffn=512, words=600))
    return models


def allocated(profiled):
    """The most bytes of tensors that were there at once, by what the allocator told the profiler."""
    changes, events = [], list(profiled.profiler.kineto_results.experimental_event_tree())
    while events:
        event = events.pop()
        events += event.children
        if event.tag == _EventType.Allocation:
            changes.append((event.start_time_ns, event.extra_fields.alloc_size))
    live = most = 0
    for _, change in sorted(changes):
        live += change
        most = max(most, live)
    return most


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize(
    ("name", "precision", "groups"),
    [
        ("deep", "fp32", ALL),
        # Minutes where the processor has no instructions for it.
        pytest.param("deep", "bf16", ALL, marks=pytest.mark.slow),
        ("deep", "fp32", FROZEN_VISION),
        ("wordy", "fp32", ALL),
    ],
)
def test_estimated_peak_is_within_15_percent_of_real_steps(models, name, precision, groups, again):
    lengths = models.mmre_lengths(2, seed=0)
    drawn = torch.Generator().manual_seed(0)
    words = models.SHAPES[name].words
    samples = [models.random_sample(each, words, drawn, with_answer=True) for each in lengths]
    options = SftOptions(precision=precision, global_batch_size=2, micro_batch_size=2, gradient_checkpointing=again)
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        model, optimizer = RandomModel(models.random_model(name, 0), models), adamw(groups)
        optimizer.prepare(model.module, 0)
        train_step = TrainStep(make_accelerator(precision), model, optimizer.build(model.module, 3), options)
        for _ in range(2):  # the optimizer's state is there from the second on
            train_step.compute_gradient(samples)
            train_step.update()
    counts = [counted(each, models) for each in samples]
    told = estimate_training(options, model, optimizer, counts, 1, gpus=False).variants[0].memory
    measured = allocated(profiled)
    assert told.total == pytest.approx(measured, rel=0.15)
    # What depends on the lengths alone must not hide behind weights that are easy to count.
    fixed = told.optimizer + 4 * sum(each.numel() for each in model.module.parameters())
    assert told.total - fixed == pytest.approx(measured - fixed, rel=0.3)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_estimated_peak_is_within_15_percent_with_cached_features(models, precision):
    drawn, words = torch.Generator().manual_seed(0), models.SHAPES["deep"].words
    samples = [models.random_sample(each, words, drawn, with_answer=True) for each in models.mmre_lengths(2, seed=0)]
    counts = [counted(each, models) for each in samples]
    vision = FrozenVisionTower(models.random_model("deep", 0))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        samples = [vision.replace_pixels(each) for each in samples]
    options = SftOptions(precision=precision, global_batch_size=2, micro_batch_size=2)
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        model, optimizer = FeaturesModel(models.random_model("deep", 0), models), adamw(FROZEN_VISION)
        optimizer.prepare(model.module, 0)
        train_step = TrainStep(make_accelerator(precision), model, optimizer.build(model.module, 3), options)
        for _ in range(2):
            train_step.compute_gradient(samples)
            train_step.update()
    told = estimate_training(options, model, optimizer, counts, 1, gpus=False).variants[0].memory
    assert told.total == pytest.approx(allocated(profiled), rel=0.15)


def counted(sample, models):
    target = int((sample["labels"] != models.IGNORED).sum())
    image = int((sample["input_ids"] == models.IMAGE).sum())
    return TokenCounts(len(sample["input_ids"]) - image - target, image, target)


def module_profile(num_layers, layer_bytes, width, is_trained):
    layer_parameters = width**2
    return ModuleProfile(
        layer_bytes=(layer_bytes * width,) * num_layers,
        layer_input_bytes=(4 * width,) * num_layers,
        backward_bytes=3 * width,
        other_bytes=width,
        input_bytes=0,
        matrix_parameters=num_layers * layer_parameters,
        largest_layer=layer_parameters,
        outer_parameters=0,
        outer_trainable=0,
        num_parameters=num_layers * layer_parameters,
        num_trainable=is_trained * num_layers * layer_parameters,
        num_half=0,
    )


def model_profile(language, vision, vocab_size):
    ends = vocab_size * 8
    return ModelProfile(
        language,
        vision,
        ends,
        ends,
        False,
        0,
        True,
        True,
        hidden_size=8,
        vocab_size=vocab_size,
        patches_per_token=4,
        patch_bytes=48,
        image_feature_size=8,
    )


def length(text, image, target):
    return SampleLength(text + image + target, image, target)


tokens = st.integers(1, 900)
modules = st.builds(module_profile, st.integers(1, 8), st.integers(8, 60), st.integers(8, 64), st.integers(0, 1))
profiles = st.builds(model_profile, modules, modules, st.integers(8, 4000))
lengths = st.builds(length, tokens, tokens, tokens)
strategies = st.sampled_from(["ddp", "fsdp"])
setups = st.builds(
    TrainingSetup,
    strategies,
    st.booleans(),
    st.none() | st.integers(1, 4),
    st.sampled_from([2, 4]),
    st.just(900),
    st.booleans(),
)


@given(profiles, st.lists(lengths, min_size=1, max_size=5), setups, st.integers(1, 8))
def test_estimates_are_not_negative_and_grow_with_sample_length(profile, samples, setup, workers):
    told = peak_memory(profile, samples, setup, workers, 8.0 * count_trainable(profile))
    assert min(told.weights, told.gradients, told.optimizer, told.activations, told.logits) >= 0
    longer = [replace(each, total=each.total + 50, target=each.target + 50) for each in samples]
    one = replace(setup, micro_batch_size=len(samples))
    state = 8.0 * count_trainable(profile)
    shorter_peak = peak_memory(profile, samples, one, workers, state)
    assert peak_memory(profile, longer, one, workers, state).total >= shorter_peak.total


@given(profiles, st.lists(lengths, min_size=1, max_size=5), setups, st.integers(2, 8))
def test_sharding_and_adapters_reduce_memory(profile, samples, setup, workers):
    state = 8.0 * count_trainable(profile)
    told = peak_memory(profile, samples, setup, workers, state)
    assert told.optimizer == pytest.approx(state / (workers if setup.strategy == "fsdp" else 1), abs=1)
    assert peak_memory(with_adapters_only(profile, setup.value_bytes), samples, setup, workers, 0).total <= told.total
    alone = peak_memory(profile, samples, replace(setup, strategy="ddp"), 1, state)
    assert alone.total <= peak_memory(profile, samples, replace(setup, strategy="ddp"), workers, state).total


@given(profiles, setups, st.integers(1, 8), st.integers(1, 6))
def test_workers_exchange_gradients_once_or_weights_in_each_micro_batch(profile, setup, workers, num_micro_batches):
    exchanged = exchanged_bytes(profile, setup, workers, num_micro_batches)
    others, gradients = (workers - 1) / workers, 4 * count_trainable(profile)
    if setup.strategy == "ddp":
        assert exchanged == pytest.approx(2 * others * gradients)
        return
    weights = setup.value_bytes * count_parameters(profile)
    assert num_micro_batches * others * (weights + gradients) <= exchanged + 1
    assert exchanged <= num_micro_batches * others * (2 * weights + gradients) + 1
    kept = exchanged_bytes(profile, replace(setup, reshards=False), workers, num_micro_batches)
    assert kept == pytest.approx(num_micro_batches * others * (weights + gradients))


def test_faster_settings_need_fewer_operations_or_less_exchange_and_more_memory(build_smoke):
    options = SftOptions(
        strategy="fsdp", gradient_checkpointing=True, micro_batch_size=1, global_batch_size=8, packing="off"
    )
    told = estimate_training(options, build_smoke(), adamw(ALL), [TokenCounts(100, 60, 20)] * 8, 2, gpus=True)
    [slower] = {each.change for each in told.faster} & {"trainer.reshard_after_forward=false"}
    assert slower and len(told.faster) == 7
    assert told.faster[0].change == (
        "trainer.gradient_checkpointing=false trainer.micro_batch_size=null trainer.reshard_after_forward=false"
    )
    for each in told.faster:
        assert each.flops_per_step <= told.flops_per_step and each.exchanged_per_step <= told.exchanged_per_step
        assert (each.flops_per_step, each.exchanged_per_step) != (told.flops_per_step, told.exchanged_per_step)
        assert each.memory.total >= told.variants[0].memory.total
    fastest = SftOptions(strategy="ddp", global_batch_size=8)
    assert not estimate_training(fastest, build_smoke(), adamw(ALL), [TokenCounts(9, 6, 2)], 2, gpus=True).faster


def test_every_weight_is_counted_once(build_smoke):
    module = build_smoke().module
    profile = profile_model(module, 4)
    assert count_parameters(profile) == count_trainable(profile) == sum(each.numel() for each in module.parameters())


def test_frozen_tower_saves_no_activations_and_needs_no_gradient(build_smoke):
    module = build_smoke().module
    whole = profile_model(module, 4)
    adamw(FROZEN_VISION).prepare(module, 0)
    frozen = profile_model(module, 4)
    assert frozen.vision.saved_bytes(recompute=False) == frozen.vision.num_trainable == 0
    assert frozen.language == whole.language
    length = SampleLength(40, 20, 5)
    vision = whole.vision.matrix_parameters * 20 * whole.patches_per_token
    assert flops(whole, length, recompute=False) - flops(frozen, length, recompute=False) == 4 * vision
    assert flops(whole, length, recompute=True) > flops(whole, length, recompute=False)


def test_cached_features_reduce_flops_and_keep_the_tower_on_each_worker(build_smoke):
    model, options = build_smoke(), SftOptions(precision="bf16", strategy="fsdp", epochs=3)
    adamw(FROZEN_VISION).prepare(model.module, 0)
    count = TokenCounts(20, 20, 5)
    ours = estimate_training(options, model, adamw(FROZEN_VISION), [count], 2, gpus=True)
    model.replaces_pixels = model.stores_raw_pixels = False
    theirs = estimate_training(options, model, adamw(FROZEN_VISION), [count], 2, gpus=True)
    profile = profile_model(model.module, 2)
    vision = profile.vision
    # Two operations per weight and patch in the forward pass of four samples.
    saved_flops = 4 * 2 * vision.matrix_parameters * 20 * profile.patches_per_token
    assert theirs.flops_per_step - ours.flops_per_step == pytest.approx(saved_flops * 2 / 3)
    held = ours.variants[0].memory.weights - theirs.variants[0].memory.weights
    assert vision.num_half > 0
    # `FrozenVisionEncoder.to` makes the tower float32, also what is then sharded. Otherwise its shards keep two bytes.
    assert held == pytest.approx(4 * vision.num_parameters + 2 * vision.num_half / 2, abs=1)


def test_optimizer_state_bytes_match_the_optimizer(build_smoke):
    module = build_smoke().module
    numbers = sum(each.numel() for each in module.parameters())
    assert optimizer_state_bytes(adamw(ALL), module) == 8 * numbers
    groups = {
        "rest": {"match": "*norm*", "lr": 1e-3},
        "vectors": {"match": "*.bias", "lr": 1e-3},
        "merger": {"match": "*ln_q*", "lr": 1e-3},
        "patches": {"match": "*patch_embed*", "lr": 1e-3},
        "matrices": {"match": "*", "lr": 0.01, "algorithm": "muon"},
    }
    muon = MuonOptimizer(MuonOptions(groups=groups))
    rows = muon.prepare(module, 0)
    matrices = sum(row.num_parameters for row in rows if row.group == "matrices")
    assert optimizer_state_bytes(muon, module) == 4 * matrices + 8 * (numbers - matrices)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_variants_need_decreasing_memory_and_checkpoints_are_counted(build_smoke, precision):
    model = build_smoke()
    numbers = sum(each.numel() for each in model.module.parameters())
    options = SftOptions(precision=precision, global_batch_size=8, save_total_limit=2)
    told = estimate_training(
        options, model, adamw(ALL), [TokenCounts(100, 60, 20), TokenCounts(10, 6, 2)], 2, gpus=True
    )
    totals = [way.memory.total for way in told.variants]
    assert totals == sorted(totals, reverse=True)
    assert len(set(totals)) == len(totals) > 2
    assert told.variants[0].change == ""
    assert all(way.change for way in told.variants[1:])
    assert (told.checkpoint, told.num_checkpoints) == (12 * numbers, 3)
    assert told.model == BYTES_PER_VALUE[precision] * numbers


@pytest.mark.parametrize(
    ("groups", "advised"),
    [
        (ALL, True),
        ({"all": {"match": "*", "lr": 1e-4, "lora": {}}}, False),
        ({"vision": {"match": "*visual*", "frozen": True}, "rest": {"match": "*", "lr": 1e-4, "lora": {}}}, False),
        ({"vision": {"match": "*visual*", "lr": 1e-4}, "rest": {"match": "*", "lr": 1e-4, "lora": {}}}, True),
    ],
    ids=["none", "everywhere", "beside frozen weights", "in part"],
)
def test_adapters_are_suggested_unless_only_adapters_are_trained(build_smoke, groups, advised):
    model, optimizer = build_smoke(), adamw(groups)
    optimizer.prepare(model.module, 0)
    told = estimate_training(
        SftOptions(global_batch_size=8), model, optimizer, [TokenCounts(100, 60, 20)], 2, gpus=True
    )
    assert any("adapters" in way.change for way in told.variants) == advised


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_main_memory_of_checkpoints_and_of_the_saved_model(build_smoke, precision):
    def host(groups=ALL, workers=2, gpus=True, **options):
        model, optimizer = build_smoke(), adamw(groups)
        optimizer.prepare(model.module, 0)
        options = SftOptions(global_batch_size=8, precision=precision, **options)
        estimate = estimate_training(options, model, optimizer, [TokenCounts(100, 60, 20)], workers, gpus=gpus)
        return estimate.host, estimate.variants[0].memory.total

    value_bytes, numbers = BYTES_PER_VALUE[precision], sum(each.numel() for each in build_smoke().module.parameters())
    assert host()[0] == HostMemory(weights=0, training=0, checkpoint=12 * numbers, save=value_bytes * numbers)
    assert host(save_async=False)[0].checkpoint == 0
    assert host(strategy="fsdp")[0].save == value_bytes * numbers
    frozen = sum(weight.numel() for name, weight in build_smoke().module.named_parameters() if "visual" in name)
    gathered = host(FROZEN_VISION, strategy="fsdp")[0].save
    assert gathered == value_bytes * (numbers - frozen) + (6 if precision == "bf16" else 4) * frozen
    on_cpus, memory = host(gpus=False)
    assert on_cpus.training == 2 * memory
    assert on_cpus.weights == 2 * 4 * numbers
    assert on_cpus.save == on_cpus.training + value_bytes * numbers
    assert host(gpus=False, strategy="fsdp")[0].weights == 4 * numbers
    adapted = {**FROZEN_VISION, "language": {"match": "*", "lr": 1e-2, "lora": {"rank": 2}}}
    few, embeddings = host(adapted, 1, gpus=False)[0], build_smoke().module.get_input_embeddings().weight.numel()
    if precision == "fp32":
        assert few.weights > 4 * numbers
    else:
        language = [item for item in build_smoke().module.named_parameters() if "visual" not in item[0]]
        norms = sum(weight.numel() for name, weight in language if "norm" in name)
        assert few.weights == few.checkpoint / 3 + 4 * (embeddings + frozen + norms)


def test_skipped_samples_need_no_memory(build_smoke):
    model, counts = build_smoke(), [TokenCounts(100, 0, 20), TokenCounts(900, 0, 100)]
    trainer = SftTrainer(SftOptions(max_length=500, on_overlength="skip"))
    short = trainer.estimate_training(model, adamw(ALL), counts[:1], 1, gpus=False).variants[0].memory
    assert trainer.estimate_training(model, adamw(ALL), counts, 1, gpus=False).variants[0].memory == short
    whole = SftTrainer(SftOptions()).estimate_training(model, adamw(ALL), counts, 1, gpus=False).variants[0].memory
    assert whole.total > short.total


def test_generation_with_fsdp_needs_full_weights_on_every_worker(build_smoke):
    def memory(workers, **options):
        told = estimate_training(
            SftOptions(strategy="fsdp", precision="bf16", **options), model, optimizer, counts, workers, gpus=True
        )
        return told.variants[0].memory

    # The layers of so small a model are few: gradients of all weights would need more memory than answers.
    groups = {"all": {"match": "*", "lr": 1e-4, "lora": {}}}
    model, optimizer, counts = build_smoke(), adamw(groups), [TokenCounts(1, 0, 1)]
    optimizer.prepare(model.module, 0)
    profile = profile_model(model.module, 2)
    answering = memory(8, validation_ratio=0.1, eval_generate_steps=10)
    assert answering.moment == "answer"
    numbers = count_parameters(profile)
    assert numbers > profile.num_half > numbers / 2
    assert answering.weights == pytest.approx((4 * numbers - 2 * profile.num_half) / 8 + 2 * numbers, rel=1e-6)
    assert memory(8).moment != "answer"
    assert memory(1, validation_ratio=0.1, eval_generate_steps=10) == memory(1)


@pytest.fixture
def build(colour_samples):
    """A function that builds a family's smoke-sized model, with some parameters frozen, and its optimizer."""

    def build(family, groups):
        [plugin] = entry_points(group="runner.model", name=family)
        [options] = entry_points(group="runner.model.options", name=family)
        texts = [text for sample in colour_samples for text in (sample.prompt, sample.target)]
        model, optimizer = plugin.load()(options.load()(size="smoke")).build(texts, 0), adamw(groups)
        optimizer.prepare(model.module, 0)
        return model, optimizer

    return build


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("family", "groups"),
    [
        *((family, ALL) for family in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "internvl", "llava_onevision")),
        *((family, FROZEN_VISION) for family in ("qwen2_5_vl", "qwen3_vl")),
    ],
)
def test_estimated_size_of_encoded_samples_is_that_of_their_files(
    build, colour_samples, tmp_path, family, groups, precision
):
    model, optimizer = build(family, groups)
    options = SftOptions(precision=precision, epochs=1, global_batch_size=2)
    files, trainer, vision = SampleFiles(tmp_path / "encoded", [], pytest.fail), SftTrainer(options), None
    if groups is FROZEN_VISION:
        vision = model.frozen_vision()
    counts = [model.count(sample) for sample in colour_samples]
    for sample in colour_samples:
        features = trainer.encode(model, sample)
        with make_accelerator(precision).autocast():
            files.write(sample, vision.replace_pixels(features) if vision else features)
    size = sum(file.stat().st_size for file in (tmp_path / "encoded").iterdir())
    estimate = trainer.estimate_training(model, optimizer, counts, 1, gpus=False).encoded
    assert estimate == pytest.approx(size, rel=0.25 if family == "llava_onevision" else 0.03)


@pytest.mark.parametrize(
    ("changes", "ratio"),
    [
        ({"epochs": 3}, 1.0),
        ({"epochs": 1, "max_steps": 3}, 0.6),
        ({"epochs": 1, "max_steps": 3, "validation_ratio": 0.2}, 0.8),
        ({"epochs": 1, "max_steps": 100}, 1.0),
        ({"tokens": 25, "epochs": None}, 0.5),
    ],
)
def test_samples_that_a_training_never_reaches_are_not_counted(build, changes, ratio):
    model, optimizer = build("qwen2_5_vl", ALL)
    counts = [TokenCounts(40, 16, 5)] * 10
    whole, part = (
        estimate_training(SftOptions(global_batch_size=2, **each), model, optimizer, counts, 1, gpus=False).encoded
        for each in ({"epochs": 1}, changes)
    )
    assert whole > 0 and part == pytest.approx(ratio * whole, rel=0.01)
