"""The section `sweep` is validated with the spec: each value against its field's schema, all errors at once."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import SpecError
from runner.resolved_plan import smoke_spec
from runner.spec.load import load_spec
from runner.spec.sweep_section import Dimension

BASE = """\
name: swept
data: {type: synthetic, train: 8, test: 2}
adapter: {type: pfa}
model: {type: qwen2_5_vl, size: smoke}
optimizer: {type: adamw, groups: {vision: {match: "*visual*", lr: 1e-3}, rest: {match: "*", lr: 1e-4}}}
trainer: {type: sft, epochs: 2, global_batch_size: 4, validation_ratio: 0.25}
generator: {type: transformers, max_new_tokens: 8}
metrics: [{type: ner_f1}]
tracker: {type: mlflow}
sweep:
"""
DRAWN = "search: {type: random}\nbudget: {trials: 3}"
FIRST_LINE = BASE.count("\n") + 1


@pytest.fixture
def load(tmp_path):
    def load(sweep, *overrides):
        path = tmp_path / "swept.yaml"
        path.write_text(BASE + "".join(f"  {line}\n" for line in sweep.splitlines()))
        return load_spec(path, overrides)

    return load


@pytest.fixture
def problems(load):
    """Return the problems of a sweep as (line of the section, column, path, message)."""

    def problems(sweep, *overrides):
        with pytest.raises(SpecError) as caught:
            load(sweep, *overrides)
        return [
            (each.line and each.line - FIRST_LINE + 1, each.column, each.as_json()["path"], each.message)
            for each in caught.value.problems
        ]

    return problems


def test_all_errors_are_reported_with_line_column_and_suggestion(problems):
    found = problems(
        """\
space:
  optimizer.groups.visoin.lr: {loguniform: [1.0e-7, 1.0e-5]}
  optimizer.groups.vision.lr: {uniform: [-1, 1]}
  trainer.global_batch_size: {choice: [4, eight]}
  trainer.epoch: {choice: [1, 2]}
  trainer.epochs: {loguniform: [0, 2]}
  generator: {choice: {one: {type: transformer}, two: {type: constant, answr: x}}}
