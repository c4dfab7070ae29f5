"""A plugin that cannot be imported or that raises is named; the commands that do not use it work."""

import itertools
import json

import pytest

NUMBERS = itertools.count()
"""Each test has a package of its own, because imported modules stay in this process."""
OPTIONS = """\
from runner.stages import Options
class FineOptions(Options):
    '''Options of a data set.'''
    path: str = ""
    '''A path.'''
"""
MODULES = {
    "missing": "import a_module_that_does_not_exist",
    "raising": "raise RuntimeError('no licence')",
    "exiting": "raise SystemExit(3)",
    "syntax": "def",
    "strange": OPTIONS
    + "from typing import Any\nclass FineOptions(Options):\n    '''x'''\n    call: type(len) = len\n    '''x'''\n",
    "other": "FineOptions = 3",
}


@pytest.fixture
def install(workplace):
    """Install a data plugin `broken` whose options are in a module with the given text."""

    def install(text, *groups, implementation=""):
        folder, package = workplace.folder / "site", f"broken_{next(NUMBERS)}"
        info = folder / f"{package}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        names = {"runner.data.options": "options:FineOptions", "runner.data": "data:FineData"}
        entries = [f"[{group}]\nbroken = {package}.{names[group]}\n" for group in groups or names]
        (info / "entry_points.txt").write_text("".join(entries))
        (folder / package).mkdir()
        (folder / package / "__init__.py").touch()
        (folder / package / "options.py").write_text(text)
        (folder / package / "data.py").write_text(implementation)
        workplace.environment["PYTHONPATH"] = str(folder)
        return f"data plugin 'broken' ({package} 1.0)"

    return install


@pytest.mark.parametrize("kind", MODULES)
def test_plugins_and_init_work_beside_a_plugin_that_cannot_be_imported(workplace, install, kind):
    label = install(MODULES[kind])
    listed = workplace.run("plugins", "--json")
    assert listed.returncode == 0, listed.stderr
    rows = {(row["stage"], row["name"]): row for row in json.loads(listed.stdout)}
    broken = rows["data", "broken"]
    assert broken["options_schema"] is None
    assert label in broken["error"]
    assert broken["error"] in listed.stderr
    assert rows["data", "mmre"]["options_schema"]
    written = workplace.run("init", "mine")
    assert written.returncode == 0, written.stderr
    assert label in written.stderr
    assert (workplace.folder / "mine.yaml").exists()


@pytest.mark.parametrize("group", ["runner.data.options", "runner.data"])
def test_a_plugin_with_one_entry_point_is_named_and_does_not_hide_the_others(workplace, install, group):
    install(OPTIONS, group)
    listed = workplace.run("plugins")
    assert listed.returncode == 0
    assert "warning: data plugin 'broken' has no entry point in the group" in listed.stderr
    assert "mmre" in listed.stdout


SPEC = """\
name: broken
data: {type: broken}
adapter: {type: pfa, tasks: [ner]}
model: none
trainer: none
generator: {type: constant}
metrics: [{type: ner_f1}]
tracker: {type: mlflow}
"""
DATA = "class FineData:\n    def __init__(self, options): pass\n    def load(self, split): return ()\n"
PREPARE = "    def prepare(self, reporter): raise RuntimeError('no answer')\n"
CHECKED = (
    OPTIONS
    + """\
    def model_post_init(self, context):
        raise RuntimeError('not today')
"""
)


@pytest.mark.parametrize(
    ("options", "implementation", "status", "expected"),
    [
        (
            MODULES["raising"],
            "",
            2,
            "broken.yaml:2:8: data.type: {label}: {package}.options:FineOptions cannot be imported",
        ),
        (CHECKED, "", 2, "broken.yaml:2:1: data: {label}: its check of the options raised RuntimeError: not today"),
        (OPTIONS, "raise OSError('no device')", 2, "{label}: {package}.data:FineData cannot be imported: OSError"),
        (OPTIONS, DATA + PREPARE, 1, "{label} raised RuntimeError: no answer"),
        (
            OPTIONS,
            DATA.replace("self, options", "self") + PREPARE,
            2,
            "{label}: {package}.data:FineData cannot be created",
        ),
    ],
)
def test_a_plugin_that_raises_is_named(workplace, install, options, implementation, status, expected):
    label = install(options, implementation=implementation)
    (workplace.folder / "broken.yaml").write_text(SPEC)
    planned = workplace.run("plan", "broken.yaml")
    package = label.partition("(")[2].partition(" ")[0]
    assert expected.format(label=label, package=package) in planned.stderr
    assert planned.returncode == status
    assert "Traceback" not in planned.stderr


def test_a_step_names_the_plugin_that_raised(workplace, install):
    prepare = """\
    def prepare(self, reporter):
        from runner.stages import DatasetInfo
        return DatasetInfo("x", "", "f" * 64, ("person",), {"train": 0, "test": 1})
"""
    failing = DATA.replace("return ()", "raise RuntimeError('no samples')") + prepare
    label = install(OPTIONS, implementation=failing)
    (workplace.folder / "broken.yaml").write_text(SPEC)
    launched = workplace.run("launch", "broken.yaml", "--local")
    assert launched.returncode == 1
    assert f"{label} raised RuntimeError: no samples" in launched.stderr
    assert "internal error" not in launched.stderr
