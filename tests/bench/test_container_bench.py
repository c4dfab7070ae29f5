"""What the bench of containers reads, without podman."""

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "bench"))
from container import CASES, nodes_and_memory, parse_arguments, try_case

STATUS = """\
======== Autoscaler status: 2026-12-01 22:00:00.000000 ========
Node status
---------------------------------------------------------------
Active:
{nodes}
Pending:
 (no pending nodes)
Recent failures:
 node_dead: terminated

Resources
---------------------------------------------------------------
Total Usage:
 0.0/2.0 CPU
 0B/{memory} memory
 0B/1.00GiB object_store_memory
"""


@given(st.integers(0, 20), st.floats(0.01, 4000))
def test_only_active_nodes_and_the_memory_of_workers_are_read(number, gib):
    nodes = "\n".join(f" 1 node_{place:032x}" for place in range(number))
    status = STATUS.format(nodes=nodes, memory=f"{gib:.2f}GiB")
    assert nodes_and_memory(status) == (number, float(f"{gib:.2f}"))


def test_memory_below_one_gib_is_in_mib():
    assert nodes_and_memory(STATUS.format(nodes=" 1 node_a", memory="512.00MiB")) == (1, 0.5)


def test_a_status_without_usage_has_no_memory():
    assert nodes_and_memory("Active:\n 1 node_a\nPending:\n") == (1, None)


def test_what_follows_two_dashes_goes_to_podman():
    options = parse_arguments(["--cases", "smoke", "ray", "--", "--network=host", "--", "x"])
    assert (options.cases, options.build_options) == (["smoke", "ray"], ["--network=host", "--", "x"])
    assert parse_arguments([]).cases == list(CASES)
    assert parse_arguments([]).build_options == []


@pytest.mark.parametrize("error", [RuntimeError("no room"), TimeoutError("no room")])
def test_a_failed_case_is_reported_and_its_containers_are_removed(error):
    class Containers:
        names: list[str] = ["head"]  # noqa: RUF012 one object is made

        def remove_containers(self):
            self.names.clear()

    def fail(podman):
        raise error

    containers = Containers()
    found = try_case(containers, fail)
    assert found["error"] == "no room"
    assert not containers.names
