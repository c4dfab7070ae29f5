import subprocess
import sys
from importlib.metadata import entry_points

LIGHT = {
    "annotated_types",
    "cython_runtime",  # of yaml's C extension
    "defusedxml",
    "plugins",
    "pydantic",
    "pydantic_core",
    "runner",
    "typing_extensions",
    "typing_inspection",
    "yaml",
}

CODE = """
import importlib, sys
before = set(sys.modules)
for module in sys.argv[1:]:
    importlib.import_module(module)
loaded = {name.partition(".")[0] for name in sys.modules.keys() - before} - sys.stdlib_module_names
print(*(name for name in loaded if not name.startswith("_")))
"""


def test_options_load_light_packages_alone():
    entries = [
        entry
        for group in entry_points().groups
        if group.startswith("runner.") and group.endswith(".options")
        for entry in entry_points(group=group)
        if entry.module.startswith("plugins.")
    ]
    assert {"pfa", "rouge", "bleu", "ner_f1", "image_entity_accuracy", "mlflow"} <= {entry.name for entry in entries}
    command = [sys.executable, "-c", CODE, *(entry.module for entry in entries)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= LIGHT
