"""The identity of code: an edit changes the steps that it can change, and nothing else does."""

import ast
import importlib
import json
import random
from collections.abc import Mapping
from importlib.metadata import distribution

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import code_identity as code_identity_module
from runner.code_identity import changed_modules, code_identity, own_packages
from runner.errors import PluginError, StepError
from runner.module_code import ModuleCode, module_code, module_file, read_module_code
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
    "runner.dataset.leaks": ALL,
    "runner.prompt_rendering": {TRAIN, GENERATE},
    "runner.regime": ALL,
    "runner.spec.regime_section": ALL,
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
    "plugins.trainer.model_profile",
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
    # The first compares the texts of the data, too; the next ones only report leaks; then one selects examples, and two
    # number the groups for scoring.
    "runner.dataset.leaks": {
        *("text_key", "Leak", "find_leaks", "leak_message", "MAX_LISTED_LEAKS"),
        *("without_shared_content", "groups_by_kind", "_first_indices"),
    },
    # These write texts that the launch shows.
    "runner.trial.score": {"describe_total_failure", "describe_mistake"},
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

    monkeypatch.setattr(code_identity_module, "module_code", code_of)

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
        assert text is not None, "the module has no number, comparison or calculation to edit"
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
        ("from a.b import c", {"c": [("a.b", "c")]}),
        ("from a.b import c as d", {"d": [("a.b", "c")]}),
        ("from . import c", {"c": [("package", "c")]}),
        ("from .other import c", {"c": [("package.other", "c")]}),
        ("import a.b as d", {"d": [("a.b", None)]}),
        ("import a.b", {"a": [("a", None)]}),
        ("if TYPE_CHECKING:\n    from a import b", {}),
        ("with block():\n    from a import b", {"b": [("a", "b")]}),
        ("try:\n    from a import b\nexcept ImportError:\n    b = None", {"b": [("a", "b")]}),
    ],
)
def test_imports_are_found_where_they_stand(statement, expected):
    imports = read_module_code(statement, "package.module", is_package=False).imports
    assert {name: [*targets] for name, targets in imports.items()} == expected


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
    before = {
        "trainer.sft": {"loss": "1" * 16, "torch": "2.12.0"},
        "model.x": {"torch": "2.12.0"},
        "metric.old": {"m": "1"},
    }
    now = {
        "trainer.sft": {"loss": "2" * 16, "torch": "2.13.0"},
        "model.x": {"torch": "2.13.0"},
        "metric.new": {"m": "2"},
    }
    assert changed_modules(before, now) == ["the code of loss has changed", "torch was 2.12.0 and is now 2.13.0"]
    assert changed_modules(now, now) == []


def identity_of(folder, files, packages=("probe",), root=("probe.plugin", "Plugin"), **options):
    """The identity of a plugin whose modules are written to a folder."""
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    importlib.invalidate_caches()
    return code_identity([root], packages, **options)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder from which modules can be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(code_identity_module, "module_code", uncached_module_code)
    return tmp_path


def uncached_module_code(module):
    """Read a module without the user's cache, which other tests of the same machine use."""
    file = module_file(module)
    return file and read_module_code(file.read_text(), module, is_package=file.name == "__init__.py")


PLUGIN = "class Plugin:\n    def run(self):\n        return work()\n"
TABLE = "TABLE = {}\n\ndef register(name):\n    return lambda f: TABLE.setdefault(name, f)\n"

