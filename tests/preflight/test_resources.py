"""What a machine lacks is said in a line; what fits is not complained of."""

import pytest

from runner.preflight.resources import Gpu, gpu_memory_problem, missing_requirements
from runner.spec.experiment_spec import ComputeOptions

A100 = Gpu("NVIDIA A100-SXM4-80GB", 85.9)
SMALL = Gpu("NVIDIA A100-PCIE-40GB", 42.9)
OTHER = Gpu("NVIDIA H100 80GB HBM3", 85.5)
PAPER = ComputeOptions(workers=4, gpus_per_worker=1, accelerator="A100", gpu_memory="80GB")


@pytest.mark.parametrize(
    ("gpus", "fits"),
    [([A100] * 4, True), ([A100] * 3, False), ([SMALL] * 8, False), ([OTHER] * 4, False), ([], False)],
)
def test_the_papers_run_fits_four_large_a100_and_nothing_else(gpus, fits):
    assert (missing_requirements(PAPER, gpus) == []) == fits


def test_missing_gpus_are_listed_in_one_line():
    [line] = missing_requirements(PAPER, [SMALL])
    assert "4 GPU(s) of type A100 with 80GB" in line
    assert "A100-PCIE-40GB (43 GB)" in line
    assert "\n" not in line


def test_no_gpu_is_needed_for_a_cpu_run():
    assert missing_requirements(ComputeOptions(), []) == []


@pytest.mark.parametrize(
    ("given", "told"), [([0], None), ([1], "PCIE-40GB (43 GB)"), (["GPU-1f"], None), ([], None), ([7], None)]
)
def test_a_gpu_that_is_too_small_is_reported(given, told):
    lacking = gpu_memory_problem(PAPER, [A100, SMALL], given)
    assert lacking is None if told is None else told in lacking


@pytest.mark.parametrize(("workers", "gpus"), [(1, 0.5), (1, 1), (1, 2), (4, 0), (4, 1)])
def test_a_worker_has_whole_gpus_and_a_lone_one_a_share_of_one(workers, gpus):
    assert ComputeOptions(workers=workers, gpus_per_worker=gpus).gpus_per_worker == gpus


@pytest.mark.parametrize(("workers", "gpus", "instead"), [(2, 0.5, "such as 1"), (1, 1.5, "such as 2")])
def test_a_share_of_a_gpu_that_nothing_could_be_placed_on_is_refused(workers, gpus, instead):
    with pytest.raises(ValueError, match=instead):
        ComputeOptions(workers=workers, gpus_per_worker=gpus)
