"""An optimised training step equals a reference step: padded, one sample at a time, with full logits."""

from __future__ import annotations

import pytest
import torch

from plugins.model.qwen_vl import Qwen2VLModel, Qwen3VLModel, Qwen25VLModel
from plugins.optimizer.adamw import AdamWOptimizer
from plugins.optimizer.optimizer_options import AdamWOptions
from plugins.trainer.accelerator_and_sharding import make_accelerator
from plugins.trainer.loss import AnswerLoss
from plugins.trainer.sft_options import SftOptions
from plugins.trainer.train_step import TrainStep
from runner.records import IGNORED

FAMILIES = {each.name: each for each in (Qwen2VLModel, Qwen25VLModel, Qwen3VLModel)}


@pytest.fixture(params=FAMILIES)
def model(request, colour_samples):
    """A smoke-sized model of a family that supports_packing."""
    from importlib.metadata import entry_points

    (options,) = entry_points(group="runner.model.options", name=request.param)
    texts = [text for sample in colour_samples for text in (sample.prompt, sample.target)]
    return FAMILIES[request.param](options.load()(size="smoke")).build(texts, 0)


def _unoptimised(module, model, batch):
    """Add up gradients sample by sample, with transformers' own loss on all logits."""
    num_labels = sum(int((each["labels"] != IGNORED).sum()) for each in batch)
    total = 0.0
    for each in batch:
        inputs = model.collate([each], "right")
        logits = module(**{name: value for name, value in inputs.items() if name != "labels"}).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits[0], inputs["labels"][0, 1:], reduction="sum") / num_labels
        loss.backward()
        total += float(loss.detach())
    return total


def _gradients(module):
    gradients = {name: each.grad for name, each in module.named_parameters() if each.grad is not None}
    module.zero_grad(set_to_none=True)
    return gradients


def _train_step(model, **options):
    built = AdamWOptimizer(AdamWOptions(groups={"all": {"match": "*", "lr": 1e-3}})).build(model.module, 20)
    settings = SftOptions(precision="fp32", max_grad_norm=1e9, **options)
    return TrainStep(make_accelerator("fp32"), model, built, settings)


@pytest.mark.parametrize("options", [{}, {"micro_batch_size": 5}, {"packing": "off"}, {"gradient_checkpointing": True}])
def test_gradients_equal_the_reference(model, colour_samples, options):
    batch = [model.encode(sample) for sample in colour_samples]
    model.module.train()
    loss = _unoptimised(model.module, model, batch)
    expected = _gradients(model.module)
    told = _train_step(model, **options).compute_gradient(batch)
    assert told.loss == pytest.approx(loss, rel=1e-5)
    ours = _gradients(model.module)
    assert ours.keys() == expected.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-5, msg=name)


def test_losses_of_twenty_steps_equal_the_reference(build_smoke, colour_samples):
    theirs, ours = build_smoke(), build_smoke()
    train_step = _train_step(ours)
    (built,) = AdamWOptimizer(AdamWOptions(groups={"all": {"match": "*", "lr": 1e-3}})).build(theirs.module, 20)
    batches = [[theirs.encode(colour_samples[(4 * step + each) % 12]) for each in range(4)] for step in range(20)]
    losses = []
    for batch in batches:
        losses.append((_unoptimised(theirs.module, theirs, batch), train_step.compute_gradient(batch).loss))
        train_step.update()
        torch.nn.utils.clip_grad_norm_(theirs.module.parameters(), 1e9)
        built.optimizer.step()
        built.schedule.step()
        built.optimizer.zero_grad()
    assert losses[-1][0] < losses[0][0] - 1
    for expected, loss in losses:
        assert loss == pytest.approx(expected, abs=1e-3)


def test_packed_sample_does_not_depend_on_its_neighbours(model, colour_samples):
    one, *others = [model.encode(sample) for sample in colour_samples[3:8]]
    end = len(one["input_ids"])

    def hidden(batch):
        row = model.pack(batch)
        del row["labels"]
        with torch.no_grad():
            return model.module.base_model(**row, use_cache=False).last_hidden_state[0]

    with torch.no_grad():
        inputs = model.collate([one], "right")
        del inputs["labels"]
        alone = model.module.base_model(**inputs, use_cache=False).last_hidden_state[0]
    torch.testing.assert_close(hidden([one, *others])[:end], alone, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(hidden([*others, one])[-end:], alone, rtol=1e-5, atol=1e-5)


def test_packed_row_contains_every_token_once_without_padding(model, colour_samples):
    batch = [model.encode(sample) for sample in colour_samples[:6]]
    row = model.pack(batch)
    assert row["input_ids"][0].tolist() == [token for each in batch for token in each["input_ids"].tolist()]
    assert int((row["labels"] != IGNORED).sum()) == sum(int((each["labels"] != IGNORED).sum()) for each in batch)
    assert sum(row["sample_lengths"]) == row["position_ids"].shape[-1] == row["input_ids"].shape[-1]


def test_first_token_is_not_predicted_from_the_previous_sample(build_smoke, colour_samples):
    model = build_smoke()
    first, second = [model.encode(sample) for sample in colour_samples[:2]]
    second = {**second, "labels": second["input_ids"].clone()}
    together = AnswerLoss(model.module)(**model.pack([first, second]))
    alone = [AnswerLoss(model.module)(**model.collate([each], "right")) for each in (first, second)]
    torch.testing.assert_close(together, sum(alone))


def test_position_ids_mark_sample_starts_for_flash_attention(build_smoke, colour_samples):
    model = build_smoke()
    batch = [model.encode(sample) for sample in colour_samples[:3]]
    ours = model.pack(batch)
    model.module.config.get_text_config()._attn_implementation = "flash_attention_2"
    row = model.pack(batch)
    assert "sample_lengths" not in row
    starts = (row["position_ids"][0, 0] == 0).nonzero().flatten().tolist()
    lengths = [len(each["input_ids"]) for each in batch]
    assert starts == [0, lengths[0], lengths[0] + lengths[1]]
    assert row["position_ids"][1:].equal(ours["position_ids"])


def test_eager_attention_trains_without_packing(build_smoke, colour_samples):
    plain, eager = build_smoke(), build_smoke(attention="eager")
    assert (plain.supports_packing, eager.supports_packing) == (True, False)
    batch = [plain.encode(sample) for sample in colour_samples]
    assert _train_step(eager).compute_gradient(batch).loss == pytest.approx(
        _train_step(plain).compute_gradient(batch).loss, rel=1e-5
    )


def test_batch_without_labels_gives_zero_gradients(build_smoke, colour_samples):
    model = build_smoke()
    features = model.encode(colour_samples[0])
    value = AnswerLoss(model.module)(
        **model.pack([{**features, "labels": torch.full_like(features["labels"], IGNORED)}])
    )
    value.backward()
    assert float(value.detach()) == 0
    assert all(not gradient.any() for gradient in _gradients(model.module).values())
