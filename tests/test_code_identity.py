"""The identity of code: an edit changes the steps that it can change, and nothing else does."""

import ast
import json
import random
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import code_identity
from runner.code_identity import ModuleCode, changed_modules, module_code, module_file, read_module_code
from runner.errors import StepError
from runner.resolved_plan import PlanResolver, check_code
from runner.spec.experiment_spec import Pins
from runner.spec.load import load_spec
from runner.trial.cache_entry import generation_key, training_key
from tests.conftest import ROOT

TRAIN, GENERATE, SCORE = "train", "generate", "score"
ALL = {TRAIN, GENERATE, SCORE}

STEPS_BY_MODULE = {
    "plugins.adapter.pfa_parse": {SCORE},
    "plugins.adapter.pfa_prompt": ALL,
    "plugins.data.synthetic": ALL,
    "plugins.generator.decoding.continuous_batching": {GENERATE},
    "plugins.generator.decoding.greedy": {GENERATE},
    "plugins.metric.extraction": {SCORE},
    "plugins.metric.summary": {SCORE},
    "plugins.model.chat.batching": {TRAIN, GENERATE},
    "plugins.model.chat.loaded_chat_model": {TRAIN, GENERATE},
    "plugins.model.chat.template": {TRAIN, GENERATE},
    "plugins.optimizer.grouped_optimizer": {TRAIN, GENERATE},
    "plugins.optimizer.muon": {TRAIN, GENERATE},
    "plugins.optimizer.param_groups": {TRAIN, GENERATE},
    "plugins.trainer.encoded_samples": {TRAIN, GENERATE},
    "plugins.trainer.loss": {TRAIN, GENERATE},
    "plugins.trainer.train_loop": {TRAIN, GENERATE},
    "plugins.trainer.train_step": {TRAIN, GENERATE},
    "runner.prompt_rendering": {TRAIN, GENERATE},
    "runner.trial.generate": {GENERATE},
    "runner.trial.score": {SCORE},
    "runner.trial.train": {TRAIN, GENERATE},
}
"""The steps of `specs/tiny_mmre.yaml` that an edit of a module can change. Answers depend on the training, so an edit
that changes a training changes the answers too."""

WITHOUT_EFFECT = (
    "plugins.annotator.constant",
    "plugins.generator.constant",
    "plugins.generator.vllm",
    "plugins.model.internvl",
    "plugins.model.llava_onevision",
    "plugins.optimizer.adamw",
    "plugins.source.gmner",
    "plugins.tracker.mlflow_content",
    "plugins.trainer.step_memory",
    "runner.cli.sweep_progress_and_results",
    "runner.compare.resampling",
    "runner.execute.loop",
    "runner.preflight.estimate",
    "runner.trial.cache_entry",
)
"""Modules that the spec does not use, or that compute neither weights nor answers nor metrics."""

UNUSED_METRICS = {
    *("NerF1ByLabel", "NerF1ByLabelOptions", "ExactMatch", "ExactMatchOptions"),
    *("EntityF1", "EntityF1Options", "TripleF1", "TripleF1Options", "_with_label", "_triples"),
}

NOT_USED_HERE = {
    "plugins.adapter.pfa_parse": {"collapse_whitespace"},  # rendering uses it too
    "plugins.metric.extraction": UNUSED_METRICS,
    "plugins.metric.summary": {"CorpusBleu", "CorpusBleuOptions"},
    "plugins.data.synthetic": set(),
}
"""Definitions of these modules that the spec does not use, or that other steps use as well."""


@pytest.fixture(scope="module")
def spec():
    return load_spec(ROOT / "specs" / "tiny_mmre.yaml").spec


@pytest.fixture
def edited(monkeypatch):
    """Replaces the text of a module, for the identity alone; nothing is imported."""
    original = module_code
    cache: dict[str, object] = {}
    overlay: dict[str, object] = {}

    def code_of(module):
        if module in overlay:
            return overlay[module]
        if module not in cache:
            cache[module] = original(module)
        return cache[module]

    monkeypatch.setattr(code_identity, "module_code", code_of)

    def edit(module, text):
        overlay.clear()
        if module is not None:
            is_package = module_file(module).name == "__init__.py"
            overlay[module] = read_module_code(text, module, is_package=is_package)

    return edit


