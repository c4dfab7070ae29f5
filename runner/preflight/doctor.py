"""Finds out what this machine, its software, its GPUs and the storage offer and lack for a spec: `runner doctor`."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import psutil
from packaging.requirements import Requirement

from runner.preflight.resources import Gpu, local_gpus, missing_requirements
from runner.spec.experiment_spec import ComputeOptions
from runner.stages.registry import STAGES, installed_plugins, plugin_problems

DISTRIBUTION = "mmre-runner"

Level = Literal["ok", "warning", "problem"]
"""Nothing to do; a launch works, but worse than it could; a launch fails."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a launch needs, and how it is here.

    Attributes:
        topic: What was looked at: `software`, `machine`, `gpus`, `storage`, `cluster` or `tracker`.
        level: Whether something is to be done.
        text: What was found.
        remedy: What to do; empty if there is nothing to do.
    """

    topic: str
    level: Level
    text: str
    remedy: str = ""

    def as_json(self) -> dict[str, str]:
        """Convert the finding to the form of `doctor --json`."""
        return asdict(self)


def check_software() -> Iterator[Finding]:
    """Compare the installed packages with what this project and each distribution of plugins require."""
    plugins = [plugin for stage in STAGES for plugin in installed_plugins(stage).values()]
    distributions = {plugin.distribution.rpartition(" ")[0] for plugin in plugins} - {""}
    problems = [problem for name in sorted({DISTRIBUTION, *distributions}) for problem in unmet_requirements(name)]
    for text in problems:
        yield Finding("software", "problem", text, "install it with pip, or create the environment anew")
    for text in plugin_problems():
        yield Finding("software", "problem", text, "the message says what to do")
    if not problems:
        shown = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "ray", "mlflow"))
        python = ".".join(map(str, sys.version_info[:3]))
        yield Finding("software", "ok", f"Python {python}, {shown}; all required packages have their versions")


def unmet_requirements(distribution: str) -> list[str]:
    """List the requirements of an installed distribution that are missing or have another version."""
    unmet = []
    for line in metadata.requires(distribution) or ():
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            unmet.append(f"{distribution} requires {requirement.name}{requirement.specifier}, which is not installed")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            unmet.append(f"{distribution} requires {requirement.name}{requirement.specifier}; {version} is installed")
    return unmet


MIN_OPEN_FILES = 4096
"""Open files that a process may need. Ray warns below this limit: each worker takes several connections."""
MIN_TEMPORARY_BYTES = 2e9
"""Free bytes for temporary files, in which Ray keeps logs and objects, and model files are unpacked."""


def check_machine() -> Iterator[Finding]:
    """Look at cores, main memory, temporary files and the limit of open files."""
    num_cores = len(os.sched_getaffinity(0))
    memory = psutil.virtual_memory()
    yield Finding(
        "machine",
        "ok",
        f"{num_cores} cores that this process may use, {memory.total / 1e9:.0f} GB of main memory, "
        f"{memory.available / 1e9:.0f} GB available",
    )
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < MIN_TEMPORARY_BYTES:
        text = f"{free / 1e9:.1f} GB are free for temporary files in {folder}"
        yield Finding("machine", "warning", text, "free some space, or set TMPDIR to a folder on another disk")
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard_limit != resource.RLIM_INFINITY and hard_limit < MIN_OPEN_FILES:
        text = f"a process may open {hard_limit} files"
        yield Finding("machine", "warning", text, f"raise the limit to {MIN_OPEN_FILES}: `ulimit -n`, or ask the admin")


def check_gpus(compute: ComputeOptions) -> Iterator[Finding]:
    """Compare the GPUs of this machine, and how they are linked, with those that a spec requests."""
    gpus = local_gpus()
    lacking = missing_requirements(compute, gpus)
    for text in lacking:
        remedy = "change compute.gpus_per_worker, compute.accelerator or compute.gpu_memory, or use another machine"
        yield Finding("gpus", "problem", text, remedy)
    if gpus and not lacking:
        yield Finding("gpus", "ok", _describe_gpus(gpus))
    if not gpus and not lacking:
        yield Finding("gpus", "ok", "no NVIDIA GPU here, and the spec requests none")
    if gpus and metadata.version("torch").endswith("+cpu"):
        text = f"torch {metadata.version('torch')} is a build for CPUs"
        level: Level = "problem" if compute.gpus_per_worker else "warning"
        remedy = "install a build of the same version for CUDA, as torch's own installation page says"
        yield Finding("gpus", level, text, remedy)
    links = gpu_links(_topology()) if len(gpus) > 1 else {}
    if links:
        slowest = min(links.values(), key=_link_rank)
        text = f"the slowest link between two GPUs is {slowest} ({LINKS[_link_kind(slowest)]})"
        crosses = _link_kind(slowest) in {"SYS", "NODE", "PHB"}
        if crosses and compute.workers > 1:
            remedy = "expect slower steps with several workers; `nvidia-smi topo -m` shows which GPUs are near"
            yield Finding("gpus", "warning", text, remedy)
        else:
            yield Finding("gpus", "ok", text)


def _describe_gpus(gpus: Sequence[Gpu]) -> str:
    return ", ".join(f"{gpu.name} ({gpu.memory:.0f} GB)" for gpu in gpus)


LINKS = {
    "SYS": "through the link between CPU sockets",
    "NODE": "through several PCIe bridges of a socket",
    "PHB": "through the PCIe bridge of a CPU",
    "PXB": "through several PCIe switches",
    "PIX": "through one PCIe switch",
    "NV": "NVLink",
}
"""The links of `nvidia-smi topo -m`, the slowest first, as its legend explains them."""


def gpu_links(topology: str) -> dict[tuple[int, int], str]:
    """Read the links between GPUs from the output of `nvidia-smi topo -m`.

    Returns:
        The link of each pair of GPUs, such as `NV12` or `SYS`, by their indices; the smaller one comes first.
    """
    plain = re.sub(r"\x1b\[[0-9;]*m", "", topology)
    rows = [line.split() for line in plain.splitlines() if re.match(r"\s*GPU\d+\s", line)]
    if not rows:
        return {}
    columns = [name for name in rows[0] if re.fullmatch(r"GPU\d+", name)]
    links = {}
    for name, *cells in rows[1:]:
        for other, link in zip(columns, cells, strict=False):
            first, second = sorted((int(name[3:]), int(other[3:])))
            if first != second and _link_kind(link):
                links[first, second] = link
    return links


def _link_kind(link: str) -> str:
    return next((kind for kind in LINKS if link.startswith(kind)), "")


def _link_rank(link: str) -> tuple[int, int]:
    """Rank a link: by its kind, and links of NVLink by their number."""
    number = re.search(r"\d+$", link)
    return list(LINKS).index(_link_kind(link)), int(number[0]) if number else 0


def _topology() -> str:
    try:
        return subprocess.run(
            ["nvidia-smi", "topo", "-m"], capture_output=True, text=True, check=True, timeout=20
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "lustre", "beegfs", "gpfs", "ceph", "fuse.", "9p", "wekafs", "panfs")
"""Beginnings of the names of file systems that several machines share."""
PROBE_BYTES = 64_000_000
"""Bytes that are written to measure the speed of the storage."""
MIN_WRITE_SPEED = 100e6
"""Bytes per second below which checkpoints take noticeable time: one of a 7B model has up to 100 GB."""
CLOCKS = "synchronise the clocks with NTP, for example with chrony"
MAX_SKEW_SECONDS = 2.0
"""Difference of two clocks up to which the order of events and the age of files stay right."""


def check_storage(storage: Path, *, keeps_database: bool) -> Iterator[Finding]:
    """Try the folder of all runs: writing, its speed, locks, the clock of its machine, and its kind.

    All files are removed again. If the folder does not exist, its nearest existing parent is tried.

    Args:
        storage: The folder of all runs.
        keeps_database: Whether the tracker's database lies there.
    """
    existing = next(folder for folder in (storage, *storage.parents) if folder.exists())
    kind = file_system(existing)
    is_shared = kind.startswith(NETWORK_FILE_SYSTEMS)
    free = shutil.disk_usage(existing).free
    where = f"{storage}" if existing == storage else f"{storage} (does not exist yet; tried: {existing})"
    try:
        with tempfile.TemporaryDirectory(prefix=".runner-doctor-", dir=existing) as folder:
            speed = write_speed(Path(folder) / "speed")
            skew = clock_skew(Path(folder) / "clock")
            locks = locks_exclude(Path(folder) / "lock")
    except OSError as error:
        remedy = "ask its owner for the permission, free some space, or set compute.storage to another folder"
        yield Finding("storage", "problem", f"{where} cannot be written: {error.strerror or error}", remedy)
        return
    size = f"{free / 1e9:.0f} GB free, {speed / 1e6:.0f} MB/s written"
    if speed < MIN_WRITE_SPEED:
        remedy = "set compute.storage to a faster disk, or raise trainer.save_minutes"
        yield Finding("storage", "warning", f"{where}: {kind or 'unknown file system'}, {size}", remedy)
    else:
        yield Finding("storage", "ok", f"{where}: {kind or 'unknown file system'}, {size}")
    if kind in {"tmpfs", "ramfs"}:
        yield Finding("storage", "warning", "runs there are lost when the machine stops", "use a folder on a disk")
    if abs(skew) > MAX_SKEW_SECONDS:
        text = f"the clock of the storage is {abs(skew):.0f} seconds {'ahead of' if skew > 0 else 'behind'} this one"
        yield Finding("storage", "warning", text, CLOCKS)
    if not locks:
        text = f"file locks on {kind or 'this file system'} do not exclude other processes"
        remedy = "ask the admin to enable locks (for NFS: its lock daemon); two launches could write the same run"
        yield Finding("storage", "problem", text, remedy)
    if keeps_database and is_shared:
        text = f"the tracker's SQLite database would lie on {kind}, where several machines can damage it"
        yield Finding("storage", "warning", text, "set tracker.uri to an MLflow server or a PostgreSQL database")


def file_system(folder: Path) -> str:
    """Return the name of the file system that contains a folder, such as `ext4` or `nfs4`; empty if unknown."""
    mounts = {Path(part.mountpoint): str(part.fstype) for part in psutil.disk_partitions(all=True)}
    resolved = folder.resolve()
    return next((mounts[parent] for parent in (resolved, *resolved.parents) if parent in mounts), "")


def write_speed(file: Path) -> float:
    """Write a file to the disk; return bytes per second, including the wait for the disk."""
    block = os.urandom(1_000_000)  # compressible data would be faster on some file systems
    start = time.perf_counter()
    with file.open("wb") as stream:
        for _ in range(PROBE_BYTES // len(block)):
            stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())
    return PROBE_BYTES / (time.perf_counter() - start)


def clock_skew(file: Path) -> float:
    """Return by how many seconds the clock that sets the times of files is ahead of this machine's clock."""
    before = time.time()
    file.touch()
    after = time.time()
    changed = file.stat().st_mtime
    # The kernel sets times of files a tick late, so the nearer end of the interval counts.
    return min(changed - before, 0.0) if changed < before else max(changed - after, 0.0)


