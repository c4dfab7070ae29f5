"""Failures of a step are told apart by their cause: what a launch may retry, and what it may not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import LostConnectionError, LostWorkerError, OutOfMemoryError, StepError, step_error_class

NCCL = (
    "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:77, unhandled cuda error (run with "
    "NCCL_DEBUG=INFO for details), NCCL version 2.29.7\nncclUnhandledCudaError: Call to CUDA function failed.\nLast "
    "error:\n"
)
CLOSED = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234"


def named(name, message):
    """An exception whose class has the name of one of torch's."""
    return type(name, (RuntimeError,), {})(message)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), OutOfMemoryError),
        (named("OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB"), OutOfMemoryError),
        (named("AcceleratorError", "CUDA error: out of memory\nSearch for `cudaErrorMemoryAlloc"), OutOfMemoryError),
        (RuntimeError("CUDA driver error: out of memory"), OutOfMemoryError),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), OutOfMemoryError),
        (named("DistBackendError", f"{NCCL}Cuda failure 2 'out of memory'"), OutOfMemoryError),
        (named("DistBackendError", f"{NCCL}Failed to CUDA calloc 6291456 bytes"), OutOfMemoryError),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"), OutOfMemoryError),
        (named("DistBackendError", f"{NCCL}Cuda failure 700 'illegal memory access'"), LostConnectionError),
        (named("DistStoreError", "wait timeout after 60000ms, keys: /default_pg/0//cuda//0"), LostConnectionError),
        (named("DistNetworkError", "The client socket has timed out after 60000ms"), LostConnectionError),
        (RuntimeError(CLOSED), LostConnectionError),
        (RuntimeError("NCCL communicator was aborted on rank 1."), LostConnectionError),
        (named("AcceleratorError", "CUDA error: uncorrectable ECC error encountered\nCUDA kernel"), LostWorkerError),
        (named("AcceleratorError", "CUDA error: unspecified launch failure"), LostWorkerError),
        (named("AcceleratorError", "CUDA error: an illegal memory access was encountered"), LostWorkerError),
        (named("AcceleratorError", "CUDA error: device-side assert triggered"), StepError),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device"), StepError),
        (ZeroDivisionError("division by zero"), StepError),
    ],
)
def test_a_failure_has_the_class_of_its_cause(error, expected):
    assert step_error_class(error) is expected


def test_torchs_own_errors_have_the_names_that_are_recognised():
    import torch
    from torch import distributed

    for error in (distributed.DistBackendError, distributed.DistNetworkError, distributed.DistStoreError):
        assert step_error_class(error("lost")) is LostConnectionError
    assert step_error_class(torch.OutOfMemoryError("")) is OutOfMemoryError
    assert issubclass(torch.AcceleratorError, RuntimeError)


@given(st.text(), st.text(), st.sampled_from([CLOSED, "CUDA error: hardware stack error"]))
def test_a_cause_is_found_anywhere_in_a_message(before, after, cause):
    assert issubclass(step_error_class(RuntimeError(f"{before} {cause} {after}")), LostWorkerError)
    assert step_error_class(KeyError(before)) is StepError
