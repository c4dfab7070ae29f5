"""Tests model types and prints a JSON line for each; writes the results that the product and the documentation use.

    python -m bench.model_matrix                  # every type of the installed transformers, about two minutes of CPU
    python -m bench.model_matrix gemma3 glm4v     # these types
    python -m bench.model_matrix --write          # every type; writes the results' file and the table of docs/models.md
    python -m bench.model_matrix --write gemma3   # tests this type, and replaces its result in both

The exit status is 1 if a type has another result than in the file.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
import transformers
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from bench.docs_table import write_between
from bench.model_matrix.checks import GENERAL_PLUGIN, check_type
from bench.model_matrix.recipes import EXPLANATIONS, NOTES, RECIPES, UNTRIED
from bench.model_matrix.table import TABLE, table
from plugins.model.tested_model_types import RESULTS_FILE, TypeResult, type_results

DOCS = Path(__file__).parents[2] / "docs" / "models.md"


def check_or_explain(model_type: str) -> TypeResult:
    """Test a type that has a recipe; otherwise say why it has none."""
    if model_type in UNTRIED:
        return TypeResult("not tried", GENERAL_PLUGIN, UNTRIED[model_type])
    if model_type in RECIPES:
        verdict = check_type(model_type, RECIPES[model_type])
        if verdict.result == "passes":
            return TypeResult("passes", verdict.plugin, NOTES.get(model_type, ""))
        explanation = EXPLANATIONS.get(model_type)
        return TypeResult(
            verdict.result, verdict.plugin, f"{explanation} ({verdict.check})" if explanation else verdict.detail
        )
    names = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type) or {}
    if "torchvision" in names and "pil" not in names:
        return TypeResult(
            "not tried", GENERAL_PLUGIN, "its image processor needs torchvision, which the project does not use"
        )
    return TypeResult("not tried", GENERAL_PLUGIN, "the test has no small model of this type")


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", help="model types; default: all")
    parser.add_argument("--write", action="store_true", help="write the results' file and the table of the docs")
    options = parser.parse_args()
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    recorded = json.loads(RESULTS_FILE.read_text(encoding="utf-8"))
    if options.types and options.write and not versions.items() <= recorded.items():
        parser.error("the file has results of other versions; test every type, without naming any")
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity(logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    results, changed = {}, False
    for name in options.types or sorted(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES):
        started = time.perf_counter()
        results[name] = check_or_explain(name)
        seconds = round(time.perf_counter() - started, 1)
        print(json.dumps({"type": name, **asdict(results[name]), "seconds": seconds}), flush=True)
        before = type_results().get(name)
        changed |= before is None or before.result != results[name].result
    if options.write:
        results = dict(sorted((dict(type_results()) | results).items())) if options.types else results
        content = {**versions, "types": {name: asdict(result) for name, result in results.items()}}
        RESULTS_FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        write_between(DOCS, TABLE, table(results, versions))
        return 0
    return int(changed)


if __name__ == "__main__":
    sys.exit(main())
