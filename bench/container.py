"""Builds the image of docs/cluster/Containerfile on a base of its own, and launches and starts Ray in containers of it.

    python bench/container.py [--cases versions validate smoke ray …] [--torch torch==2.13.0+cpu] [-- OPTIONS]

It needs Debian's packages podman, runc (or crun) and mmdebstrap, and about 10 GB in the temporary folder. Run it as a
user with a range of subordinate ids (/etc/subuid) for containers without root, or as root. OPTIONS are options of
`podman build`, such as `--volume` for a configuration of pip. Images and containers are stored in a folder that is
removed at the end. With `--image NAME` it uses that image of podman's own store, and builds nothing. The cases:

    versions  the user, the settings and the versions of packages in the image; a setting that is removed
    validate  `runner validate`
    smoke     `runner launch specs/tiny_mmre.yaml --smoke`
    ray       a head and a second node, each a container, with a token; a launch with one worker on each
    memory    a head in a container with a limit of memory; Ray must not offer more
    stop      `podman stop` in the training of a launch, which saves; the same launch again, which resumes
    save      the image as a file, which Apptainer reads
    demo      `runner launch specs/tiny_mmre.yaml`

Prints one JSON document: for each case the seconds and what came out. Exits with 1 if one failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
CONTAINERFILE = ROOT / "docs" / "cluster" / "Containerfile"
SUITE = "bookworm"
"""Debian's release of the base: Debian 12, with Python 3.11."""
PACKAGES = ("python3", "python3-venv", "ca-certificates")
UID = 1000
"""The image's user."""
SPEC = "specs/tiny_mmre.yaml"
INTERRUPTED = 130
"""The exit status of a launch that was asked to stop."""
SHOWN = ("rouge1", "ner_f1", "image_entity_accuracy")
MEMORY_LIMIT_GIB = 4
START_SECONDS = 180
SAVE_SECONDS = 1800
"""How long `podman stop` lets a launch save."""
GPU_MEMORY_SETTING = "PYTORCH_ALLOC_CONF"
ROOT_LIMITS = ("--ulimit=nofile=16384:16384", "--ulimit=nproc=16384:16384")
"""Limits of open files and processes. For root, Podman would raise them, which a root without that right may not do."""
QUERY = """
import importlib.metadata, json, os, sys
import torch
names = ["mmre-runner", "torch", "ray", "transformers", "nvidia-ml-py"]
print(json.dumps({
    "uid": os.getuid(),
    "python": sys.version.split()[0],
    "cuda": torch.version.cuda,
    "settings": {name: os.environ.get(name) for name in ("PYTORCH_ALLOC_CONF", "RAY_AUTH_MODE")},
    "versions": {name: importlib.metadata.version(name) for name in names},
}))
"""


def nodes_and_memory(status: str) -> tuple[int, float | None]:
    """Return the number of active nodes and the GiB of memory in the output of `ray status`.

    The memory is None if no line of the usage names it.
    """
    active = status.partition("Active:")[2].partition("Pending:")[0]
    memory = re.search(r"/([\d.]+)(Gi|Mi)B memory", status)
    gib = None if memory is None else float(memory[1]) / (1 if memory[2] == "Gi" else 1024)
    return active.count("node_"), gib


