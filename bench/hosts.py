"""Disturbs the network and the hosts of launches, and compares the launches with an undisturbed one.

    python bench/hosts.py [--cases calm delay loss …] [--drill 20] [--seed 0] [--epochs 6]

It needs the rights of root and Debian's packages iproute2, nftables and postgresql; see tests/execute/network_hosts.py.
The hosts are namespaces of this machine, joined by a bridge: a head, three nodes, a laptop, and a server where MLflow
keeps its runs in PostgreSQL. A trial trains with two workers on two of the nodes; the undisturbed one trains on a host
that uses no network. The head and the nodes accept connections to the ports of docs/clusters.md only. Each case has a
storage of its own, which all hosts share:

    calm      nothing happens
    delay     50 ms for each packet of a node, in both directions
    loss      2 % of the packets of a node are lost, in both directions
    rate      the server of MLflow sends and receives 1 Mbit/s
    link      the cable of a node is out for 20 s
    long      the cable of a node is out for 10 minutes
    tracker   the server of MLflow cannot be reached from the first optimizer step to the end; `runner sync` follows
    firewall  `runner doctor` finds nothing, and no host has tried to connect to a port that is closed
    laptop    the laptop that sends a detached launch has another address when it asks for the launch
    tunnel    the laptop reaches the dashboard by SSH only; needs Debian's openssh-server and openssh-client
    tls       Ray encrypts its traffic, and the laptop reaches the dashboard through a proxy with HTTPS; needs Debian's
              openssl and stunnel4
    postgres  the tracker is the database itself, not MLflow's server
    sweep     six trials on three nodes; the cable of one of them is out for 60 s
    drill     a number of kills and faults at random moments: a worker, a node or the launch is killed, or a cable,
              loss, delay or rate disturbs a node

Prints one JSON document: for each case the seconds, how often the launch retried a trial, what it warned of, and what
differs from the undisturbed launch: metrics, weights, the loss of each step, or what MLflow holds. Exits with 1 if
anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from launches_on_hosts import (
    HEAD,
    LAPTOP,
    MINUTES,
    OTHER_ADDRESS,
    SERVER,
    STEPS_BEFORE,
    Bench,
    RayOnHosts,
    database_uri,
    postgres_programs,
    print_tracked,
    run_undisturbed,
)
from network_hosts import lacking  # `launches_on_hosts` has added its folder to the path

SSH_PORT, HTTPS_PORT = 22, 8443


def calm(bench: Bench, case: str) -> None:
    """Let a launch run to its end."""
    bench.finish(case, bench.start(case))


def delay(bench: Bench, case: str) -> None:
    """Delay the packets of a node from the first steps to the end."""
    launch = bench.start(case)
    bench.wait_for_steps(case, launch)
    node = bench.node(case)
    bench.cluster.set_delay(node, 50)
    bench.finish(case, launch)
    bench.cluster.set_delay(node, 0)


def loss(bench: Bench, case: str) -> None:
    """Lose packets of a node from the first steps to the end."""
    launch = bench.start(case)
    bench.wait_for_steps(case, launch)
    node = bench.node(case)
    bench.cluster.set_loss(node, 2)
    bench.finish(case, launch)
    bench.cluster.set_loss(node, 0)


def rate(bench: Bench, case: str) -> None:
    """Limit what MLflow's server sends and receives, for the whole of a launch."""
    bench.cluster.set_rate(SERVER, "1mbit")
    bench.finish(case, bench.start(case))
    bench.cluster.set_rate(SERVER, "")


def link(bench: Bench, case: str, seconds: float = 20) -> None:
    """Take the cable of a node out for a while."""
    launch = bench.start(case)
    bench.wait_for_steps(case, launch)
    node = bench.node(case)
    bench.cluster.cut(node)
    time.sleep(seconds)
    bench.cluster.mend(node)
    bench.finish(case, launch)


def long(bench: Bench, case: str) -> None:
    """Take the cable of a node out for ten minutes."""
    link(bench, case, 10 * MINUTES)


def tracker(bench: Bench, case: str) -> None:
    """Take the server of MLflow away for the whole of a training; `runner sync` then sends what it missed."""
    launch = bench.start(case)
    bench.wait_for_steps(case, launch, 1)
    bench.cluster.cut(SERVER)
    bench.finish(case, launch)
    bench.cluster.mend(SERVER)