EDITS_WITH_EFFECT = {
    "another function of a library": (
        {"plugin.py": f"from math import floor as rounded\n\ndef work():\n    return rounded(1.5)\n\n{PLUGIN}"},
        ("plugin.py", "import floor", "import ceil"),
    ),
    "two names that change places": (
        {
            "plugin.py": f"from .helpers import one as a, two as b\n\ndef work():\n    return a() - b()\n\n{PLUGIN}",
            "helpers.py": "def one():\n    return 1\n\ndef two():\n    return 2\n",
        },
        ("plugin.py", "one as a, two as b", "two as a, one as b"),
    ),
    "imports in two branches that change places": (
        {
            "plugin.py": "def work(fast):\n    if fast:\n        from math import floor as f\n    else:\n        "
            f"from math import ceil as f\n    return f(1.5)\n\n{PLUGIN}"
        },
        (
            "plugin.py",
            "floor as f\n    else:\n        from math import ceil",
            "ceil as f\n    else:\n        from math import floor",
        ),
    ),
    "a function in a table that a decorator fills": (
        {"plugin.py": f'{TABLE}\n@register("a")\ndef one():\n    return 1\n\nwork = lambda: TABLE["a"]()\n\n{PLUGIN}'},
        ("plugin.py", "return 1", "return 2"),
    ),
    "a module that is imported because it fills a table": (
        {
            "plugin.py": f'from . import one\nfrom .table import TABLE\n\nwork = lambda: TABLE["a"]()\n\n{PLUGIN}',
            "table.py": TABLE,
            "one.py": 'from .table import register\n\n@register("a")\ndef one():\n    return 1\n',
        },
        ("one.py", "return 1", "return 2"),
    ),
    "a module that changes another one": (
        {
            "plugin.py": f"from . import helpers, patches\n\ndef work():\n    return helpers.FACTOR\n\n{PLUGIN}",
            "helpers.py": "FACTOR = 1\n",
            "patches.py": "from . import helpers\n\nhelpers.FACTOR = 2\n",
        },
        ("patches.py", "= 2", "= 3"),
    ),
    "a subclass that its base class registers": (
        {
            "plugin.py": "class Base:\n    kinds = {}\n    def __init_subclass__(cls):\n        Base.kinds[cls] = cls"
            "\n\nclass One(Base):\n    value = 1\n\ndef work():\n    return [*Base.kinds][0].value\n\n" + PLUGIN
        },
        ("plugin.py", "value = 1", "value = 2"),
    ),
    "a loop that fills a table": (
        {"plugin.py": f"TABLE = {{}}\nfor n in (1, 2):\n    TABLE[n] = n * 2\n\nwork = lambda: TABLE[1]\n\n{PLUGIN}"},
        ("plugin.py", "n * 2", "n * 3"),
    ),
    "a star import": (
        {"plugin.py": f"from .helpers import *\n\n{PLUGIN}", "helpers.py": "def work():\n    return 1\n"},
        ("helpers.py", "return 1", "return 2"),
    ),
    "a star import in a package": (
        {
            "plugin.py": f"from .helpers import work\n\n{PLUGIN}",
            "helpers/__init__.py": "from .parts import *\n",
            "helpers/parts.py": "def work():\n    return 1\n",
        },
        ("helpers/parts.py", "return 1", "return 2"),
    ),
    "a module that its package imports under the same name": (
        {
            "plugin.py": f"from .helpers import parts\n\nwork = lambda: parts.one()\n\n{PLUGIN}",
            "helpers/__init__.py": "from . import parts\n",
            "helpers/parts.py": "def one():\n    return 1\n",
        },
        ("helpers/parts.py", "return 1", "return 2"),
    ),
    "the first of two modules of a package": (
        {
            "plugin.py": f"import probe.one\nimport probe.two\n\nwork = lambda: probe.one.f(probe.two.f)\n\n{PLUGIN}",
            "one.py": "def f():\n    return 1\n",
            "two.py": "def f():\n    return 1\n",
        },
        ("one.py", "return 1", "return 2"),
    ),
    "a package beside its module": (
        {
            "plugin.py": f"import probe.one\n\nwork = lambda: probe.value()\n\n{PLUGIN}",
            "__init__.py": "def value():\n    return 1\n",
            "one.py": "",
        },
        ("__init__.py", "return 1", "return 2"),
    ),
    "a module of a folder without __init__.py": (
        {
            "plugin.py": f"import probe.inner.one\n\nwork = lambda: probe.inner.one.f()\n\n{PLUGIN}",
            "inner/one.py": "def f():\n    return 1\n",
        },
        ("inner/one.py", "return 1", "return 2"),
    ),
    "what runs instead of code for type checkers": (
        {
            "plugin.py": "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    work = None\nelse:\n    "
            f"work = lambda: 1\n\n{PLUGIN}"
        },
        ("plugin.py", "lambda: 1", "lambda: 2"),
    ),
    "a type that an annotation names in quotes": (
        {"plugin.py": f'Kind = int\n\nclass Row:\n    value: "list[Kind]"\n\nwork = lambda: Row\n\n{PLUGIN}'},
        ("plugin.py", "Kind = int", "Kind = float"),
    ),
    "a docstring that is used as a text": (
        {"plugin.py": f'def prompt():\n    """Name it."""\n\nwork = lambda: prompt.__doc__\n\n{PLUGIN}'},
        ("plugin.py", "Name it", "Describe it"),
    ),
    "a function behind globals()": (
        {"plugin.py": f'def _one():\n    return 1\n\ndef work():\n    return globals()["_one"]()\n\n{PLUGIN}'},
        ("plugin.py", "return 1", "return 2"),
    ),
    "a function behind getattr of a module": (
        {
            "plugin.py": f'from . import helpers\n\nwork = lambda: getattr(helpers, "one")()\n\n{PLUGIN}',
            "helpers.py": "def one():\n    return 1\n",
        },
        ("helpers.py", "return 1", "return 2"),
    ),
    "a function that a package imports lazily": (
        {
            "plugin.py": f"from .helpers import work\n\n{PLUGIN}",
            "helpers/__init__.py": "def __getattr__(name):\n    from .parts import one\n    return one\n",
            "helpers/parts.py": "def one():\n    return 1\n",
        },
        ("helpers/parts.py", "return 1", "return 2"),
    ),
    "a package that hides a module of the same name": (
        {
            "plugin.py": f"from .helpers import work\n\n{PLUGIN}",
            "helpers.py": "work = None\n",
            "helpers/__init__.py": "def work():\n    return 1\n",
        },
        ("helpers/__init__.py", "return 1", "return 2"),
    ),
    "the base class of another package in place": (
        {"plugin.py": f"from beside import work\n\n{PLUGIN}", "../beside.py": "def work():\n    return 1\n"},
        ("../beside.py", "return 1", "return 2"),
    ),
}