class NoReporter:
    """A reporter for a resolver whose data and model are not read here."""


def step_identities(spec):
    """What identifies each step, without reading data or weights."""
    code = PlanResolver(NoReporter())._code(spec)
    plugins = {f"{section.stage}.{section.type}": "mmre-runner 1" for section in spec.sections()}
    pins = {"fingerprint": "f", "data": "d", "model": "m", "plugins": plugins, "code": code}
    planned = spec.model_copy(update={"pinned": Pins(**pins)})
    scoring = {name: code[name] for name in code if name.startswith("metric.") or name in SCORING}
    return {TRAIN: training_key(planned), GENERATE: generation_key(planned), SCORE: repr(sorted(scoring.items()))}


SCORING = {"engine.score", "adapter.pfa.parse", "data.synthetic"}


def source_of(module):
    return module_file(module).read_text()


@pytest.mark.parametrize(
    ("module", "step"),
    [("plugins.metric.extraction", "score"), ("plugins.trainer.loss", "train"), ("runner.trial.generate", "generate")],
)
def test_a_step_does_not_run_code_that_was_edited_after_the_plan(spec, edited, module, step):
    code = PlanResolver(NoReporter())._code(spec)
    pins = Pins(fingerprint="f", data="d", model="m", plugins={}, code=code)
    planned = spec.model_copy(update={"pinned": pins})
    edited(module, random_edit(module, random.Random(0)))
    with pytest.raises(StepError, match=rf"^{step}: the code of {module} has changed since this launch"):
        check_code(planned, step)
    for other in {"train", "generate", "score"} - {step}:
        check_code(planned, other)


class Edit(ast.NodeTransformer):
    """Changes one constant, operator or comparison of a tree: the one with a given number."""

    SWAPS: Mapping[type, type] = {
        ast.Add: ast.Sub,
        ast.Sub: ast.Add,
        ast.Mult: ast.Add,
        ast.Lt: ast.LtE,
        ast.Gt: ast.GtE,
    }

    def __init__(self, number):
        self.number, self.count, self.done = number, -1, False

    def _is_chosen(self):
        self.count += 1
        self.done = self.done or self.count == self.number
        return self.count == self.number

    def visit_Constant(self, node):
        if isinstance(node.value, int | float) and self._is_chosen():
            return ast.copy_location(
                ast.Constant(not node.value if isinstance(node.value, bool) else node.value + 1), node
            )
        return node

    def visit_BinOp(self, node):
        self.generic_visit(node)
        if type(node.op) in self.SWAPS and self._is_chosen():
            node.op = self.SWAPS[type(node.op)]()
        return node

    def visit_Compare(self, node):
        self.generic_visit(node)
        if type(node.ops[0]) in self.SWAPS and self._is_chosen():
            node.ops[0] = self.SWAPS[type(node.ops[0])]()
        return node


def random_edit(module, rng):
    """The text of a module with one random edit in a function or class that the spec uses; None if it has none."""
    tree = ast.parse(source_of(module))
    left_out = NOT_USED_HERE.get(module, set())
    bodies = [
        node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name not in left_out
    ]
    rng.shuffle(bodies)
    for body in bodies:
        counter = Edit(-2)
        counter.visit(ast.parse(ast.unparse(body)))
        if counter.count >= 0:
            Edit(rng.randint(0, counter.count)).visit(body)
            return ast.unparse(ast.fix_missing_locations(tree))
    return None


NUM_EDITS = [1, pytest.param(10, marks=pytest.mark.slow)]
"""Number of random edits of each module; 10 are more than 200 in all."""


@pytest.mark.parametrize("num_edits", NUM_EDITS)
@pytest.mark.parametrize("module", STEPS_BY_MODULE)
def test_edit_of_a_constant_or_operator_changes_exactly_the_steps_that_can_change(spec, edited, module, num_edits):
    before = step_identities(spec)
    rng = random.Random(f"{module} {num_edits}")
    for _ in range(num_edits):
        text = random_edit(module, rng)
        if text is None:
            pytest.skip("the module has no number, comparison or calculation")
        edited(module, text)
        now = step_identities(spec)
        changed = {step for step in ALL if now[step] != before[step]}
        assert changed == STEPS_BY_MODULE[module], text


