"""Where trials go: what fits is found, what never can is refused, and both are said in numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import RequirementError
from runner.execute.ray.placement import (
    NodeHistory,
    describe_shortage,
    plan_placement,
    sort_gpu_ids,
    worker_capacity,
    worker_places,
    worker_resources,
)
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


@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from("abc")), min_size=1, max_size=6))
def test_workers_of_a_node_follow_each_other_and_are_numbered_from_zero(bundles):
    sizes, nodes = [size for size, _ in bundles], [node for _, node in bundles]
    places = worker_places(sizes, nodes)
    assert [place.rank for place in places] == list(range(sum(sizes)))
    assert places[0].node == nodes[0]
    assert [sum(place.bundle == bundle for place in places) for bundle in range(len(sizes))] == sizes
    assert all(place.node == nodes[place.bundle] for place in places)
    for node in set(nodes):
        here = [place for place in places if place.node == node]
        assert [place.local_rank for place in here] == list(range(len(here)))
        assert {place.local_world_size for place in here} == {len(here)}
        assert here[-1].rank - here[0].rank == len(here) - 1


@given(st.permutations(range(12)))
def test_gpus_have_the_order_of_their_node(shuffled):
    in_order = [str(index) for index in range(12)]
    assert sort_gpu_ids(map(str, shuffled), None) == in_order
    names = [f"GPU-{index * 7 % 12:x}" for index in range(12)]
    assert sort_gpu_ids([names[index] for index in shuffled], ",".join(names)) == names
    assert sort_gpu_ids(names[:3] * 2, None) == sorted(names[:3])


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=5), min_size=1, max_size=6))
def test_nodes_that_are_away_and_alive_are_together_the_most_that_were_alive_at_once(snapshots):
    history = NodeHistory()
    for now, names in enumerate(snapshots):
        history.update([(name, {**NODE, "memory": now}) for name in names], now)
    most = {name: max(names.count(name) for names in snapshots) for name in "abc"}
    assert len(history.away()) + len(snapshots[-1]) == sum(most.values())
    assert all(node.keys() == {"CPU", "GPU", "accelerator_type:A100"} for node in history.away())
    assert bool(history.describe(now)) == bool(history.away())


def test_nodes_that_are_away_are_named_with_the_time():
    history = NodeHistory()
    history.update([("one", NODE), ("two", NODE), ("two", NODE)], 0)
    history.update([("two", NODE)], 60)
    history.update([("two", {**NODE, "memory": 5})], 120)
    assert history.describe(240) == "one, away for 3 min; two, away for 3 min"
    history.update([], 240)
    assert history.describe(360) == "one, away for 5 min; 2 × two, away for 5 min"
    history.update([("one", NODE), ("two", NODE), ("two", NODE)], 400)
    assert history.describe(400) == ""