@pytest.mark.parametrize("case", EDITS_WITH_EFFECT)
def test_edit_that_acts_by_way_of(site, case):
    files, (edited_file, old, new) = EDITS_WITH_EFFECT[case]
    files = {"__init__.py": "", **files}
    assert files[edited_file].count(old) == 1
    before = identity_of(site / "probe", files)
    assert identity_of(site / "probe", files) == before
    assert identity_of(site / "probe", {edited_file: files[edited_file].replace(old, new)}) != before


HELPERS = "def used():\n    return 1\n\ndef unused():\n    return 2\n"
USER = f"from . import helpers\n\ndef work():\n    return helpers.used()\n\n{PLUGIN}"

EDITS_WITHOUT_EFFECT = {
    "an unused function of a module": (USER, {"helpers.py": HELPERS}, ("helpers.py", "return 2", "return 3")),
    "a docstring in an empty file": (PLUGIN, {}, ("__init__.py", "", '"""A package."""\n')),
    "the order of imports": (
        f"def work():\n    import math\n    import os\n    return os, math\n\n{PLUGIN}",
        {},
        ("plugin.py", "import math\n    import os", "import os\n    import math"),
    ),
    "one import statement or two": (
        f"def work():\n    from math import ceil, floor\n    return ceil, floor\n\n{PLUGIN}",
        {},
        (
            "plugin.py",
            "from math import ceil, floor",
            "from math import ceil\n    from math import (\n        floor,\n    )",
        ),
    ),
    "the annotation of a local variable": (
        f"def work():\n    value = 1\n    return value\n\n{PLUGIN}",
        {},
        ("plugin.py", "value = 1", "value: float = 1"),
    ),
    "a declaration of a local variable": (
        f"def work():\n    value = 1\n    return value\n\n{PLUGIN}",
        {},
        ("plugin.py", "value = 1", "value: float\n    value = 1"),
    ),
    "imports for type checkers": (
        f"import typing\n\ndef work():\n    return 1\n\n{PLUGIN}",
        {"helpers.py": HELPERS},
        ("plugin.py", "import typing\n", "import typing\nif typing.TYPE_CHECKING:\n    from .helpers import unused\n"),
    ),
    "a future import": (PLUGIN, {}, ("plugin.py", "class", "from __future__ import annotations\n\nclass")),
    "quotes, line breaks and commas": (
        f"def work():\n    return dict(a='x', b='y')\n\n{PLUGIN}",
        {},
        ("plugin.py", "dict(a='x', b='y')", 'dict(\n        a="x",\n        b="" "y",\n    )'),
    ),
    "an unused decorated function": (
        f"from functools import cache\n\n@cache\ndef unused():\n    return 1\n\n{PLUGIN}",
        {},
        ("plugin.py", "return 1", "return 2"),
    ),
    "a needless pass": (f"def work():\n    return 1\n\n{PLUGIN}", {}, ("plugin.py", "return 1", "pass\n    return 1")),
}


@pytest.mark.parametrize("case", EDITS_WITHOUT_EFFECT)
def test_edit_that_does_not_act(site, case):
    plugin, others, (edited_file, old, new) = EDITS_WITHOUT_EFFECT[case]
    files = {"__init__.py": "", "plugin.py": plugin, **others}
    before = identity_of(site / "probe", files)
    assert identity_of(site / "probe", {edited_file: files[edited_file].replace(old, new, 1)}) == before


