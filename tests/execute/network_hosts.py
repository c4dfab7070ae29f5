"""Hosts with a network between them, on this machine: namespaces of Linux, joined by a bridge.

Each host has its own network, processes, host name, /etc/hosts and folder `own`; the folder `shared` is the same on all
of them, at the same path. It needs the rights of root, and Debian's packages iproute2 and nftables. Everything lies in
namespaces and in a temporary folder, so that nothing of it is left when the processes that hold them have ended.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

PROGRAMS = ("ip", "tc", "nft", "unshare", "nsenter", "mount")
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"
NETWORK = "10.83.0"
SWITCH = "switch"
FREE_PORTS = (40000, 40999)
"""From where a host takes the ports that programs do not choose: `net.ipv4.ip_local_port_range`."""
START_SECONDS = 60.0


def lacking() -> str:
    """Say what this machine lacks for the hosts; empty if it lacks nothing."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if missing:
        return f"not installed: {', '.join(missing)}; apt install iproute2 nftables util-linux"
    bridge = "ip link add br0 type bridge && nft add table inet tried"
    command = ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "sh", "-c", bridge]
    tried = subprocess.run(command, env={**os.environ, "PATH": PATH}, capture_output=True, text=True, check=False)
    return f"no namespaces with a bridge and nftables: {tried.stderr.strip()}" if tried.returncode else ""


