"""The GPU benchmark on a CPU: all techniques give the same loss, and planned and measured memory are close."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent.parent / "bench"
IMPORT_WITHOUT_OTHERS = (
    "import sys; sys.modules.update(pydantic=None, accelerate=None, peft=None, ray=None, mlflow=None); import gpu"
)


def test_it_needs_only_torch_and_transformers():
    subprocess.run([sys.executable, "-c", IMPORT_WITHOUT_OTHERS], cwd=BENCH, check=True)


@pytest.mark.slow
def test_techniques_give_the_same_loss_within_the_planned_memory():
    command = [sys.executable, BENCH / "gpu.py", "--samples", "2", "--repeats", "1"]
    results = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert len({round(technique["loss"], 3) for technique in results["ways"].values()}) == 1
    for technique in results["ways"].values():
        assert technique["planned_over_peak"] == pytest.approx(1, abs=0.15)
    assert results["device"] == "cpu"
