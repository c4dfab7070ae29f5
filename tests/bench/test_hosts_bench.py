"""A trial with two workers on two hosts with a network between them, whose cable is out for a while."""

import re
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "bench"))
from launches_on_hosts import HEAD, LAPTOP, OTHER_ADDRESS, Bench, RayOnHosts, run_undisturbed
from network_hosts import NetworkHosts, lacking
from ray_on_hosts import HEAD_PORTS, NODE_PORTS


@pytest.fixture
def namespaces():
    if reason := lacking():
        pytest.skip(reason)


def test_the_hosts_open_the_ports_that_the_documentation_lists():
    rows = [line for line in (ROOT / "docs" / "clusters.md").read_text().splitlines() if line.startswith("| ")]
    listed = {option for row in rows for option in re.findall(r"`(--[a-z-]+-port|--port)`", row)}
    assert listed == {*HEAD_PORTS, *NODE_PORTS}


@pytest.mark.slow
@pytest.mark.usefixtures("namespaces")
def test_faults_of_the_network_do_what_they_say():
    hosts = NetworkHosts(["near", "far"])
    try:
        listen = (
            "import socket; s = socket.create_server(('', 7000)); print('ready', flush=True)\nwhile True: s.accept()"
        )
        hosts.start("far", "python", "-c", listen, log="listen.out")
        while not (hosts.folder / "far" / "listen.out").read_text():
            time.sleep(0.05)
        connect = "import socket, time; t = time.time(); socket.create_connection(('far', 7000), timeout=2); "

        def seconds():
            done = hosts.run("near", "python", "-c", connect + "print(time.time() - t)", check=False)
            return float(done.stdout) if done.returncode == 0 else None

        assert seconds() is not None
        hosts.set_delay("far", 50)
        assert seconds() >= 0.1
        hosts.set_delay("far", 0)
        hosts.set_loss("far", 99)
        assert seconds() is None
        hosts.set_loss("far", 0)
        hosts.cut("far")
        assert seconds() is None
        hosts.mend("far")
        hosts.open_only("far", [6379])
        assert seconds() is None
        assert hosts.rejected_ports("far") == [7000]
        hosts.open_only("far", ["6999-7001"])
        assert seconds() is not None
        assert hosts.rejected_ports("far") == []
    finally:
        hosts.close()
    assert not hosts.folder.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("namespaces")
def test_two_hosts_end_as_one_does_though_a_cable_was_out_and_the_laptop_moved():
    """With Debian's /etc/hosts, a firewall, a token and a detached launch."""
    cluster = RayOnHosts(("node1", "node2"))
    try:
        bench = Bench(cluster, epochs=2, has_server=False)
        alone = run_undisturbed(bench, "rack")
        cluster.run(LAPTOP, *bench.command("two hosts", "--detach", "--address", cluster.dashboard))
        cluster.set_address(LAPTOP, OTHER_ADDRESS)
        cluster.wait_until(lambda: bench.num_steps("two hosts") > 0, "no step", 300)
        node = bench.node("two hosts")
        cluster.cut(node)
        time.sleep(3)
        cluster.mend(node)
        bench.wait_for_job("two hosts", cluster.dashboard)
        assert bench.results("two hosts") == bench.results(alone)
        assert [cluster.rejected_ports(name) for name in (HEAD, "node1", "node2")] == [[], [], []]
    finally:
        cluster.close()