seeds: [1, 2, 1]
search: {type: tep}
arms: {odd: {adapter.tasks: [nerr]}}"""
    )
    assert [(line, path) for line, _, path, _ in found] == [
        (2, "sweep.space.optimizer.groups.visoin.lr"),
        (3, "optimizer.groups.vision.lr"),
        (4, "trainer.global_batch_size"),
        (5, "trainer.epoch"),
        (6, "sweep.space.trainer.epochs.loguniform"),
        (7, "generator.type"),
        (7, "generator.answr"),
        (8, "sweep.seeds"),
        (9, "sweep.search"),
        (10, "adapter.tasks"),
        (10, "adapter.tasks.0"),
    ]
    messages = "\n".join(message for *_, message in found)
    for suggestion in ("optimizer.groups.vision.lr", "epochs", "transformers", "answer", "tpe", "ner"):
        assert f"did you mean {suggestion!r}?" in messages
    # The column is that of the invalid value, not of the path.
    assert found[1][1] == len("    optimizer.groups.vision.lr: {uniform: [") + 1
    assert found[2][1] == len("    trainer.global_batch_size: {choice: [4, ") + 1


@pytest.mark.parametrize(
    ("dimension", "hint"),
    [
        ("uniform: [1, 4]", "{int: [1, 4]}"),
        ("loguniform: [1, 4]", "{int: [1, 4]}"),
        ("loguniform: [1.5, 8.5]", "{int: [2, 8]}"),
        ("quantized: [1, 4, 0.5]", "{int: [1, 4]}"),
    ],
)
@pytest.mark.parametrize("path", ["trainer.epochs", "trainer.save_steps", "generator.max_new_tokens", "seed"])
def test_a_range_with_fractions_over_an_integer_is_refused(problems, dimension, hint, path):
    [(line, _, place, message)] = problems(f"space:\n  {path}: {{{dimension}}}\n{DRAWN}")
    assert (line, place) == (2, f"sweep.space.{path}.{dimension.partition(':')[0]}")
    assert f"{path} takes only integers" in message
    assert hint in message and "`logint`" in message


@pytest.mark.parametrize("bounds", ["[0, 1, 5.0e-324]", "[-1.0e+308, 1.0e+308, 1.0e+307]"])
def test_more_steps_than_a_float_can_count_are_refused(problems, bounds):
    found = problems(f"space: {{trainer.max_grad_norm: {{quantized: {bounds}}}}}\n{DRAWN}")
    assert any("do not reach" in message for *_, message in found)


@pytest.mark.parametrize(
    "dimension",
    [
        "trainer.epochs: {quantized: [1, 5, 2]}",
        "trainer.epochs: {logint: [1, 4]}",
        "trainer.max_grad_norm: {int: [1, 4]}",
    ],
)
def test_integers_are_valid_in_every_range_that_draws_only_integers(load, dimension):
    load(f"space:\n  {dimension}\n{DRAWN}")


def test_an_invalid_bound_is_reported_with_the_fractions(problems):
    found = problems(f"space:\n  trainer.epochs: {{uniform: [-2, 4]}}\n{DRAWN}")
    assert [place for _, _, place, _ in found] == ["sweep.space.trainer.epochs.uniform", "trainer.epochs"]


@given(
    kind=st.sampled_from(["uniform", "loguniform", "quantized", "int", "choice"]),
    bounds=st.tuples(st.floats(1e-3, 1e6), st.floats(1e-3, 1e6)).filter(lambda pair: pair[0] < pair[1] * (1 - 1e-9)),
)
def test_a_fraction_lies_in_the_range_and_is_no_integer(kind, bounds):
    low, high = bounds
    values = {"quantized": [low, high, high - low], "int": [1, 1 + int(high)], "choice": [low]}.get(kind, [low, high])
    dimension = Dimension.model_validate({kind: values})
    fraction = dimension.fraction()
    if kind in {"uniform", "loguniform"}:
        assert fraction is not None
    if fraction is not None:
        assert dimension.to_param_value(fraction) is not None
        assert fraction != round(fraction)


def test_errors_outside_the_sweep_are_reported_with_it(problems):
    found = problems("space: {trainer.epochs: {grid: [1, 0]}}", "trainer.global_batch_size=no")
    assert {path for _, _, path, _ in found} == {"trainer.global_batch_size", "trainer.epochs"}


@pytest.mark.parametrize(
    ("sweep", "path", "message"),
    [
        ("{}", "sweep", "varies nothing"),
        ("space: {name: {grid: [a]}}", "sweep.space.name", "does not affect any metric"),
        ("space: {seed: {grid: [1]}}\nseeds: [1, 2]", "sweep.space.seed", "is also set by `seeds`"),
        ("space: {trainer.epochs: {int: [1, 3]}}\nsearch: {type: random}", "sweep.search", "needs a limit"),
        (
            "space: {trainer.max_grad_norm: {uniform: [1, 3]}}",
            "sweep.space.trainer.max_grad_norm",
            "uniform is continuous",
        ),
        (
            "space: {trainer.epochs: {grid: [1, 3]}}\nsearch: {type: random}\nbudget: {trials: 1}",
            "sweep.space.trainer.epochs.grid",
            "use `choice`",
        ),
        (
            "space: {trainer.epochs: {int: [1, 3]}}\nsearch: {type: tpe}\nbudget: {trials: 2}",
            "sweep.search.type",
            "tpe needs an objective",
        ),
        (
            "space: {trainer.epochs: {grid: [1, 3]}}\nobjective: {metric: ner_f1, mode: max}",
            "sweep.objective.metric",
            "is a test metric and cannot be used for selection",
        ),
        (
            "space: {trainer.epochs: {grid: [1, 3]}}\nobjective: {metric: validation/los}",
            "sweep.objective.metric",
            "did you mean 'validation/loss'?",
        ),
        (
            "space: {trainer.epochs: {grid: [1, 3]}}\npruning: {type: median}",
            "sweep.pruning",
            "needs an objective",
        ),
        ("seeds: [1, 2]\nsearch: {type: random}", "sweep.search", "would have no effect"),
        (
            "space: {trainer.epochs: {grid: [1, 3]}}\nseeds: [1, 2, 3]\nbudget: {trials: 2}",
            "sweep.budget.trials",
            "2 is less than one point",
        ),
        (
            "space: {trainer.epochs: {grid: [1, 3]}}\narms: {a: {trainer.epochs: 1}}",
            "sweep.arms.a.trainer.epochs",
            "would be overwritten by the space",
        ),
        (
            "space:\n  trainer.epochs: {grid: [1, 3]}\n  trainer: {grid: [{type: sft}]}",
            "sweep.space.trainer",
            "comes after trainer.epochs",
        ),
        (
            "space: {trainer.epochs: {grid: [1, 3], when: {optimizer.type: muon}}}",
            "sweep.space.trainer.epochs.when.optimizer.type",
            "never holds: optimizer.type is adamw",
        ),
        (
            "space: {trainer.epochs: {grid: [1, 3]}}\nenqueue: [{trainer.epochs: 2}]",
            "sweep.enqueue.0.trainer.epochs",
            "is 2, which is outside grid 1, 3",
        ),
        ("space: {trainer.epochs: {grid: [1, 3]}}\nenqueue: [{}]", "sweep.enqueue.0", "trainer.epochs is 2"),
    ],
)
def test_conflicting_options_are_reported_with_their_path(problems, sweep, path, message):
    found = problems(sweep)
    assert [each[2] for each in found] == [path]
    assert message in found[0][3]
    assert found[0][0] >= 0


def test_objective_needs_validation_samples(problems):
    sweep = "space: {trainer.epochs: {grid: [1, 3]}}\nobjective: {metric: validation/loss}\npruning: {type: median}"
    [(_, _, path, message)] = problems(sweep, "trainer.validation_ratio=0")
    assert path == "sweep.objective.metric"
    assert "set trainer.validation_ratio" in message


def test_plan_cannot_have_a_sweep(problems):
    pinned = "{fingerprint: a, data: b, model: c, plugins: {}, code: {}}"
    [(_, _, path, message)] = problems("seeds: [1, 2]", f"pinned={pinned}")
    assert path == "sweep"
    assert "`pinned`" in message


def test_condition_uses_values_of_earlier_paths(load):
    loaded = load(
        """\