@dataclass
class Podman:
    """Podman, with a store in a folder or its own, and what each container of the bench gets.

    Attributes:
        folder: Holds the folder `work` of the containers, and the store unless an image is given.
        image: The image that the cases run.
        options: Options before podman's command.
    """

    folder: Path
    image: str
    options: tuple[str, ...]
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Copy the specs into a folder that the image's user can write."""
        self.is_rootless = os.getuid() != 0
        self.work = self.folder / "work"
        shutil.copytree(ROOT / "specs", self.work / "specs")
        (self.work / "cluster-token").write_text(secrets.token_hex(32), encoding="utf-8")
        (self.work / "cluster-token").chmod(0o600)
        self.folder.chmod(0o755)
        if not self.is_rootless:
            for path in (self.work, *self.work.rglob("*")):
                os.chown(path, UID, UID)

    def __call__(self, *arguments: object) -> str:
        """Run podman; return what it prints.

        Raises:
            RuntimeError: It failed; with the last lines of its output.
        """
        command = ["podman", *self.options, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            output = "\n".join((done.stdout + done.stderr).splitlines()[-25:])
            raise RuntimeError(f"podman {arguments[0]} ended with {done.returncode}:\n{output}")
        return done.stdout

    def run(self, *arguments: str, options: Sequence[str] = ()) -> str:
        """Run a container to its end; return what it prints."""
        # Without root, the caller is the image's user in the container, so that files belong to the caller.
        mapped = (f"--userns=keep-id:uid={UID},gid={UID}", f"--user={UID}:{UID}")
        user = mapped if self.is_rootless else ROOT_LIMITS
        shared = ("--network=host", "--shm-size=1g", f"--volume={self.work}:/work")
        return self("run", *user, *shared, *options, self.image, *arguments)

    def start_ray(self, name: str, *arguments: str, options: Sequence[str] = ()) -> None:
        """Start a node of Ray in a container in the background."""
        self.names.append(name)
        token = "--env=RAY_AUTH_TOKEN_PATH=/work/cluster-token"
        ports = ("--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0")
        node = ("start", "--block", "--disable-usage-stats", "--num-cpus=1", *ports, *arguments)
        self.run(*node, options=("--detach", f"--name={name}", token, "--entrypoint=ray", *options))

    def wait_for_nodes(self, name: str, address: str, number: int) -> float | None:
        """Wait until a number of nodes is up; return the cluster's memory in GiB.

        Raises:
            TimeoutError: They did not come up; with what Ray printed.
        """
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with suppress(RuntimeError):
                active, memory = nodes_and_memory(self("exec", name, "ray", "status", f"--address={address}"))
                if active >= number and memory is not None:
                    return memory
            time.sleep(2)
        raise TimeoutError("\n".join(self("logs", name) for name in self.names))

    def remove_containers(self) -> None:
        """Remove the containers of Ray."""
        while self.names:
            self("rm", "--force", "--time=5", self.names.pop())

    def close(self) -> None:
        """Remove the containers, and the folder with the store."""
        self.remove_containers()
        # Without root, only `podman unshare` sees the store's mounts, and may remove files of subordinate ids.
        inside = ("podman", "unshare") if self.is_rootless else ()
        shown = subprocess.run((*inside, "cat", "/proc/mounts"), capture_output=True, text=True, check=True).stdout
        mounts = [line.split()[1] for line in shown.splitlines()]
        for mount in reversed([mount for mount in mounts if mount.startswith(f"{self.folder}/")]):
            subprocess.run((*inside, "umount", mount), check=False)
        subprocess.run((*inside, "rm", "-rf", self.folder), check=True)


def free_port() -> int:
    """Return a port that no program uses now."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def build(podman: Podman, torch: str, options: Sequence[str]) -> dict[str, Any]:
    """Make the base and build the Containerfile on it; return seconds, sizes and the programs' versions."""
    began, tar = time.monotonic(), podman.folder / "base.tar"
    make = ["mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(tar)]
    done = subprocess.run(make, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"mmdebstrap ended with {done.returncode}:\n{done.stderr[-2000:]}")
    podman("import", tar, "localhost/python-base")
    tar.unlink()
    base_seconds, began = time.monotonic() - began, time.monotonic()
    arguments = ("--build-arg=BASE=localhost/python-base", f"--build-arg=TORCH={torch}")
    podman("build", f"--file={CONTAINERFILE}", f"--tag={podman.image}", *arguments, *options, ROOT)
    sizes = {
        f"{name}_gb": round(int(podman("image", "inspect", "--format={{.Size}}", image)) / 1e9, 2)
        for name, image in (("base", "localhost/python-base"), ("image", podman.image))
    }
    return {"base_seconds": round(base_seconds), "build_seconds": round(time.monotonic() - began), **sizes}


def versions(podman: Podman) -> dict[str, Any]:
    """Ask the image for its user, settings and versions.

    Raises:
        RuntimeError: It runs as root, or a setting cannot be removed.
    """
    found, without = (
        json.loads(podman.run("-c", QUERY, options=("--rm", "--entrypoint=python", *options)))
        for options in ((), (f"--unsetenv={GPU_MEMORY_SETTING}",))
    )
    if found["uid"] != UID:
        raise RuntimeError(f"the container runs as user {found['uid']} instead of {UID}")
    if without["settings"] != {**found["settings"], GPU_MEMORY_SETTING: None}:
        raise RuntimeError(f"--unsetenv leaves {without['settings']}")
    return dict(found)


def validate(podman: Podman) -> dict[str, Any]:
    """Check a spec of the mounted folder."""
    return {"printed": podman.run("validate", SPEC, options=("--rm",)).strip()}


def launch(podman: Podman, storage: str, *options: str) -> dict[str, Any]:
    """Launch the spec of the demo; return the metrics, and whom the files belong to."""
    podman.run("launch", SPEC, "--set", f"compute.storage=/work/{storage}", *options, options=("--rm",))
    return results(podman, storage)


def results(podman: Podman, storage: str) -> dict[str, Any]:
    """Return the metrics of the only trial in a storage, and whether its files belong to the caller."""
    [file] = (podman.work / storage).glob("*/trial-*/metrics.json")
    owner = os.getuid() if podman.is_rootless else UID
    metrics = json.loads(file.read_text(encoding="utf-8"))
    return {"metrics": {name: metrics[name] for name in SHOWN}, "owned": file.stat().st_uid == owner}


def smoke(podman: Podman) -> dict[str, Any]:
    """Launch a few steps."""
    return launch(podman, "smoke", "--smoke")


def demo(podman: Podman) -> dict[str, Any]:
    """Launch as `make demo` does."""
    return launch(podman, "demo")


def ray(podman: Podman) -> dict[str, Any]:
    """Start a head and a second node, and launch with a worker on each."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    head = ("--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false")
    podman.start_ray("mmre-head", *head, f"--ray-client-server-port={free_port()}")
    podman.wait_for_nodes("mmre-head", address, 1)
    podman.start_ray("mmre-node", f"--address={address}", "--node-ip-address=127.0.0.2")
    podman.wait_for_nodes("mmre-head", address, 2)
    workers = ("--set", "compute.workers=2", "--set", "compute.storage=/work/ray")
    podman("exec", "mmre-head", "runner", "launch", SPEC, "--smoke", "--address", "auto", *workers)
    return {"nodes": 2, **results(podman, "ray")}


def memory(podman: Podman) -> dict[str, Any]:
    """Start a head in a container with a limit.

    Raises:
        RuntimeError: Ray offers more than the limit.
    """
    if podman.is_rootless and podman("info", "--format={{.Host.CgroupsVersion}}").strip() == "v1":
        return {"skipped": "without root, podman ignores limits where the machine has cgroups v1"}
    port = free_port()
    head = ("--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false")
    limit = (f"--memory={MEMORY_LIMIT_GIB}g",)
    podman.start_ray("mmre-limited", *head, f"--ray-client-server-port={free_port()}", options=limit)
    offered = podman.wait_for_nodes("mmre-limited", f"127.0.0.1:{port}", 1)
    if offered is None or offered >= MEMORY_LIMIT_GIB:
        raise RuntimeError(f"Ray offers {offered} GiB in a container of {MEMORY_LIMIT_GIB} GiB")
    return {"limit_gib": MEMORY_LIMIT_GIB, "ray_gib": offered}


def stop(podman: Podman) -> dict[str, Any]:
    """Stop a launch in its training, and launch again.

    Raises:
        RuntimeError: It ended before, or it did not save, or it trained a step twice.
    """
    name, settings = "mmre-stopped", ("--set", "trainer.epochs=1", "--set", "compute.storage=/work/stop")
    podman.names.append(name)
    podman.run("launch", SPEC, *settings, options=("--detach", f"--name={name}"))
    deadline = time.monotonic() + START_SECONDS
    while not (before := trained_steps(podman.work / "stop")):
        if time.monotonic() > deadline:
            raise TimeoutError(podman("logs", name))
        time.sleep(0.5)
    began = time.monotonic()
    podman("stop", f"--time={SAVE_SECONDS}", name)
    seconds, status = time.monotonic() - began, podman("inspect", "--format={{.State.ExitCode}}", name).strip()
    if status != str(INTERRUPTED):
        raise RuntimeError(f"the stopped launch ended with {status}\n{podman('logs', name)}")
    podman.run("launch", SPEC, *settings, options=("--rm",))
    steps = trained_steps(podman.work / "stop")
    if steps != list(range(1, len(steps) + 1)) or len(steps) <= len(before):
        raise RuntimeError(f"the steps are {steps}")
    return {"seconds_to_save": round(seconds, 1), "steps": len(steps), **results(podman, "stop")}


def trained_steps(storage: Path) -> list[int]:
    """Return the optimizer steps in the event logs of a storage, in their order."""
    lines = [line for log in storage.glob("*/trial-*/events.jsonl") for line in log.read_bytes().splitlines()]
    return [json.loads(line)["step"] for line in lines if b'"train/loss"' in line and line.endswith(b"}")]


def save(podman: Podman) -> dict[str, Any]:
    """Save the image as an archive.

    Raises:
        RuntimeError: The archive is none of the Open Container Initiative.
    """
    file = podman.folder / "mmre-runner.tar"
    podman("save", "--format=oci-archive", f"--output={file}", podman.image)
    with tarfile.open(file) as archive:
        names = archive.getnames()
    if not {"oci-layout", "index.json"} <= set(names):
        raise RuntimeError(f"the archive holds {names}")
    return {"archive_gb": round(file.stat().st_size / 1e9, 2)}


CASES: dict[str, Callable[[Podman], dict[str, Any]]] = {
    "versions": versions,
    "validate": validate,
    "smoke": smoke,
    "ray": ray,
    "memory": memory,
    "stop": stop,
    "save": save,
    "demo": demo,
}


def try_case(podman: Podman, case: Callable[[Podman], dict[str, Any]]) -> dict[str, Any]:
    """Run a case and remove its containers; a failure becomes a part of the result."""
    began = time.monotonic()
    try:
        found = case(podman)
    except (RuntimeError, TimeoutError, ValueError) as error:
        found = {"error": str(error)}
    finally:
        podman.remove_containers()
    return {"seconds": round(time.monotonic() - began), **found}


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the options; those after `--` are podman's."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--torch", default="torch", help="requirement of the build of torch")
    parser.add_argument("--image", help="an image of podman's own store, instead of a new one")
    parser.add_argument("--runtime", default="runc", help="starts containers; crun refuses cgroups v1 and v2 together")
    parsed = parser.parse_args(arguments[:end])
    parsed.build_options = arguments[end + 1 :]
    return parsed


def main() -> int:
    """Build, run the cases, and print the results."""
    options = parse_arguments(sys.argv[1:])
    programs = ["podman", options.runtime, *([] if options.image else ["mmdebstrap"])]
    if missing := [name for name in programs if not shutil.which(name)]:
        sys.exit(f"not installed: {' '.join(missing)}")
    folder = Path(tempfile.mkdtemp(prefix="container-", dir="/var/tmp"))
    store = () if options.image else (f"--root={folder}/store", f"--runroot={folder}/run", "--storage-driver=overlay")
    podman = Podman(folder, options.image or "localhost/mmre-runner", (f"--runtime={options.runtime}", *store))
    document: dict[str, Any] = {"podman": podman("--version").strip(), "rootless": podman.is_rootless, "cases": {}}
    try:
        if not options.image:
            document["build"] = try_case(podman, lambda p: build(p, options.torch, options.build_options))
        if "error" not in document.get("build", {}):
            document["cases"] = {name: try_case(podman, CASES[name]) for name in options.cases}
        print(json.dumps(document, indent=2), flush=True)
    finally:
        podman.close()
    return int(any("error" in part for part in (document.get("build", {}), *document["cases"].values())))


if __name__ == "__main__":
    sys.exit(main())
