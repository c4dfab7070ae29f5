"""The plan's main memory, and its comparison with compute.memory."""

import re

from hypothesis import given
from hypothesis import strategies as st

from runner.preflight.host_memory import LITTLE_MEMORY, PROCESS_BYTES, check_host_memory
from runner.records import HostMemory, Memory, TrainingEstimate, TrainingVariant
from runner.spec.experiment_spec import ComputeOptions

SIZES = st.integers(0, 10**12)


def estimate_of(host):
    variant = TrainingVariant("", "ddp", Memory("step", 1, 0, 0, 0, 0))
    return TrainingEstimate((variant,), 1e15, checkpoint=10, num_checkpoints=3, model=5, host=host)


@given(
    host=st.builds(HostMemory, SIZES, SIZES, SIZES, SIZES),
    workers=st.integers(1, 8),
    gpus=st.booleans(),
    mapped=st.sampled_from([0, 2, 4]),
)
def test_the_advised_memory_is_enough_and_no_gigabyte_too_much(host, workers, gpus, mapped):
    def check(memory):
        compute = ComputeOptions(workers=workers, gpus_per_worker=int(gpus), memory=memory)
        return check_host_memory(estimate_of(host), compute, 10**9, mapped)

    unlimited = check(None)
    assert unlimited["total"] == unlimited[unlimited["moment"]]
    assert unlimited["total"] == max(unlimited[name] for name in ("load", "training", "save"))
    assert unlimited["training"] == unlimited["processes"] + host.training + host.checkpoint
    assert unlimited["limit"] is None and unlimited["fits"] is None
    too_little = check("1GB")
    assert too_little["fits"] == (too_little["total"] <= workers * 10**9) == (not too_little["advice"])
    if unlimited["total"] > LITTLE_MEMORY:
        [advised] = re.findall(r"compute\.memory=(\d+GB)", unlimited["advice"])
        assert (check(advised)["fits"], check(advised)["advice"]) == (True, "")
        assert not check(f"{int(advised.removesuffix('GB')) - 1}GB")["fits"]
        if too_little["advice"]:
            assert too_little["advice"] == f"compute.memory=1GB reserves too little; set {advised}"
    else:
        assert unlimited["advice"] == ""


def test_workers_share_mapped_weights_and_copy_others():
    compute, estimate = ComputeOptions(workers=4), estimate_of(HostMemory(7, 0, 0, 0))
    shared, copied = (check_host_memory(estimate, compute, 10**9, mapped)["load"] for mapped in (2, 0))
    assert shared == 4 * PROCESS_BYTES + 2 * 10**9 + 7
    assert copied == 4 * PROCESS_BYTES + 4 * 4 * 10**9 + 7


def test_a_trainer_without_an_estimate_has_none():
    assert check_host_memory(estimate_of(None), ComputeOptions(), 10**9, 2) == {}