space:
  optimizer:
    choice:
      adam: {type: adamw, groups: {all: {match: "*", lr: 1e-3}}}
      muon: {type: muon, groups: {all: {match: "*", lr: 1e-2, algorithm: muon}}}
  optimizer.groups.all.lr: {grid: [1.0e-3, 1.0e-2], when: {optimizer.type: muon}}"""
    )
    assert loaded.spec.sweep.space["optimizer.groups.all.lr"].when == {"optimizer.type": "muon"}


def test_path_is_checked_in_every_value_of_its_section(problems):
    found = problems(
        """\
space:
  optimizer:
    choice:
      adam: {type: adamw, groups: {all: {match: "*", lr: 1e-3}}}
      muon: {type: muon, groups: {other: {match: "*", lr: 1e-2, algorithm: muon}}}
  optimizer.groups.all.lr: {grid: [1.0e-3, 1.0e-2]}"""
    )
    assert [each[2] for each in found] == ["sweep.space.optimizer.groups.all.lr"]


def test_sweep_survives_serialization_and_is_omitted_if_none(load, tmp_path):
    loaded = load("space: {trainer.epochs: {int: [1, 3]}}\nseeds: [3, 4]\nenqueue: [{trainer.epochs: 1}]")
    (tmp_path / "again.json").write_text(json.dumps(loaded.spec.as_json()))
    assert load_spec(tmp_path / "again.json").spec.sweep.model_dump() == loaded.spec.sweep.model_dump()
    plain = load("", "sweep=null").spec
    assert "sweep" not in plain.as_json()


def test_smoke_run_has_two_points_with_one_seed(load):
    small = smoke_spec(load("space: {trainer.epochs: {int: [1, 3]}}\nseeds: [3, 4]").spec).sweep
    assert (small.seeds, small.budget.trials) == ((3,), 2)


@pytest.mark.parametrize(
    ("sweep", "path", "message"),
    [
        ("space: {trainer.epochs: [1, 2]}", "sweep.space.trainer.epochs", "needs a kind before its values"),
        ("space: {trainer.epochs: 3}", "sweep.space.trainer.epochs", "is one value, so there is nothing to search"),
        ("arms: [a, b]", "sweep.arms", "must be a mapping"),
        ("seeds: 3", "sweep.seeds", "must be a list"),
    ],
)
def test_a_value_of_the_wrong_kind_is_an_error_in_terms_of_yaml(problems, sweep, path, message):
    [(line, _, found, text)] = problems(sweep)
    assert (line, found) == (1, path)
    assert text.startswith(message)
    assert not {"dictionary", "tuple", "instance"} & set(text.split())