@pytest.mark.parametrize("module", WITHOUT_EFFECT)
def test_edit_of_code_that_the_spec_does_not_use_changes_nothing(spec, edited, module):
    before = step_identities(spec)
    text = random_edit(module, random.Random(module)) or source_of(module) + "\nADDED = 1\n"
    edited(module, text)
    assert step_identities(spec) == before


def comment_and_reformat(text, rng):
    """Write a module in another format, with other docstrings and comments."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
            if ast.get_docstring(node) is None:
                node.body.insert(0, ast.Expr(ast.Constant("Something else.")))
            elif rng.random() < 0.5:
                node.body[0].value.value = "Something else."
            elif len(node.body) > 1:
                del node.body[0]
    # `from __future__` must follow the docstring of the module.
    lines = ast.unparse(ast.fix_missing_locations(tree)).splitlines()
    return "".join(
        f"{line}  # {rng.random()}\n" if line and '"""' not in line and rng.random() < 0.1 else f"{line}\n"
        for line in lines
    )


@pytest.mark.parametrize("num_edits", NUM_EDITS)
@pytest.mark.parametrize("module", STEPS_BY_MODULE)
def test_comments_docstrings_and_formatting_change_nothing(spec, edited, module, num_edits):
    before = step_identities(spec)
    rng = random.Random(f"{module} {num_edits}")
    for _ in range(num_edits):
        edited(module, comment_and_reformat(source_of(module), rng))
        assert step_identities(spec) == before


def digest_of(text, name="f"):
    [definition] = read_module_code(text, "package.module", is_package=False).definitions[name]
    return definition.digest, {key: method.digest for key, method in definition.methods.items()}


@given(st.integers(), st.integers())
def test_digest_is_that_of_the_value_and_not_of_its_spelling(one, other):
    assert (digest_of(f"f = {one}") == digest_of(f"f = {other}")) == (one == other)
    assert digest_of(f"f = ({one:_})  # {other}") == digest_of(f"f = {one}")


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("from a.b import c", {"c": ("a.b", "c")}),
        ("from a.b import c as d", {"d": ("a.b", "c")}),
        ("from . import c", {"c": ("package", "c")}),
        ("from .other import c", {"c": ("package.other", "c")}),
        ("import a.b as d", {"d": ("a.b", None)}),
        ("import a.b", {"a": ("a.b", None)}),
        ("if TYPE_CHECKING:\n    from a import b", {}),
        ("with block():\n    from a import b", {"b": ("a", "b")}),
        ("try:\n    from a import b\nexcept ImportError:\n    b = None", {"b": ("a", "b")}),
    ],
)
def test_imports_are_found_where_they_stand(statement, expected):
    assert read_module_code(statement, "package.module", is_package=False).imports == expected


def test_import_within_a_function_and_a_method_of_a_class_are_followed():
    text = "def f():\n    from a import b\n    return b\n\nclass C:\n    x = y\n    def m(self):\n        return z\n"
    definitions = read_module_code(text, "package.module", is_package=False).definitions
    assert definitions["f"][0].imports == {("a", "b")}
    assert "y" in definitions["C"][0].names
    assert definitions["C"][0].methods["m"].names == {"z"}


@pytest.mark.parametrize("module", ["plugins.metric.summary", "plugins.adapter.pfa", "runner.stages"])
def test_definitions_are_the_same_after_a_stay_in_the_cache(module):
    code = read_module_code(source_of(module), module, is_package=module == "runner.stages")
    assert ModuleCode.from_json(json.loads(json.dumps(code.as_json()))) == code


def test_changed_modules_names_each_change_once():
    before = {"trainer.sft": {"loss": "1", "torch": "2.12.0"}, "model.x": {"torch": "2.12.0"}, "metric.old": {"m": "1"}}
    now = {"trainer.sft": {"loss": "2", "torch": "2.13.0"}, "model.x": {"torch": "2.13.0"}, "metric.new": {"m": "2"}}
    assert changed_modules(before, now) == ["the code of loss has changed", "torch was 2.12.0 and is now 2.13.0"]
    assert changed_modules(now, now) == []
