"""Where trials go: what fits is found, what never can is refused, and both are said in numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import RequirementError
from runner.execute.ray.placement import describe_shortage, plan_placement, worker_capacity, worker_resources
from runner.spec.experiment_spec import ComputeOptions

NODE = {"CPU": 8.0, "GPU": 4.0, "accelerator_type:A100": 1.0, "memory": 1e10}
HEAD = {"CPU": 0.0, "memory": 1e10}


def compute(**options):
    return ComputeOptions(**{"gpus_per_worker": 1, "accelerator": "A100", **options})


def test_four_gpus_lie_on_one_node_and_eight_on_two():
    assert plan_placement(compute(), [NODE] * 3, 4).workers_per_bundle == (4,)
    assert plan_placement(compute(), [NODE] * 3, 8).workers_per_bundle == (4, 4)
    assert plan_placement(compute(), [NODE] * 3, 6).workers_per_bundle == (4, 2)
    assert plan_placement(compute(), [NODE, {**NODE, "GPU": 8.0, "CPU": 16.0}], 8).workers_per_bundle == (8,)


def test_a_trial_waits_for_a_whole_node_or_uses_any_nodes():
    half = [{**NODE, "GPU": 2.0}] * 2
    waits = plan_placement(compute(workers=4), [NODE] * 2, 4)
    assert not waits.fits(half)
    assert describe_shortage(waits, half) == "4 GPUs and 8 CPUs (A100) on one node; free now: 2 × 2 GPUs, 8 CPUs, A100"
    assert plan_placement(compute(workers=4, placement="any"), [NODE] * 2, 4).fits(half)


def test_a_trial_across_nodes_is_described_by_node():
    told = describe_shortage(plan_placement(compute(workers=8), [NODE] * 3, 8), [])
    assert told == "4 GPUs and 8 CPUs (A100) on each of 2 nodes; free now: no node"


def test_workers_are_placed_where_their_main_memory_is_free():
    request = plan_placement(compute(memory="5GB", workers=4), [NODE] * 2, 4)
    assert request.workers_per_bundle == (2, 2)
    assert request.bundles()[0]["memory"] == 1e10
    assert not request.fits([NODE, {**NODE, "memory": 9e9}])
    assert request.fits([NODE, NODE])
    told = describe_shortage(request, [{**NODE, "memory": 9e9}])
    assert told.startswith("2 GPUs and 4 CPUs and 10 GB of memory (A100) on each of 2 nodes; free now: ")
    assert told.endswith("4 GPUs, 8 CPUs, 9 GB of memory, A100")
    with pytest.raises(RequirementError, match=r"no node has enough memory; request less per worker"):
        plan_placement(compute(memory="11GB"), [NODE], 1)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (
            {"workers": 16},
            "the trial needs 16 workers of 1 GPU and 2 CPUs (A100), 16 GPUs and 32 CPUs (A100) in total, but the "
            "cluster can hold 12 of them. Its nodes: 3 × 4 GPUs, 8 CPUs, A100; compute.workers: 12 would fit",
        ),
        ({"accelerator": "H100"}, "no node has enough H100"),
        ({"gpus_per_worker": 8}, "no node has enough GPU"),
        ({"cpus_per_worker": 9}, "no node has enough CPU"),
    ],
)
def test_a_trial_that_can_never_be_placed_is_refused_with_what_would_fit(asked, told):
    with pytest.raises(RequirementError) as refused:
        plan_placement(compute(**asked), [NODE] * 3, asked.get("workers", 1))
    assert told in str(refused.value)


def test_cores_are_divided_among_gpus_or_among_the_workers_of_one_trial():
    assert worker_resources(compute(), [HEAD, NODE])["CPU"] == 2
    assert worker_resources(compute(gpus_per_worker=0.5), [NODE])["CPU"] == 1
    assert worker_resources(ComputeOptions(workers=2), [HEAD, {"CPU": 8.0}])["CPU"] == 4
    assert worker_resources(ComputeOptions(workers=5), [{"CPU": 2.0}])["CPU"] == 1
    assert worker_resources(compute(cpus_per_worker=3), [NODE])["CPU"] == 3


nodes = st.lists(
    st.builds(lambda g, c: {**NODE, "GPU": float(g), "CPU": float(c)}, st.integers(0, 8), st.integers(1, 16))
)


@given(nodes, st.integers(1, 20), st.sampled_from(["node", "any"]))
def test_a_request_holds_all_workers_and_fits_the_empty_cluster(cluster, workers, pack):
    options = compute(workers=workers, placement=pack, cpus_per_worker=1)
    places = sorted((worker_capacity(node, worker_resources(options, cluster)) for node in cluster), reverse=True)
    if sum(places) < workers:
        with pytest.raises(RequirementError):
            plan_placement(options, cluster, workers)
        return
    made = plan_placement(options, cluster, workers)
    assert sum(made.workers_per_bundle) == workers
    assert made.fits(cluster)
    if pack == "node":
        assert sum(places[: len(made.workers_per_bundle) - 1]) < workers  # no fewer nodes hold it
    taken = sum(bundle["GPU"] for bundle in made.bundles())
    assert taken == pytest.approx(workers)