class NetworkHosts:
    """Hosts by name, with the addresses 10.83.0.1, 10.83.0.2 … in the order of their names."""

    def __init__(self, names: Iterable[str]) -> None:
        """Create the network, and switch all hosts on."""
        # The path of a socket has at most 107 bytes, so that this folder's is short.
        self.folder = Path(tempfile.mkdtemp(prefix="hosts-"))
        self.shared, self.own = self.folder / "shared", self.folder / "own"
        self.names = list(names)
        self.addresses = {name: f"{NETWORK}.{number + 1}" for number, name in enumerate(self.names)}
        self._holders: dict[str, subprocess.Popen[bytes]] = {}
        self._roots: dict[str, int] = {}
        self._relays: dict[str, subprocess.Popen[bytes]] = {}
        for folder in (self.shared, self.own, *(self.folder / name for name in self.names)):
            folder.mkdir()
        self.environment = {**os.environ, "PATH": PATH, "HOME": str(self.own), "TMPDIR": str(self.own)}
        self._hold(SWITCH, "true")
        self._ip(SWITCH, "link add bridge type bridge", "link set bridge up", f"addr add {NETWORK}.254/24 dev bridge")
        for name in self.names:
            self.power_on(name)

    def power_on(self, name: str) -> None:
        """Switch a host on; its folder is as it was."""
        # Debian's installer gives the host's own name this address of the loopback interface.
        lines = ["127.0.0.1 localhost", f"127.0.1.1 {name}"]
        lines += [f"{address} {other}" for other, address in self.addresses.items() if other != name]
        own = self.folder / name
        (own / "hosts").write_text("\n".join(lines) + "\n", encoding="utf-8")
        # The name server of this machine cannot be reached; Ray asks it also for names of /etc/hosts, and would wait.
        (own / "resolv.conf").write_text("nameserver 127.0.0.1\n", encoding="utf-8")
        files = (f"mount --bind {own}/{file} /etc/{file}" for file in ("hosts", "resolv.conf"))
        self._hold(name, " && ".join((f"mount --bind {own} {self.own}", *files, f"hostname {name}")))
        self._ip(SWITCH, f"link add port-{name} type veth peer name eth0 netns {self._roots[name]}")
        self._ip(SWITCH, f"link set port-{name} master bridge", f"link set port-{name} up")
        self._ip(name, "link set lo up", f"addr add {self.addresses[name]}/24 dev eth0", "link set eth0 up")
        self._ip(name, f"route add default via {NETWORK}.254")
        ports = " ".join(map(str, FREE_PORTS))
        self.run(name, "sh", "-c", f"echo {ports} > /proc/sys/net/ipv4/ip_local_port_range")

    def power_off(self, name: str) -> None:
        """Kill a host with everything that runs on it, like a power failure."""
        self._release(name)
        self._ip(SWITCH, f"link del port-{name}", check=False)

    def command(self, name: str, *arguments: object) -> list[str]:
        """Return a command that runs on a host, in its folder."""
        target = ["nsenter", f"--target={self._roots[name]}", "--net", "--mount", "--uts", "--pid"]
        # nsenter would enter the folder before it enters the namespace, where another folder is mounted.
        return [*target, "sh", "-c", f"cd {self.own} && exec {shlex.join(map(str, arguments))}"]

    def run(
        self, name: str, *arguments: object, check: bool = True, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host to its end.

        Raises:
            RuntimeError: It failed, unless `check` is false; with what it printed.
        """
        done = subprocess.run(
            self.command(name, *arguments),
            env={**self.environment, **(environment or {})},
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode:
            raise RuntimeError(f"{name}: {shlex.join(map(str, arguments))}\n{done.stdout}{done.stderr}")
        return done

    def start(
        self, name: str, *arguments: object, log: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command on a host, with its output in a file of the host's folder."""
        with (self.folder / name / log).open("ab") as output:
            return subprocess.Popen(
                self.command(name, *arguments),
                env={**self.environment, **(environment or {})},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def cut(self, name: str) -> None:
        """Take the cable of a host out."""
        self._ip(SWITCH, f"link set port-{name} down")

    def mend(self, name: str) -> None:
        """Put the cable of a host in again."""
        self._ip(SWITCH, f"link set port-{name} up")

    def set_loss(self, name: str, percent: int) -> None:
        """Drop packets at random, those that a host sends and those that it receives; 0 drops none."""
        for place, device in ((name, "eth0"), (SWITCH, f"port-{name}")):
            rules = f"add table netdev loss-{name}; delete table netdev loss-{name}; "
            if percent:
                drop = f"numgen random mod 100 < {percent} drop;"
                rules += f"table netdev loss-{name} {{ chain received {{ "
                rules += f"type filter hook ingress device {device} priority 0; {drop} }}; }}"
            subprocess.run([*self._in_network(place), "nft", rules], env=self.environment, check=True)

    def set_rate(self, name: str, rate: str) -> None:
        """Limit what a host sends and receives, such as to `1mbit`; empty for no limit."""
        action = f"replace dev {{}} root tbf rate {rate} burst 16kb latency 400ms" if rate else "del dev {} root"
        for place, device in ((name, "eth0"), (SWITCH, f"port-{name}")):
            command = ["tc", "qdisc", *action.format(device).split()]
            subprocess.run([*self._in_network(place), *command], env=self.environment, check=True)

    def set_delay(self, name: str, milliseconds: int) -> None:
        """Delay each packet that a host sends or receives; 0 delays none.

        The kernel's own delay (netem) is missing in many kernels of virtual machines. A relay stands in for it.
        """
        port, far, near = f"port-{name}", f"far-{name}", f"near-{name}"
        if milliseconds:
            self._ip(SWITCH, f"link add {near} type veth peer name {far}", f"link set {port} nomaster")
            self._ip(SWITCH, f"link set {far} master bridge", f"link set {far} up", f"link set {near} up")
            relay = [sys.executable, Path(__file__).with_name("delay_relay.py"), port, near, str(milliseconds / 1000)]
            self._relays[name] = subprocess.Popen(self.command(SWITCH, *relay), start_new_session=True)
        elif name in self._relays:
            running = self._relays.pop(name)
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
            self._ip(SWITCH, f"link del {near}", f"link set {port} master bridge")

    def set_address(self, name: str, address: str) -> None:
        """Give a host another address, as a laptop that moves to another network; its connections break."""
        self._ip(name, "addr flush dev eth0", f"addr add {address}/24 dev eth0")
        self._ip(name, f"route add default via {NETWORK}.254")

    def open_only(self, name: str, ports: Iterable[int | str]) -> None:
        """Let a host accept connections to these ports (`6379` or `10002-10100`) only."""
        accepted = ", ".join(map(str, ports))
        rules = "ct state established,related accept; iifname lo accept; icmp type echo-request accept; "
        rules += f"tcp dport {{ {accepted} }} accept; " if accepted else ""
        rules += "tcp flags & (syn | ack) == syn add @rejected { tcp dport }; "
        table = "set rejected { type inet_service; size 65535; flags dynamic; }; "
        table += f"chain input {{ type filter hook input priority 0; policy drop; {rules}}}; "
        self.run(name, "nft", f"add table inet firewall; delete table inet firewall; table inet firewall {{ {table}}}")

    def rejected_ports(self, name: str) -> list[int]:
        """Return the ports to which others have tried to connect, and which the firewall of a host does not open."""
        listed = json.loads(self.run(name, "nft", "--json", "list", "set", "inet", "firewall", "rejected").stdout)
        [found] = [entry["set"] for entry in listed["nftables"] if "set" in entry]
        return sorted(map(int, found.get("elem", [])))

    def host_of(self, process: int) -> str | None:
        """Return the host on which a process runs; None if it runs on none of them."""
        network = os.readlink(f"/proc/{process}/ns/net")
        found = (name for name in self.names if os.readlink(f"/proc/{self._roots[name]}/ns/net") == network)
        return next(found, None)

    def close(self) -> None:
        """End everything, and remove the folder."""
        for name in [*self._holders]:
            self._release(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _hold(self, name: str, script: str) -> None:
        """Create namespaces, which live as long as their first process."""
        spaces = ["--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        held = f"{script} && echo ready && exec cat"  # it ends with this process, however this process ends
        holder = self._holders[name] = subprocess.Popen(
            ["unshare", *spaces, "sh", "-c", held],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert holder.stdout is not None
        if holder.stdout.readline() != b"ready\n":
            raise RuntimeError(f"the namespaces of {name} cannot be made")
        children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children")
        deadline = time.monotonic() + START_SECONDS
        while not (found := children.read_text(encoding="ascii").split()) and time.monotonic() < deadline:
            time.sleep(0.01)
        self._roots[name] = int(found[0])

    def _release(self, name: str) -> None:
        """End the first process of namespaces, and with it all others."""
        holder = self._holders.pop(name)
        if name in self._roots:
            with suppress(ProcessLookupError):
                os.kill(self._roots.pop(name), signal.SIGKILL)
        else:
            holder.kill()
        holder.wait()  # it ends after all processes of its namespaces

    def _in_network(self, name: str) -> list[str]:
        return ["nsenter", f"--target={self._roots[name]}", "--net"]

    def _ip(self, name: str, *commands: str, check: bool = True) -> None:
        for command in commands:
            words = [*self._in_network(name), "ip", *command.split()]
            done = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False)
            if check and done.returncode:
                raise RuntimeError(f"{name}: ip {command}: {done.stderr}")
