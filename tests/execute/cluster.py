"""A cluster of several `ray start` nodes on this machine, as tests and benchmarks use it."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

RAY = Path(sys.executable).parent / "ray"
NODE = ("--num-gpus=4", "--num-cpus=8", "--object-store-memory=80000000")

ATTEMPTS = 5


class Cluster:
    """Nodes that claim four A100s each, a head among them, with token authentication on."""

    def __init__(self, folder: Path, num_nodes: int = 3) -> None:
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RUNNER_FAKE_GPUS": "1",
            # Processes that wait for work are no part of the test, and this machine is small.
            "RAY_prestart_worker_first_driver": "0",
            "RAY_health_check_period_ms": "500",
            "RAY_health_check_failure_threshold": "3",
        }
        self._folder = folder
        # The path of a socket has at most 107 bytes, and pytest's folders take most of them.
        self._sockets = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
        self.nodes: list[subprocess.Popen] = []
        self._start("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={self._sockets.name}")
        for _ in range(num_nodes - 1):
            self._start(f"--address={self.address}")

    def _start(self, *arguments: str) -> None:
        self.nodes.append(self._begin(len(self.nodes), *arguments))

    def _begin(self, place: int, *arguments: str) -> subprocess.Popen:
        """Start a node; where it takes longer than Ray allows, as on a machine that is busy, start it again."""
        own = json.dumps({"accelerator_type:A100": 1, f"place-{place}": 1})
        command = [RAY, "start", "--block", "--disable-usage-stats", *arguments, *NODE, f"--resources={own}"]
        log = self._folder / f"node-{place}.log"
        for _ in range(ATTEMPTS):
            with log.open("wb") as told:
                node = subprocess.Popen(command, env=self.environment, stdout=told, stderr=told, start_new_session=True)
            while node.poll() is None and "Ray runtime started" not in log.read_text():
                time.sleep(0.2)
            if node.poll() is None:
                return node
        raise RuntimeError(log.read_text())

    def kill(self, place: int) -> None:
        """End all that runs on a node, as when its power goes."""
        self._end(self.nodes[place])

    def restart(self, place: int) -> None:
        """Start a node again that was killed."""
        self.nodes[place] = self._begin(place, f"--address={self.address}")

    def close(self) -> None:
        with ExitStack() as all_of_them:
            all_of_them.callback(self._sockets.cleanup)
            for node in self.nodes:
                all_of_them.callback(self._end, node)

    @staticmethod
    def _end(node: subprocess.Popen) -> None:
        with suppress(psutil.NoSuchProcess):
            running = psutil.Process(node.pid)
            for each in [running, *running.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    each.kill()
        node.wait()