@pytest.mark.parametrize(
    ("parse", "render", "is_changed"),
    [("return 1", "return 0", False), ("return 1", "return self.parse()", True)],
)
def test_methods_that_are_left_out_count_if_the_others_call_them(site, parse, render, is_changed):
    base = f"class Base:\n    def parse(self):\n        {parse}\n    def render(self):\n        {render}\n"
    files = {"__init__.py": "from .plugin import Plugin\n", "base.py": base}
    files["plugin.py"] = "from .base import Base\n\nclass Plugin(Base):\n    pass\n"
    root = {"root": ("probe", "Plugin"), "without_methods": ("parse",)}
    before = identity_of(site / "probe", files, **root)
    now = identity_of(site / "probe", {"base.py": base.replace(parse, "return 2")}, **root)
    assert (now != before) == is_changed
    assert identity_of(site / "probe", {"base.py": base.replace("render", "draw")}, **root) != before


@pytest.mark.parametrize("with_list", [True, False])
def test_every_package_of_the_distribution_of_a_plugin_and_the_shipped_plugins_are_its_own(site, with_list):
    info = site / "probe_dist-1.dist-info"
    info.mkdir()
    # Some finders of distributions leave out files that do not exist.
    (site / "one").mkdir()
    for file in ("one/__init__.py", "two.py"):
        (site / file).touch()
    (info / "METADATA").write_text("Name: probe-dist\nVersion: 1\n")
    (info / "RECORD").write_text("" if with_list else "one/__init__.py,,\ntwo.py,,\nprobe_dist-1.dist-info/RECORD,,\n")
    if with_list:
        (info / "top_level.txt").write_text("one\ntwo\n")
    assert own_packages("one.plugin", distribution("probe-dist")) == {"one", "two", "plugins"}


def test_a_plugin_that_builds_on_a_shipped_one_has_its_code(site, monkeypatch):
    text = "from plugins.metric.summary import Rouge\n\nclass Plugin(Rouge):\n    pass\n"
    found = identity_of(site / "probe", {"plugin.py": text}, own_packages("probe.plugin", None))
    assert {"probe.plugin", "plugins.metric.summary", "rouge-score"} <= found.keys()


def test_the_version_of_a_package_that_only_a_plugin_uses_counts(site):
    info = site / "else_where-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: else-where\nVersion: 1.5\n")
    (info / "RECORD").write_text("elsewhere_code.py,,\n")
    (site / "elsewhere_code.py").write_text("def work():\n    return 1\n")
    code_identity_module._all_packages.cache_clear()
    code_identity_module._installed_distributions.cache_clear()
    text = f"import json\n\nimport pydantic\nimport yaml\nfrom elsewhere_code import work\n\n{PLUGIN}"
    found = identity_of(site / "probe", {"plugin.py": text.replace("work()", "work(json, yaml, pydantic)")})
    assert {name: value for name, value in found.items() if not name.startswith("probe")} == {"else-where": "1.5"}


def test_builds_of_torch_for_other_devices_have_the_same_identity(monkeypatch):
    versions = {"torch": "2.9.0+cu128", "own-package": "1.0+g0123abc"}
    monkeypatch.setattr(code_identity_module, "version", lambda name: versions.get(name, "1"))
    found = code_identity_module._package_versions(versions)
    assert found == {"torch": "2.9.0", "own-package": "1.0+g0123abc", "numpy": "1"}


def test_digest_is_the_same_in_all_versions_of_python():
    text = "def f(a: int = 1) -> int:\n    return f'{a!r:>2}' + g(*a, b=None)\n"
    [definition] = read_module_code(text, "package.module", is_package=False).definitions["f"]
    assert definition.digest[:16] == "ea1db7167aeeae3b"


@pytest.mark.parametrize("prefix", [b"\xef\xbb\xbf", b"# -*- coding: latin-1 -*-\n# \xe9\n"])
def test_a_module_is_read_as_python_reads_it(prefix):
    text = b"def f():\n    return 1\n"
    expected = read_module_code(text, "package.module", is_package=False)
    assert read_module_code(prefix + text.replace(b"\n", b"\r\n"), "package.module", is_package=False) == expected


def test_a_module_that_is_not_python_is_named(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken.py").write_text("def f(:\n")
    with pytest.raises(PluginError, match=r"broken\.py is not valid Python"):
        code_identity([("broken", "Plugin")], {"broken"})
