"""What a worker sees: the GPUs of its trial on its node, or none, and the network by which it reaches the others."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest

from runner.errors import LostWorkerError
from runner.execute.ray import node_worker
from runner.execute.ray.node_worker import NodeActor, WorkerTask
from runner.spec.experiment_spec import ComputeOptions
from runner.trial.run_trial import Outcome


@pytest.fixture
def node(monkeypatch):
    """A node's actor without Ray: each of its methods has a function `remote` that returns the result itself."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(node_worker.ray, "get", lambda result: result)
    monkeypatch.setattr(node_worker, "local_gpus", list)
    actor = NodeActor.__ray_metadata__.modified_class(None)
    return SimpleNamespace(
        register_gpus=SimpleNamespace(remote=actor.register_gpus),
        fork_server=SimpleNamespace(remote=lambda *_, **__: "address"),
        num_groups=lambda: len(actor._gpu_groups),
    )


def make_task(local_rank, local_world_size, group_id="group"):
    compute = ComputeOptions().model_dump(mode="json")
    return WorkerTask("plan", "folder", ["train"], [], 1, compute, (), {}, group_id, local_rank, local_world_size)


def test_workers_of_a_node_wait_for_each_other_and_see_the_same_gpus(node):
    gpus = {0: [4, 3], 1: [10], 2: [0]}

    def work(local_rank):
        own = [str(gpu) for gpu in gpus[local_rank]]
        return node_worker._gpus_of_trial(node, make_task(local_rank, 3), own)

    with ThreadPoolExecutor() as threads:
        assert list(threads.map(work, gpus)) == [["0", "3", "4", "10"]] * 3


@pytest.mark.parametrize(("own", "visible"), [([2], "2"), ([], ""), (["GPU-1f"], "GPU-1f")])
def test_a_worker_sees_its_gpus_and_none_where_the_spec_asks_for_none(node, monkeypatch, own, visible):
    requests = []
    monkeypatch.setattr(node_worker.ray, "get_gpu_ids", lambda: own)
    # Ray leaves this variable as it is for a worker without GPUs.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    monkeypatch.setattr(node_worker, "run_in_fork", lambda _, request: requests.append(request) or Outcome("finished"))
    assert node_worker._run_worker(node, make_task(0, 1)) == Outcome("finished")
    assert requests[0].environment == {"CUDA_VISIBLE_DEVICES": visible}


def test_a_worker_that_waits_for_another_one_in_vain_counts_as_lost(node, monkeypatch):
    monkeypatch.setattr(node_worker.ray, "get_gpu_ids", lambda: [1])
    monkeypatch.setattr(node_worker, "GPUS_SECONDS", 0.1)
    outcome = node_worker._run_worker(node, make_task(1, 2))
    assert isinstance(outcome.error, LostWorkerError)
    assert "the 2 workers of the trial on " in str(outcome.error)


def test_a_node_remembers_a_bounded_number_of_groups(node):
    for number in range(node_worker.MAX_STARTING_TRIALS + 5):
        node.register_gpus.remote(str(number), 0, 1, ["0"])
    assert node.num_groups() == node_worker.MAX_STARTING_TRIALS


def test_gloo_listens_where_other_nodes_reach_this_one(monkeypatch):
    """Debian's /etc/hosts gives the host's own name an address of the loopback interface."""
    interfaces = {"lo": ["127.0.0.1", "127.0.1.1", "::1"], "eth0": ["10.0.0.7"], "eth1": ["10.1.0.7", "fe80::1%eth1"]}
    found = {name: [SimpleNamespace(address=each) for each in addresses] for name, addresses in interfaces.items()}
    monkeypatch.setattr(node_worker.psutil, "net_if_addrs", lambda: found)
    monkeypatch.setattr(node_worker.ray.util, "get_node_ip_address", lambda: "10.1.0.7")
    group = {"RANK": "1", "MASTER_ADDR": "10.1.0.8"}
    assert node_worker.gloo_interface(group, {}) == {"GLOO_SOCKET_IFNAME": "eth1"}
    assert node_worker.gloo_interface(group, {"GLOO_SOCKET_IFNAME": "ib0"}) == {}
    assert node_worker.gloo_interface({}, {}) == {}
    monkeypatch.setattr(node_worker.ray.util, "get_node_ip_address", lambda: "192.0.2.1")
    assert node_worker.gloo_interface(group, {}) == {}


def test_workers_of_one_node_keep_the_loopback_interface(node, monkeypatch):
    requests = []
    monkeypatch.setattr(node_worker.ray, "get_gpu_ids", list)
    monkeypatch.setattr(node_worker, "gloo_interface", lambda *_: {"GLOO_SOCKET_IFNAME": "eth0"})
    monkeypatch.setattr(node_worker, "run_in_fork", lambda _, request: requests.append(request) or Outcome("finished"))
    for group in ({"GLOO_SOCKET_IFNAME": "lo"}, {"RANK": "0"}):
        node_worker._run_worker(node, replace(make_task(0, 1), group=group))
    assert [request.environment["GLOO_SOCKET_IFNAME"] for request in requests] == ["lo", "eth0"]
