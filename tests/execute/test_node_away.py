"""A trial waits for a node that is away for a while, and is refused only if no node that was seen could hold it."""

import pytest

from runner.errors import LostWorkerError, RequirementError
from runner.execute.ray import cluster_and_reservations, ray_executor
from runner.execute.ray.cluster_and_reservations import Node, ReservationPool
from runner.execute.ray.ray_executor import PlacedAttempt, RayExecutor
from runner.spec.experiment_spec import ComputeOptions
from runner.trial.run_trial import Outcome

TOTAL = {"CPU": 8.0, "GPU": 4.0, "accelerator_type:A100": 1.0}
BOTH = ComputeOptions(workers=8, gpus_per_worker=1, accelerator="A100")


@pytest.fixture
def nodes(monkeypatch):
    """The nodes that are alive, in a list that a test changes; Ray itself does not run."""
    alive = [Node(f"id-{name}", f"{name} (10.0.0.1)", TOTAL) for name in ("one", "two")]
    for module in (cluster_and_reservations, ray_executor):
        monkeypatch.setattr(module, "nodes", lambda: alive)
    monkeypatch.setattr(cluster_and_reservations, "NODES_CACHE_SECONDS", -1)
    free = lambda: {node.id: node.total for node in alive}  # noqa: E731
    monkeypatch.setattr(cluster_and_reservations, "available_resources_per_node", free)
    return alive


@pytest.fixture
def executor():
    """An executor without a connection to a cluster."""
    executor = RayExecutor.__new__(RayExecutor)
    executor._pool, executor._actors, executor._is_remote = ReservationPool(), {}, True
    return executor


def test_a_trial_waits_for_a_node_that_is_away_and_names_it(executor, nodes):
    executor.check_placeable(BOTH)
    lost = nodes.pop()
    executor.check_placeable(BOTH)
    assert executor._pool.reserve(executor._pool.request(BOTH, 8)) is None
    told = executor.describe_wait(BOTH)
    assert told.startswith(
        "4 GPUs and 8 CPUs (A100) on each of 2 nodes; free now: 4 GPUs, 8 CPUs, A100; nodes that are"
    )
    assert told.endswith("nodes that are away: two (10.0.0.1), away for 0 min")
    nodes.append(Node("new id", lost.name, {**TOTAL, "memory": 1.0}))
    assert "away" not in executor.describe_wait(BOTH)


def test_a_trial_that_no_node_could_ever_hold_is_refused_also_while_one_is_away(executor, nodes):
    executor.check_placeable(BOTH)
    nodes.pop()
    with pytest.raises(RequirementError, match="the cluster can hold 8 of them"):
        executor.check_placeable(BOTH.model_copy(update={"workers": 12}))


def test_a_node_that_the_launch_has_never_seen_is_not_waited_for(executor, nodes):
    nodes.pop()
    with pytest.raises(RequirementError, match=r"compute\.workers: 4 would fit"):
        executor.check_placeable(BOTH)


@pytest.fixture
def answer(executor, nodes, monkeypatch):
    """A function that sets what the node called two raises when it is asked for its software; the other one answers."""

    class Actor:
        def __init__(self, node):
            self.software_versions = self
            self.remote = lambda: node.id

    def set_answer(error):
        def get(request, timeout):
            if request == "id-two":
                raise error
            return ray_executor.software_versions()

        monkeypatch.setattr(ray_executor.ray, "get", get)

    monkeypatch.setattr(ray_executor, "_start_actor", lambda node, _: Actor(node))
    return set_answer


def test_a_node_that_leaves_again_before_it_has_answered_is_left_out(executor, answer):
    answer(ray_executor.RayActorError())
    executor._add_new_nodes()
    assert executor._actors.keys() == {"id-one"}


def test_a_node_that_stays_but_does_not_answer_is_named(executor, answer):
    answer(ray_executor.GetTimeoutError("Get timed out"))
    with pytest.raises(RequirementError, match=r"node two \(10\.0\.0\.1\) has not started a process"):
        executor._add_new_nodes()


class Attempt:
    """An attempt whose tasks Ray still waits for, as after the loss of power of a host."""

    def __init__(self, *node_ids, ended=None):
        self._node_ids, self._ended = set(node_ids), ended

    def outcome(self):
        return self._ended

    def nodes(self):
        return self._node_ids


def test_an_attempt_is_lost_as_soon_as_ray_knows_that_its_node_is_gone(executor, nodes):
    def outcome(*node_ids, ended=None):
        return PlacedAttempt(Attempt(*node_ids, ended=ended), executor._pool, None).outcome()

    assert outcome("id-one", "id-two") is None
    nodes.pop()
    lost = outcome("id-one", "id-two")
    assert isinstance(lost.error, LostWorkerError)
    assert str(lost.error) == "the node was lost: two (10.0.0.1)"
    assert outcome("id-one") is None
    ended = Outcome("finished")
    assert outcome("id-two", ended=ended) is ended
