"""What a machine lacks is said in a line; what fits is not complained of."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import LostWorkerError, RequirementError
from runner.preflight.resources import Gpu, check_torch_gpus, gpu_memory_problem, is_named, missing_requirements
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
    ("driver", "accelerator"),
    [
        ("NVIDIA GeForce RTX 4090", "GeForce-RTX-4090"),
        ("NVIDIA GeForce RTX 3080 Ti", "GeForce-RTX-3080-Ti"),
        ("NVIDIA RTX A6000", "RTX-A6000"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX-PRO-6000"),
        ("Quadro RTX 8000", "RTX-8000"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
    ],
)
def test_a_card_has_the_name_that_ray_gives_it(driver, accelerator):
    from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager as Manager

    assert Manager._gpu_name_to_accelerator_type(driver) == accelerator
    compute = ComputeOptions(gpus_per_worker=1, accelerator=accelerator)
    assert missing_requirements(compute, [Gpu(driver, 26)]) == []
    assert missing_requirements(compute, [Gpu("NVIDIA GeForce RTX 4070", 12)])


@given(
    st.sampled_from(["NVIDIA", "Tesla", "Quadro"]),
    st.lists(st.from_regex(r"[A-Z][A-Za-z0-9]{0,5}|[0-9]{1,4}[A-Z]{0,2}", fullmatch=True), min_size=1, max_size=4),
)
def test_a_name_from_ray_is_accepted_and_a_part_of_a_word_is_not(maker, words):
    from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager as Manager

    gpu = Gpu(" ".join([maker, *words]), 26)
    named = Manager._gpu_name_to_accelerator_type(gpu.name)
    # Ray cuts a word such as `H100a` at its small letter; no card is called so.
    if set(named.split("-")) <= {maker, *words}:
        assert is_named(gpu, named)
    assert not is_named(gpu, f"{words[-1]}000000")
    assert not is_named(gpu, "-")


@pytest.mark.parametrize(
    ("gpu_ids", "told"), [([0], None), ([1], "PCIE-40GB (43 GB)"), (["GPU-1f"], None), ([], None), ([7], None)]
)
def test_a_gpu_that_is_too_small_is_reported(gpu_ids, told):
    lacking = gpu_memory_problem(PAPER, [A100, SMALL], gpu_ids)
    assert lacking is None if told is None else told in lacking


def fake_torch(num_gpus, cuda="13.0"):
    return SimpleNamespace(
        __version__="2.13.0",
        version=SimpleNamespace(cuda=cuda, hip=None),
        cuda=SimpleNamespace(is_available=lambda: num_gpus > 0, device_count=lambda: num_gpus),
    )


@pytest.mark.parametrize(
    ("torch", "error", "told"),
    [
        (
            fake_torch(0, cuda=None),
            RequirementError,
            "torch 2.13.0 on .* is a build for CPUs; install a build for CUDA",
        ),
        (fake_torch(0), RequirementError, "a build for CUDA 13.0, sees no GPU on .*nvidia-smi"),
        (fake_torch(3), LostWorkerError, "torch sees 3 of the 4 GPUs"),
    ],
)
def test_a_worker_whose_torch_cannot_use_its_gpus_is_refused(torch, error, told):
    with pytest.raises(error, match=told):
        check_torch_gpus(torch, 4, {})
    check_torch_gpus(torch, 4, {"RUNNER_FAKE_GPUS": "1"})
    check_torch_gpus(torch, 0, {})


def test_a_worker_that_uses_its_gpus_or_no_torch_is_accepted():
    check_torch_gpus(fake_torch(4), 4, {})
    check_torch_gpus(None, 4, {})


@pytest.mark.parametrize(("workers", "gpus"), [(1, 0.5), (1, 1), (1, 2), (4, 0), (4, 1)])
def test_a_worker_has_whole_gpus_and_a_lone_one_a_share_of_one(workers, gpus):
    assert ComputeOptions(workers=workers, gpus_per_worker=gpus).gpus_per_worker == gpus


@pytest.mark.parametrize(("workers", "gpus", "instead"), [(2, 0.5, "such as 1"), (1, 1.5, "such as 2")])
def test_a_share_of_a_gpu_that_nothing_could_be_placed_on_is_refused(workers, gpus, instead):
    with pytest.raises(ValueError, match=instead):
        ComputeOptions(workers=workers, gpus_per_worker=gpus)
