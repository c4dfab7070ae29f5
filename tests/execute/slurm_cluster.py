"""A Slurm cluster of several nodes on this machine, with its own munge, as tests and benchmarks use it.

It needs Debian's packages slurmctld, slurmd, slurm-client and munge, and the rights of root: the names of the nodes are
resolved by a copy of /etc/hosts that only the cluster's processes see (a mount namespace). With slurmdbd,
mariadb-server-core and mariadb-client-core it also has accounting (`sacct`). Nothing outside a temporary folder is
changed.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "unshare")
ACCOUNTING_PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db", "my_print_defaults")

NUM_GPUS = 4
"""Number of GPUs that each node claims."""

CONFIGURATION = """\
ClusterName=runner
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
MpiDefault=none
ReturnToService=2
SlurmdTimeout=20
KillWait=10
DefMemPerNode={memory}
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge.socket
AccountingStorageTRES=gres/gpu
JobAcctGatherFrequency=task=2
"""

DATABASE_CONFIGURATION = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser=root
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database_port}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm
"""

DATABASE_USER = """\
CREATE USER slurm@'%' IDENTIFIED BY 'slurm';
GRANT ALL ON slurm.* TO slurm@'%';
"""


def _missing(programs: Sequence[str]) -> list[str]:
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    return [name for name in programs if shutil.which(name, path=path) is None]


def has_accounting() -> bool:
    """Whether this machine has what Slurm's accounting needs; the cluster then uses it."""
    return not _missing(ACCOUNTING_PROGRAMS)


