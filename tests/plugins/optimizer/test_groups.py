import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import get_scheduler

from plugins.optimizer.adamw import AdamWOptimizer
from plugins.optimizer.grouped_optimizer import learning_rate_factor
from plugins.optimizer.muon import MuonOptimizer
from plugins.optimizer.optimizer_options import AdamWOptions, MuonOptions
from runner.errors import SpecError
from runner.stages.optimizer_and_trainer import summarize_groups

PUBLISHED = {
    "merger": {"match": "*merger*", "lr": 2e-6},
    "vision": {"match": "*visual*", "lr": 2e-6},
    "language": {"match": "*", "lr": 1e-5},
}


@pytest.fixture(scope="module")
def module(build_smoke):
    return build_smoke().module


def _adamw(groups, **options):
    return AdamWOptimizer(AdamWOptions(groups=groups, **options))


def _problems(optimizer, module):
    with pytest.raises(SpecError) as caught:
        optimizer.prepare(module, 0)
    return {problem.path: problem.message for problem in caught.value.problems}


def test_published_groups_cover_every_parameter_once(module):
    rows = _adamw(PUBLISHED).prepare(module, 0)
    assert next(row.name for row in rows if row.group == "language") == "model.language_model.embed_tokens.weight"
    assert sorted(row.name for row in rows) == sorted(name for name, _ in module.named_parameters())
    groups = {group["group"]: group for group in summarize_groups(rows)}
    sizes = {name: p.numel() for name, p in module.named_parameters()}
    assert groups["merger"]["num_parameters"] == sum(n for name, n in sizes.items() if "visual.merger" in name)
    assert groups["vision"]["num_parameters"] == sum(
        n for name, n in sizes.items() if "visual" in name and "merger" not in name
    )
    assert sum(group["num_trainable"] for group in groups.values()) == sum(sizes.values())
    assert {name: group["lr"] for name, group in groups.items()} == {
        "merger": 2e-6,
        "vision": 2e-6,
        "language": 1e-5,
    }
    assert {group["weight_decay"] for group in groups.values()} == {0.1}


def test_optimizer_has_the_group_rates_and_no_decay_for_vectors(module):
    (built,) = _adamw(PUBLISHED | {"vision": {"match": "*visual*", "lr": 2e-6, "weight_decay": 0.5}}).build(module, 100)
    names = {id(p): name for name, p in module.named_parameters()}
    seen = []
    for group in built.optimizer.param_groups:
        assert group["initial_lr"] == PUBLISHED[group["name"]]["lr"]
        for parameter in group["params"]:
            decay = 0.5 if group["name"] == "vision" else 0.1
            assert group["weight_decay"] == (decay if parameter.ndim > 1 else 0.0)
            seen.append(names[id(parameter)])
    assert sorted(seen) == sorted(names.values())
    spared = {names[id(p)] for g in built.optimizer.param_groups if not g["weight_decay"] for p in g["params"]}
    assert "model.visual.merger.ln_q.weight" in spared
    assert "model.language_model.norm.weight" in spared


def test_vectors_decay_with_weight_decay_on_all(module):
    (built,) = _adamw(PUBLISHED, weight_decay_on="all").build(module, 10)
    assert all(group["weight_decay"] == 0.1 for group in built.optimizer.param_groups)


def test_all_group_errors_are_reported_at_once(module):
    groups = {
        "typo": {"match": "*visoin*", "lr": 1e-6},
        "vision": {"match": "*visual*", "lr": 1e-6},
        "merger": {"match": "*merger*", "lr": 1e-6},
    }
    problems = _problems(_adamw(groups), module)
    assert "'*visoin*' matches no trainable parameter" in problems["optimizer", "groups", "typo", "match"]
    assert "an earlier group matches" in problems["optimizer", "groups", "merger", "match"]
    assert "model.language_model.embed_tokens.weight" in problems["optimizer", "groups"]
    assert " more" in problems["optimizer", "groups"]


def test_parameters_frozen_by_the_model_need_no_group():
    module = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 2)})
    module["b"].requires_grad_(False)
    rows = _adamw({"a": {"match": "a.*", "lr": 1.0}}).prepare(module, 0)
    assert [(row.name, row.trainable) for row in rows] == [("a.weight", True), ("a.bias", True)]
    problems = _problems(_adamw({"a": {"match": "a.*", "lr": 1.0}, "b": {"match": "b.*", "lr": 1.0}}), module)
    assert "matches no trainable" in problems["optimizer", "groups", "b", "match"]


def test_what_is_no_matrix_needs_a_group_beside_muon(module):
    muon = {"match": "*", "lr": 0.02, "algorithm": "muon"}
    message = _problems(MuonOptimizer(MuonOptions(groups={"all": muon})), module)["optimizer", "groups"]
    assert "model.visual.patch_embed.proj.weight (32, 3, 2, 8, 8)" in message
    assert "algorithm: adamw" in message
    groups = MuonOptimizer(MuonOptions(groups={"matrices": muon, "rest": {"match": "*", "lr": 1e-3}})).assign_groups(
        module
    )
    shapes = {group.name: {weight.ndim for weight in group.parameters.values()} for group in groups}
    assert shapes == {"matrices": {2}, "rest": {1, 5}}
    biases = _problems(MuonOptimizer(MuonOptions(groups={"b": muon | {"match": "*.bias"}})), module)
    assert "but no matrix" in biases["optimizer", "groups", "b", "match"]


