"""Starts backends of an MLflow store: its own server, and PostgreSQL from Debian's packages."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """An MLflow server with a SQLite database that can be killed and restarted on the same port."""

    def __init__(self, folder):
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process = None

    def start(self):
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--backend-store-uri",
            f"sqlite:///{self.folder}/server.db",
        ]
        command += ["--artifacts-destination", (self.folder / "artifacts").as_uri()]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        with (self.folder / "server.log").open("ab") as log:
            environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        wait_for(f"{self.uri}/health")

    def kill(self):
        """Kill the server without any shutdown, like a power failure."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


def wait_for(address, seconds=600):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(address, timeout=5)
            return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"{address} did not answer in {seconds} s")


def postgres_programs():
    """Return the folder of the newest PostgreSQL programs as installed by Debian; None if there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: int(file.parts[-3]))
    return found[-1].parent if found else None


@contextmanager
def postgres():
    """Serve a new database `mlflow` on loopback, with the password `p%w/d`, which must be escaped in an address."""
    with tempfile.TemporaryDirectory() as folder:
        yield from _served(Path(folder))


def _served(folder):
    programs = postgres_programs()
    if programs is None:
        pytest.skip("needs Debian's package postgresql")
    # It refuses to run as root: another user runs it, who must get into the folder.
    user = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 and _has_user("postgres") else {}
    if os.getuid() == 0 and not user:
        pytest.skip("root cannot run PostgreSQL, and there is no user postgres")
    home = folder / "postgres"
    home.mkdir()
    (home / "password").write_text("p%w/d")
    if user:
        for path in (home, home / "password"):
            shutil.chown(path, "postgres", "postgres")
        folder.chmod(0o711)
    data, port = home / "data", free_port()
    options = ["--username=ann", "--auth=scram-sha-256", f"--pwfile={home / 'password'}", "--no-sync", "-E", "UTF8"]
    subprocess.run([programs / "initdb", "-D", data, *options], check=True, capture_output=True, cwd=home, **user)
    settings = [f"port={port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"]
    command = [programs / "postgres", "-D", data, *(part for setting in settings for part in ("-c", setting))]
    with (folder / "postgres.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=home, **user)
    try:
        _create_database(programs, port)
        yield f"postgresql://ann@127.0.0.1:{port}/mlflow"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(600)


def _create_database(programs, port):
    command = [programs / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "ann", "mlflow"]
    deadline = time.monotonic() + 600
    while True:
        environment = {**os.environ, "PGPASSWORD": "p%w/d"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        if time.monotonic() > deadline:
            pytest.fail(done.stderr)
        time.sleep(0.3)


def _has_user(name):
    try:
        return bool(pwd.getpwnam(name))
    except KeyError:
        return False