def firewall(bench: Bench, case: str) -> None:
    """Ask `runner doctor`, launch, and look which connections the firewalls have rejected since the start."""
    cluster = bench.cluster
    doctor = ("runner", "doctor", bench.folder / "rack.yaml", "--address", cluster.address, "--json")
    found = cluster.run(HEAD, *doctor, "--set", f"compute.storage={bench.folder / case}", check=False)
    findings = json.loads(found.stdout)["findings"]
    if problems := [each for each in findings if each["topic"] == "cluster" and each["level"] != "ok"]:
        raise RuntimeError(f"{case}: {problems}")
    calm(bench, case)
    rejected = {name: ports for name in (HEAD, *cluster.nodes) if (ports := cluster.rejected_ports(name))}
    if rejected:
        raise RuntimeError(f"{case}: ports that docs/clusters.md does not list: {rejected}")


def laptop(bench: Bench, case: str) -> None:
    """Send a detached launch from the laptop, move the laptop, and ask for the launch until it has ended."""
    cluster = bench.cluster
    cluster.run(LAPTOP, *bench.command(case, "--detach", "--address", cluster.dashboard))
    cluster.set_address(LAPTOP, OTHER_ADDRESS)
    bench.wait_for_job(case, cluster.dashboard)
    cluster.set_address(LAPTOP, cluster.addresses[LAPTOP])