def lacking() -> str:
    """Say what this machine lacks for the cluster; empty if it lacks nothing."""
    missing = _missing(PROGRAMS)
    if missing:
        return f"not installed: {', '.join(missing)}; apt install slurmctld slurmd slurm-client munge"
    namespaces = subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False)
    return "" if namespaces.returncode == 0 else "no namespaces, which need the rights of root"


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class SlurmCluster:
    """Nodes `node1`, `node2` … that claim four GPUs each."""

    def __init__(self, num_nodes: int = 3, memory: int = 4000) -> None:
        """Start the cluster.

        Args:
            num_nodes: Number of nodes.
            memory: Main memory of each node in MiB, as Slurm counts it.
        """
        # The path of a socket has at most 107 bytes, and pytest's folders take most of them: Slurm would hold each job.
        folder = self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.names = [f"node{number + 1}" for number in range(num_nodes)]
        self.hosts = folder / "hosts"
        own = Path("/etc/hosts").read_text(encoding="utf-8")
        self.hosts.write_text(own + "".join(f"127.0.0.1 {name}\n" for name in self.names), encoding="utf-8")
        port, *accounting_ports = _free_ports(3)
        ports = _free_ports(num_nodes)
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={port} CPUs=8 "
            f"RealMemory={memory} Gres=gpu:{NUM_GPUS}"
            for name, port in zip(self.names, ports, strict=True)
        )
        accounting = ACCOUNTING.format(port=accounting_ports[0], folder=folder) if has_accounting() else ""
        configuration = CONFIGURATION.format(
            host=socket.gethostname(), port=port, folder=folder, memory=memory, nodes=nodes
        )
        (folder / "slurm.conf").write_text(configuration + accounting, encoding="utf-8")
        for number in range(NUM_GPUS):
            (folder / f"gpu{number}").touch()  # Slurm counts a device for each file that exists
        (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-{NUM_GPUS - 1}]\n", encoding="utf-8")
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        for name in ("state", *(f"spool-{name}" for name in self.names)):
            (folder / name).mkdir()
        self.environment = {
            **os.environ,
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            "SLURM_CONF": str(folder / "slurm.conf"),
            "RUNNER_FAKE_GPUS": "1",
        }
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        try:
            self._start_daemons(key, accounting_ports)
        except BaseException:
            self.close()
            raise

    def _start_daemons(self, key: Path, accounting_ports: Sequence[int]) -> None:
        folder = self.folder
        munge = [f"--{name}={folder}/munge.{name}" for name in ("socket", "pid-file", "seed-file", "log-file")]
        self._start("munged", "munged", "--foreground", "--force", f"--key-file={key}", *munge)
        self._wait((folder / "munge.socket").exists, "munged")
        if has_accounting():
            self._start_accounting(*accounting_ports)
        self._start("slurmctld", "slurmctld", "-D")
        for name in self.names:
            self.start_node(name)
        self._wait(lambda: self.states() == ["idle"] * len(self.names), "the nodes")

    def _start_accounting(self, port: int, database_port: int) -> None:
        """Start a database, and Slurm's daemon that writes into it."""
        folder = self.folder
        (folder / "user.sql").write_text(DATABASE_USER, encoding="utf-8")
        data = f"--datadir={folder}/database"
        subprocess.run(
            ["mariadb-install-db", "--user=root", data, "--auth-root-authentication-method=normal", "--skip-test-db"],
            env=self.environment,
            check=True,
            capture_output=True,
        )
        options = [f"--socket={folder}/database.socket", f"--port={database_port}", f"--pid-file={folder}/database.pid"]
        options += [f"--init-file={folder}/user.sql", "--bind-address=127.0.0.1", "--skip-name-resolve"]
        self._start("mariadbd", "mariadbd", "--no-defaults", "--user=root", data, *options)
        configuration = folder / "slurmdbd.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(
            DATABASE_CONFIGURATION.format(
                folder=folder, host=socket.gethostname(), port=port, database_port=database_port
            ),
            encoding="utf-8",
        )
        self._start("slurmdbd", "slurmdbd", "-D")  # it tries until the database answers
        self._wait(lambda: self._succeeds("sacctmgr", "--immediate", "add", "cluster", "runner"), "the accounting")

    def _succeeds(self, *arguments: object) -> bool:
        done = subprocess.run(self.command(*arguments), env=self.environment, capture_output=True, check=False)
        return done.returncode == 0

    def command(self, *arguments: object) -> list[str]:
        """Return a command that runs with the names of the nodes, which the rest of this machine does not know."""
        return self._unshared([], arguments)

    def _unshared(self, namespaces: Sequence[str], arguments: Sequence[object]) -> list[str]:
        words = " ".join(shlex.quote(str(word)) for word in arguments)
        script = f"mount --bind {self.hosts} /etc/hosts && exec {words}"
        return ["unshare", "--mount", *namespaces, "sh", "-c", script]

    def run(self, *arguments: object, folder: Path | None = None) -> str:
        """Run a client of Slurm; return what it prints.

        Raises:
            CalledProcessError: It failed.
        """
        done = subprocess.run(
            self.command(*arguments),
            env=self.environment,
            cwd=folder or self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, list(map(str, arguments)), done.stdout, done.stderr)
        return done.stdout

    def states(self) -> list[str]:
        """Return the state of each node; empty while Slurm does not answer."""
        try:
            return self.run("sinfo", "--noheader", "--Node", "--format=%t").split()
        except subprocess.CalledProcessError:
            return []

    def job_state(self, job: str) -> str:
        """Return the state of a job, such as `RUNNING`; jobs are remembered for some minutes."""
        shown = self.run("scontrol", "--oneliner", "show", "job", job)
        if "launch_failed_requeued_held" in shown:
            raise RuntimeError(f"Slurm could not start job {job} and holds it:\n{self.logs()}")
        return dict(word.partition("=")[::2] for word in shown.split())["JobState"]

    def logs(self) -> str:
        """Return the ends of the daemons' logs."""
        return "\n".join(f"{log}:\n{log.read_text()[-2000:]}" for log in sorted(self.folder.glob("*.log")))

    def start_node(self, name: str) -> None:
        """Start the daemon of a node, in a process namespace that ends with everything in it."""
        self._launch(
            name, self._unshared(["--pid", "--fork", "--kill-child", "--mount-proc"], ["slurmd", "-D", "-N", name])
        )

    def kill_node(self, name: str) -> None:
        """Kill a node with everything that runs on it, like a power failure."""
        daemon = self._daemons.pop(name)
        daemon.kill()
        daemon.wait()

    def close(self) -> None:
        """End all jobs and daemons."""
        with suppress(subprocess.CalledProcessError):
            self.run("scancel", "--user=root", "--signal=KILL", "--full")
        for name in reversed([*self._daemons]):
            self.kill_node(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, name: str, *arguments: object) -> None:
        self._launch(name, self.command(*arguments))

    def _launch(self, name: str, command: Sequence[str]) -> None:
        with (self.folder / f"{name}.out").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                command, env=self.environment, stdout=output, stderr=output, start_new_session=True
            )

    def _wait(self, is_ready: Callable[[], bool], what: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not is_ready():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} did not start in {seconds:g} s\n{self.logs()}")
            time.sleep(0.2)
