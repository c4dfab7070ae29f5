"""A Ray cluster on hosts with a network between them, started as docs/clusters.md says, with every port set."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from network_hosts import FREE_PORTS, NetworkHosts

HEAD_PORTS = {"--port": 6379, "--dashboard-port": 8265}
NODE_PORTS = {
    "--node-manager-port": 6380,
    "--object-manager-port": 6381,
    "--dashboard-agent-listen-port": 52365,
    "--dashboard-agent-grpc-port": 52366,
    "--runtime-env-agent-port": 52367,
    "--metrics-export-port": 52368,
    "--min-worker-port": 10002,
    "--max-worker-port": 10100,
}
"""Options of `ray start` and the ports that they are given here, as docs/clusters.md lists them."""

HEAD, LAPTOP, SERVER = "head", "laptop", "server"
NODES = ("node1", "node2", "node3")
TOKEN = ".ray/auth_token"
LOG = "ray.log"
START_SECONDS = 300.0


class RayOnHosts(NetworkHosts):
    """A head without cores, nodes with one core each, a laptop without Ray, and a host for servers."""

    def __init__(self, nodes: tuple[str, ...] = NODES) -> None:
        """Switch the hosts on, and start Ray on the head and on the nodes."""
        super().__init__([HEAD, *nodes, LAPTOP, SERVER])
        self.nodes = nodes
        self.environment |= {
            "RAY_AUTH_MODE": "token",
            # Processes that wait for work are no part of the test, and this machine is small.
            "RAY_prestart_worker_first_driver": "0",
            "RAY_worker_niceness": "0",
        }
        token = secrets.token_hex(32)
        for name in (HEAD, *nodes, LAPTOP):
            file = self.folder / name / TOKEN
            file.parent.mkdir(mode=0o700)
            file.touch(mode=0o600)
            file.write_text(token, encoding="utf-8")
        try:
            self._start_cluster()
        except BaseException:
            self.close()
            raise

    def restart(self) -> None:
        """Switch the head and the nodes off and on, with the environment that `environment` now is."""
        for name in (HEAD, *self.nodes):
            self.power_off(name)
            self.power_on(name)
            (self.folder / name / LOG).unlink()
        self._start_cluster()

    def _start_cluster(self) -> None:
        # One after the other: Ray gives up where it does not start within half a minute.
        for name in (HEAD, *self.nodes):
            self.start_ray(name)
            self.wait_until(lambda name=name: self.has_ray(name), f"Ray does not start on {name}", START_SECONDS)

    def start_ray(self, name: str) -> None:
        """Start Ray on a host, and again whenever it has ended, as a service of the system would."""
        self.close_ports(name)
        options = {**(HEAD_PORTS if name == HEAD else {}), **NODE_PORTS}
        start = "ray start --block --disable-usage-stats --object-store-memory=80000000 "
        start += " ".join(f"{option}={port}" for option, port in options.items())
        if name == HEAD:
            start += f" --head --dashboard-host=0.0.0.0 --num-cpus=0 --temp-dir={self.own}/ray"
        else:
            start += f" --address={HEAD}:{HEAD_PORTS['--port']} --num-cpus=1"
        self.start(name, "sh", "-c", f"while true; do {start}; sleep 2; done", log=LOG)

    def has_ray(self, name: str) -> bool:
        """Whether Ray has started on a host at least once."""
        return "Ray runtime started" in (self.folder / name / LOG).read_text(encoding="utf-8")

    def close_ports(self, name: str, *but: int) -> None:
        """Let a host of the cluster accept connections to the ports of docs/clusters.md, and some others, only."""
        workers = f"{NODE_PORTS['--min-worker-port']}-{NODE_PORTS['--max-worker-port']}"
        single = [port for option, port in NODE_PORTS.items() if "worker" not in option]
        head = HEAD_PORTS.values() if name == HEAD else ()
        self.open_only(name, [*but, *head, *single, workers, "-".join(map(str, FREE_PORTS))])

    def logs(self) -> str:
        """Return the ends of what Ray has printed on each host."""
        return "\n".join(f"{log}:\n{log.read_text()[-2000:]}" for log in sorted(self.folder.glob("*/*.log")))

    def wait_until(self, is_reached: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait for a condition.

        Raises:
            TimeoutError: It is not reached in time; with what the programs of the hosts have printed.
        """
        deadline = time.monotonic() + seconds
        while not is_reached():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} within {seconds:g} s\n{self.logs()}")
            time.sleep(0.2)

    @property
    def dashboard(self) -> str:
        """The address of the head's dashboard."""
        return f"http://{HEAD}:{HEAD_PORTS['--dashboard-port']}"

    @property
    def address(self) -> str:
        """The address of the head."""
        return f"{HEAD}:{HEAD_PORTS['--port']}"