def test_an_optional_group_may_be_empty(module):
    groups = PUBLISHED | {"projector": {"match": "*projector*", "lr": 1e-3, "optional": True}}
    rows = _adamw(groups).prepare(module, 0)
    assert {row.group for row in rows} == {"merger", "vision", "language"}
    assert "projector" not in {group["group"] for group in summarize_groups(rows)}
    (built,) = _adamw(groups).build(module, 10)
    assert {group["name"] for group in built.optimizer.param_groups} == {"merger", "vision", "language"}
    groups["projector"]["optional"] = False
    assert "matches no trainable" in _problems(_adamw(groups), module)["optimizer", "groups", "projector", "match"]


def test_muon_and_adamw_train_the_same_module():
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3))
    groups = {
        "norms": {"match": "1.*", "lr": 1e-3},
        "biases": {"match": "*.bias", "lr": 1e-3},
        "matrices": {"match": "*", "lr": 0.02, "algorithm": "muon"},
    }
    muon, adamw = MuonOptimizer(MuonOptions(groups=groups)).build(module, 10)
    assert isinstance(muon.optimizer, torch.optim.Muon)
    assert isinstance(adamw.optimizer, torch.optim.AdamW)
    assert [group["name"] for group in muon.optimizer.param_groups] == ["matrices"]
    assert [group["name"] for group in adamw.optimizer.param_groups] == ["norms", "biases"]
    assert (
        MuonOptimizer(MuonOptions(groups={"m": {"match": "weight", "lr": 1.0, "algorithm": "muon"}}))
        .build(torch.nn.Linear(2, 2, bias=False), 4)[0]
        .optimizer.param_groups[0]["momentum"]
        == 0.95
    )


@pytest.mark.parametrize(
    ("schedule", "at_half", "at_end"), [("cosine", 0.5, 0.0), ("linear", 0.5, 0.0), ("constant", 1.0, 1.0)]
)
def test_learning_rates_follow_warm_up_and_schedule(schedule, at_half, at_end):
    module = torch.nn.Linear(2, 2)
    (built,) = _adamw({"all": {"match": "*", "lr": 1.0}}, lr_schedule=schedule, warmup_ratio=0.2).build(module, 100)
    rates = []
    for _ in range(100):
        rates.append(built.optimizer.param_groups[0]["lr"])
        built.optimizer.step()
        built.schedule.step()
    assert rates[:21] == pytest.approx([step / 20 for step in range(21)])
    assert rates[60] == pytest.approx(at_half)
    assert rates[-1] == pytest.approx(at_end, abs=0.02)


@given(lr_schedule=st.sampled_from(["cosine", "linear", "constant"]), num_steps=st.integers(1, 40), data=st.data())
def test_the_learning_rates_are_those_of_transformers(lr_schedule, num_steps, data):
    num_warmup_steps = data.draw(st.integers(0, num_steps))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    published = get_scheduler(
        "constant_with_warmup" if lr_schedule == "constant" else lr_schedule,
        optimizer,
        num_warmup_steps=num_warmup_steps,
        num_training_steps=num_steps,
    )
    for step in range(num_steps + 1):
        assert learning_rate_factor(step, lr_schedule, num_warmup_steps, num_steps) == optimizer.param_groups[0]["lr"]
        optimizer.step()
        published.step()


def test_groups_need_a_pattern_and_a_learning_rate():
    for groups in (
        {},
        {"a": {"match": "*"}},
        {"a": {"match": "", "lr": 1.0}},
        {"a": {"match": "*", "lr": -1.0}},
        {"a": {"match": "*", "lr": 1.0, "frozen": True}},
        {"a": {"match": "*", "frozen": True, "lora": {}}},
        {"a": {"match": "*", "lr": 1.0, "lora": {"rank": 0}}},
    ):
        with pytest.raises(ValidationError):
            AdamWOptions(groups=groups)


PARTS = {
    "vision": {"lr": 2e-6},
    "merger": {"lr": 2e-6},
    "language": {"lr": 1e-5},
}


def test_groups_named_after_parts_need_no_pattern(module):
    by_name = _adamw(PARTS).prepare(module, 0)
    by_pattern = _adamw(PUBLISHED).prepare(module, 0)
    assert {row.name: row.group for row in by_name} == {row.name: row.group for row in by_pattern}


def test_a_part_and_patterns_are_matched_in_order(module):
    groups = {"heads": {"match": "lm_head*", "lr": 1.0}, "language": {"lr": 0.5}, "rest": {"match": "*", "lr": 0.1}}
    rows = {row.name: row.group for row in _adamw(groups).prepare(module, 0)}
    assert rows["lm_head.weight"] == "heads"
    assert rows["model.language_model.embed_tokens.weight"] == "language"
    assert {group for name, group in rows.items() if "visual" in name} == {"rest"}


def test_a_part_without_parameters_is_an_error_at_the_group(module):
    groups = {"all": {"match": "*", "lr": 1.0}, "merger": {"lr": 1.0}}
    problems = _problems(_adamw(groups), module)
    assert "the name 'merger' matches model.visual.merger" in problems["optimizer", "groups", "merger"]


@pytest.mark.parametrize("options", [AdamWOptions, MuonOptions])
def test_other_names_need_a_pattern(options):
    with pytest.raises(ValidationError, match=r"the group 'visoin' needs `match`.* Did you mean vision\?"):
        options(groups={"visoin": {"lr": 1.0}})
    with pytest.raises(ValidationError, match="the group 'x' needs `match`"):
        options(groups={"language": {"lr": 1.0}, "x": {"lr": 1.0}})