def tunnel(bench: Bench, case: str) -> None:
    """Send a detached launch through an SSH tunnel, and ask for it there until it has ended."""
    cluster, dashboard, key = bench.cluster, "http://localhost:8265", bench.folder / "ssh-key"
    cluster.run(HEAD, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    options = (f"-oAuthorizedKeysFile={key}.pub", "-oStrictModes=no", "-oUsePAM=no", "-oPidFile=none", f"-h{key}")
    serve = shlex.join(["/usr/sbin/sshd", "-D", "-e", "-f/dev/null", *options])
    # sshd wants a folder in /run, which only this namespace gets.
    folder = "mount -t tmpfs tmpfs /run && mkdir /run/sshd && exec"
    server = cluster.start(HEAD, "unshare", "--mount", "sh", "-c", f"{folder} {serve}", log="sshd.log")
    cluster.close_ports(HEAD, SSH_PORT)
    trust = ("-Fnone", f"-i{key}", "-oUserKnownHostsFile=/dev/null", "-oStrictHostKeyChecking=no")
    forward = ("ssh", *trust, "-oConnectionAttempts=10", "-N", "-L", "8265:localhost:8265", HEAD)
    client = cluster.start(LAPTOP, *forward, log="ssh.log")
    try:
        ask = ("python", "-c", "import socket; socket.create_connection(('localhost', 8265), timeout=2)")
        cluster.wait_until(lambda: cluster.run(LAPTOP, *ask, check=False).returncode == 0, "no tunnel", MINUTES)
        bench.run_detached(case, dashboard)
    finally:
        for process in (client, server):
            os.killpg(process.pid, signal.SIGTERM)
        cluster.close_ports(HEAD)


def tls(bench: Bench, case: str) -> None:
    """Let Ray encrypt its traffic, and send a detached launch through a proxy with HTTPS before the dashboard."""
    cluster, plain = bench.cluster, bench.cluster.environment
    cluster.environment = plain | make_certificates(cluster)
    authority, certificate, key = (cluster.environment[name] for name in TLS_FILES)
    dashboard = f"https://{HEAD}:{HTTPS_PORT}"
    try:
        cluster.restart()
        settings = f"foreground = yes\npid =\n[dashboard]\naccept = {HTTPS_PORT}\nconnect = 127.0.0.1:8265\n"
        (cluster.folder / HEAD / "stunnel.conf").write_text(f"{settings}cert = {certificate}\nkey = {key}\n")
        cluster.start(HEAD, "stunnel", cluster.own / "stunnel.conf", log="stunnel.log")
        cluster.close_ports(HEAD, HTTPS_PORT)
        verify = shlex.join(["-CAfile", authority, "-cert", certificate, "-key", key])
        for port in (str(HTTPS_PORT), cluster.address.partition(":")[2]):
            ask = ("sh", "-c", f"openssl s_client -connect {HEAD}:{port} {verify} </dev/null")
            # The exit status says nothing, as Ray hangs up after the handshake.
            is_trusted = lambda ask=ask: TRUSTED in cluster.run(LAPTOP, *ask, check=False).stdout  # noqa: E731
            cluster.wait_until(is_trusted, f"{case}: no certificate at port {port}", MINUTES)
        bench.run_detached(case, dashboard)
    finally:
        cluster.environment = plain
        cluster.restart()


TRUSTED = "Verify return code: 0 (ok)"
TLS_FILES = ("RAY_TLS_CA_CERT", "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY")


def make_certificates(cluster: RayOnHosts) -> dict[str, str]:
    """Give each host a certificate of an authority of its own; return the variables with which Ray uses it."""
    issuer = cluster.folder / "authority"
    new = ("openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-days", 2)
    cluster.run(SERVER, *new, "-subj", "/CN=authority", "-keyout", f"{issuer}.key", "-out", f"{issuer}.pem")
    for name in (HEAD, *cluster.nodes, LAPTOP):
        names = f"subjectAltName=DNS:{name},DNS:localhost,IP:{cluster.addresses[name]},IP:127.0.0.1"
        own = (cluster.own / "tls.key", "-out", cluster.own / "tls.pem", "-subj", f"/CN={name}", "-addext", names)
        leaf = ("-addext", "basicConstraints=critical,CA:FALSE", "-CA", f"{issuer}.pem", "-CAkey", f"{issuer}.key")
        cluster.run(name, *new, "-keyout", *own, *leaf)
    files = (f"{issuer}.pem", str(cluster.own / "tls.pem"), str(cluster.own / "tls.key"))
    return {"RAY_USE_TLS": "1", **dict(zip(TLS_FILES, files, strict=True))}


def postgres(bench: Bench, case: str) -> None:
    """Track in the database itself."""
    bench.finish(case, bench.start(case, "--set", f"tracker.uri={database_uri()}"))


def sweep(bench: Bench, case: str) -> None:
    """Run a sweep on three nodes, and take the cable of one of them out for a minute."""
    launch = bench.start(case, spec="sweep")
    bench.wait_for_steps(case, launch)
    node = bench.node(case)
    bench.cluster.cut(node)
    time.sleep(MINUTES)
    bench.cluster.mend(node)
    bench.finish(case, launch)


CASES: dict[str, Callable[[Bench, str], None]] = {
    case.__name__: case
    for case in (calm, delay, loss, rate, link, tracker, laptop, tunnel, tls, long, sweep, postgres, firewall)
}


def kill_worker(bench: Bench, case: str, launch: subprocess.Popen[bytes], rng: random.Random) -> str:
    """Kill one of the processes that train."""
    process, node = rng.choice(sorted(bench.workers(case).items()))
    os.kill(process, signal.SIGKILL)
    return f"a worker on {node} killed"


def kill_node(bench: Bench, case: str, launch: subprocess.Popen[bytes], rng: random.Random) -> str:
    """Switch a node off that trains, and on again."""
    node = rng.choice(sorted(set(bench.workers(case).values())))
    bench.cluster.power_off(node)
    bench.cluster.power_on(node)
    bench.cluster.start_ray(node)
    return f"{node} off and on"


def kill_launch(bench: Bench, case: str, launch: subprocess.Popen[bytes], rng: random.Random) -> str:
    """Kill the launch; it is launched again."""
    os.killpg(launch.pid, signal.SIGKILL)
    launch.wait()
    return "the launch killed"


def cut_node(bench: Bench, case: str, launch: subprocess.Popen[bytes], rng: random.Random) -> str:
    """Take a cable out for a random time."""
    node, seconds = rng.choice([HEAD, *bench.cluster.nodes, SERVER]), rng.choice([2, 10, 30, 60])
    bench.cluster.cut(node)
    time.sleep(seconds)
    bench.cluster.mend(node)
    return f"the cable of {node} out for {seconds} s"


def lose_packets(bench: Bench, case: str, launch: subprocess.Popen[bytes], rng: random.Random) -> str:
    """Lose a tenth of the packets of a node for twenty seconds."""
    node = rng.choice(sorted(set(bench.workers(case).values())))
    bench.cluster.set_loss(node, 10)
    time.sleep(20)
    bench.cluster.set_loss(node, 0)
    return f"10 % of the packets of {node} lost for 20 s"


def slow_node(bench: Bench, case: str, launch: subprocess.Popen[bytes], rng: random.Random) -> str:
    """Limit a node to 1 Mbit/s for twenty seconds."""
    node = rng.choice(sorted(set(bench.workers(case).values())))
    bench.cluster.set_rate(node, "1mbit")
    time.sleep(20)
    bench.cluster.set_rate(node, "")
    return f"1 Mbit/s for {node} for 20 s"


def delay_node(bench: Bench, case: str, launch: subprocess.Popen[bytes], rng: random.Random) -> str:
    """Delay the packets of a node by 50 ms for twenty seconds."""
    node = rng.choice(sorted(set(bench.workers(case).values())))
    bench.cluster.set_delay(node, 50)
    time.sleep(20)
    bench.cluster.set_delay(node, 0)
    return f"50 ms for {node} for 20 s"


KILLS = (kill_worker, kill_node, kill_launch)
FAULTS = (cut_node, lose_packets, slow_node, delay_node)


def run_case(bench: Bench, case: str, act: Callable[[], str | None], reference: str, uri: str) -> dict[str, Any]:
    """Run a case; return its seconds, its retries and warnings, and what differs from the undisturbed launch."""
    began, wrong, what, is_synced = time.monotonic(), [], None, False
    try:
        what = act()
        is_synced = bench.deliver(case)
        if bench.results(case) != bench.results(reference):
            wrong.append("metrics, weights or losses differ")
        if bench.tracked(case, uri) != bench.tracked(reference, bench.uri):
            wrong.append("MLflow holds something else")
    except (RuntimeError, TimeoutError, OSError, subprocess.TimeoutExpired) as error:
        wrong.append(str(error)[-4000:])
    warnings = [event["message"] for event in bench.events(case) if event["kind"] == "warning"]
    printed = [line for line in bench.output(case).splitlines() if line.startswith("warning:")]
    report = {"seconds": round(time.monotonic() - began), "disturbance": what, "synced": is_synced, "wrong": wrong}
    report |= {"retries": sum("is retried" in message for message in warnings), "warnings": warnings + printed}
    print(json.dumps({case: report}), file=sys.stderr, flush=True)
    return report


def run_drill(bench: Bench, number: int, rng: random.Random, reference: str) -> dict[str, Any]:
    """Run launches that are disturbed at random moments, half of them by kills."""
    report = {}
    for turn in range(number):
        kinds = KILLS if turn % 2 == 0 else FAULTS
        disturb, case = kinds[turn // 2 % len(kinds)], f"drill-{turn}"

        def act(disturb: Any = disturb, case: str = case) -> str:
            launch = bench.start(case)
            bench.wait_for_steps(case, launch, rng.randint(1, 3 * STEPS_BEFORE))
            what = disturb(bench, case, launch, rng)
            if launch.poll() is not None:
                launch = bench.start(case)
            bench.finish(case, launch)
            return str(what)

        report[case] = run_case(bench, case, act, reference, bench.uri)
    return report


def run(bench: Bench, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the cases that the command line names, and the drill."""
    report: dict[str, Any] = {}
    names = [name for name in CASES if name in arguments.cases]
    references = {spec: run_undisturbed(bench, spec) for spec in ("rack", "sweep") if spec == "rack" or spec in names}
    for name in names:
        reference = references["sweep" if name == "sweep" else "rack"]
        uri = database_uri() if name == "postgres" else bench.uri
        report[name] = run_case(bench, name, lambda name=name: CASES[name](bench, name), reference, uri)
    rng = random.Random(arguments.seed)
    return report | run_drill(bench, arguments.drill, rng, references["rack"])


def main() -> None:
    """Run the cases, and remove everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--drill", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--tracked", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.tracked:
        print_tracked(*arguments.tracked)
        return
    if reason := lacking() or ("" if postgres_programs() else "not installed: PostgreSQL; apt install postgresql"):
        sys.exit(reason)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the hosts are removed
    cluster = RayOnHosts()
    try:
        report = run(Bench(cluster, arguments.epochs), arguments)
    finally:
        cluster.close()
    print(json.dumps(report, indent=2))
    sys.exit(any(case["wrong"] for case in report.values()))


if __name__ == "__main__":
    main()