_TRY_LOCK = """
import fcntl, sys
with open(sys.argv[1]) as file:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(3)
"""


def locks_exclude(file: Path) -> bool:
    """Return whether another process cannot lock a file that this process has locked.

    Raises:
        OSError: The file cannot be created.
    """
    import fcntl  # noqa: PLC0415 - exists on Unix only

    with file.open("w", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}:
                return False
            raise
        other = subprocess.run([sys.executable, "-I", "-c", _TRY_LOCK, str(file)], check=False, timeout=60)
    return other.returncode == 3


def skew_findings(seconds_ahead: Mapping[str, float]) -> Iterator[Finding]:
    """Report the nodes whose clocks differ from that of this machine.

    Args:
        seconds_ahead: By how many seconds the clock of each node is ahead of this machine's.
    """
    for name, ahead in seconds_ahead.items():
        if abs(ahead) > MAX_SKEW_SECONDS:
            direction = "ahead of" if ahead > 0 else "behind"
            text = f"the clock of node {name} is {abs(ahead):.0f} seconds {direction} that of this machine"
            yield Finding("cluster", "warning", text, CLOCKS)


def connection_findings(nodes: Sequence[str], problems: Mapping[tuple[str, str], str]) -> Iterator[Finding]:
    """Report which nodes cannot connect to which others.

    Args:
        nodes: The names of the nodes.
        problems: For each ordered pair of nodes, why the first could not connect to the second; empty if it could.
    """
    failed = {pair: reason for pair, reason in problems.items() if reason}
    for (source, target), reason in failed.items():
        text = f"node {source} cannot connect to node {target}: {reason}"
        remedy = "open all ports between the nodes: the workers of a trial choose their ports themselves"
        yield Finding("cluster", "problem", text, remedy)
    if len(nodes) > 1 and not failed:
        yield Finding("cluster", "ok", f"each of the {len(nodes)} nodes can connect to the others")


def worst_level(findings: Sequence[Finding]) -> Level:
    """Return the most serious level of findings."""
    levels: tuple[Level, ...] = ("problem", "warning", "ok")
    return next((level for level in levels if any(finding.level == level for finding in findings)), "ok")


def summary(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return findings in the form of `doctor --json`."""
    return {"level": worst_level(findings), "findings": [finding.as_json() for finding in findings]}
